"""Dealings come in: one belongs to each submission where one-time keys are split, and is durable before the answer."""

from __future__ import annotations

from dataclasses import dataclass

from he_agg.documents.sharing import HolderList
from he_agg.errors import Reason
from he_agg.protocol.wire import refuse_secrets
from he_agg.sharing.dealing import Dealing
from service.core.conductor import Conductor
from service.core.find import find_round
from service.core.holder_lists import list_of
from service.core.submissions.shared import own_submission, round_closed
from service.domain.submissions import State
from service.refusal import RefusedError
from service.store.batch import Batch
from service.store.rows import SubmissionRow
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["Dealings", "ExpectedDealing"]


@dataclass(frozen=True)
class ExpectedDealing:
    """What a body has to be: the dealing that a manifest names, for the holders of its round."""

    submission: SubmissionRow
    holders: HolderList

    @property
    def wire_bytes(self) -> int:
        """How long the body is. Units: bytes."""
        return self.holders.holders.dealing_bytes


class Dealings:
    """Takes dealings in."""

    def __init__(self, store: Store, conductor: Conductor) -> None:
        self._conductor = conductor
        self._decisions = Batch(store, self._decide)

    def expect(self, federation: str, site: str, submission_id: str) -> ExpectedDealing:
        """Say what a PUT has to bring, before it is read.

        Raises:
            RefusedError: there is no such submission, nothing is dealt with it, or its round takes nothing more.
        """
        with self._conductor.reading(federation) as tx:
            submission = own_submission(tx, federation, site, submission_id)
            row = find_round(tx, federation, str(submission.round_id))
            holders = list_of(tx, row)
            if holders is None:
                raise RefusedError(
                    Reason.PLAN_MISMATCH, f"submission {submission.id[:12]}: its plan's keys are shared, not dealt"
                )
            if not self._is_here(tx, submission) and not self._conductor.takes(tx, row):
                raise round_closed(row)
        return ExpectedDealing(submission, holders)

    def take(self, expected: ExpectedDealing, body: bytes) -> bool:
        """Take a dealing; False if the same one was here.

        Raises:
            WireError: no dealing for these holders.
            RefusedError: not the one that the manifest names, or the round has closed before.
        """
        dealing = Dealing.parse(body, expected.holders.holders)
        if dealing.digest != expected.submission.dealing:
            refuse_secrets(body)
            raise RefusedError(
                Reason.BAD_DIGEST,
                f"dealing of submission {expected.submission.id[:12]}: expected digest "
                f"{str(expected.submission.dealing)[:12]} as in the manifest, got {dealing.digest[:12]}",
                "send the dealing that the manifest was made with",
            )
        outcome = self._decisions.run((expected.submission, body))
        if isinstance(outcome, RefusedError):
            raise outcome
        return outcome

    def _decide(self, tx: Transaction, what: tuple[SubmissionRow, bytes]) -> bool | RefusedError:
        announced, body = what
        submission = tx.submission(announced.id) or announced
        row = find_round(tx, submission.round_id.federation, str(submission.round_id))
        if self._is_here(tx, submission):
            return False
        if not self._conductor.takes(tx, row):
            return round_closed(row)  # raised it would undo everybody else's decisions
        tx.add_dealing(submission.id, body)
        return True

    def _is_here(self, tx: Transaction, submission: SubmissionRow) -> bool:
        # That of a complete submission was, even if it has been removed since.
        return submission.state is State.COMPLETE or tx.has_dealing(submission.id)
