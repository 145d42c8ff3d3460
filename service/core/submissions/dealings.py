"""Dealings come in: one belongs to each submission where one-time keys are split, and is durable before the answer."""

from __future__ import annotations

from dataclasses import dataclass

from he_agg.documents.manifest import Manifest
from he_agg.documents.sharing import HolderList
from he_agg.documents.signed import Signed
from he_agg.errors import Reason
from he_agg.protocol.wire import refuse_secrets
from he_agg.sharing.dealing import Dealing
from service.core.conductor import Conductor
from service.core.find import find_round
from service.core.holder_lists import list_of
from service.core.submissions.admit import Admissions
from service.core.submissions.shared import round_closed
from service.refusal import RefusedError
from service.store.batch import Batch
from service.store.rows import SubmissionRow
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["Dealings", "ExpectedDealing"]


@dataclass(frozen=True)
class ExpectedDealing:
    """What a body has to be: a dealing for the holders of its round.

    Attributes:
        digest: of the only one that will do, once a manifest was accepted; None before.
    """

    submission: SubmissionRow
    holders: HolderList
    digest: str | None

    @property
    def wire_bytes(self) -> int:
        """How long the body is. Units: bytes."""
        return self.holders.holders.dealing_bytes


class Dealings:
    """Takes dealings in."""

    def __init__(self, store: Store, conductor: Conductor, admissions: Admissions) -> None:
        self._conductor = conductor
        self._admissions = admissions
        self._decisions = Batch(store, self._decide)

    def expect(self, federation: str, site: str, round_id: str, upload: str) -> ExpectedDealing:
        """Say what a PUT has to bring, before it is read.

        Raises:
            RefusedError: the site may not submit, nothing is dealt with it, or its round takes nothing more.
        """
        with self._admissions.looking(federation) as tx:
            row = find_round(tx, federation, round_id)
            holders = list_of(tx, row)
            if holders is None:
                raise RefusedError(Reason.PLAN_MISMATCH, f"upload {upload[:12]}: the plan's keys are shared, not dealt")
            submission, _ = self._admissions.admit(tx, row, site, upload)
            if submission.digest is not None:
                dealt = Signed.parse(Manifest, tx.manifest(submission.id)).body.dealing
                return ExpectedDealing(submission, holders, dealt)
            if tx.dealing_digest(submission.id) is None and not self._conductor.takes(tx, row):
                raise round_closed(row)
        return ExpectedDealing(submission, holders, None)

    def take(self, expected: ExpectedDealing, body: bytes) -> bool:
        """Take a dealing; False if the same one was here.

        Raises:
            WireError: no dealing for these holders.
            RefusedError: not the one that the manifest names, or the round has closed before.
        """
        dealing = Dealing.parse(body, expected.holders.holders)
        if expected.digest is not None:
            if dealing.digest == expected.digest:
                return False
            refuse_secrets(body)
            raise RefusedError(
                Reason.BAD_DIGEST,
                f"dealing of upload {expected.submission.id[:12]}: expected digest "
                f"{expected.digest[:12]} as in the manifest, got {dealing.digest[:12]}",
                "send the dealing that the manifest was made with",
            )
        outcome = self._decisions.run((expected.submission, dealing.digest, body))
        if isinstance(outcome, RefusedError):
            raise outcome
        new, replaced = outcome
        self._admissions.gone(replaced)
        return new

    def _decide(
        self, tx: Transaction, what: tuple[SubmissionRow, str, bytes]
    ) -> tuple[bool, SubmissionRow | None] | RefusedError:
        sent, digest, body = what
        try:
            submission, replaced = self._admissions.begin(tx, sent)
        except RefusedError as refusal:  # raised it would undo everybody else's decisions
            return refusal
        known = tx.dealing_digest(submission.id)
        if known == digest:
            return False, None
        row = find_round(tx, submission.round_id.federation, str(submission.round_id))
        if submission.digest is not None or not self._conductor.takes(tx, row):
            return round_closed(row)
        tx.drop_dealing(submission.id)
        tx.add_dealing(submission.id, digest, body)
        return True, replaced
