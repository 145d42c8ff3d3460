"""Take submissions in: announced by a manifest, filled part by part, completed once. No HTTP in here.

Order of every write: part, then row, then answer. Every method may be called again with the same arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from he_agg.documents.manifest import Manifest, SignedManifest
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError
from he_agg.plan.plan import PublicPlan
from he_agg.protocol.messages import Receipt, SubmissionStatus
from he_agg.protocol.wire import refuse_secrets
from service.core.conductor import Conductor
from service.core.find import federation_named, find_round, own_submission, round_closed
from service.core.parts import Parts, Run
from service.core.quotas import Room
from service.core.roster_cache import newest_roster
from service.domain import events
from service.failpoints import failpoint
from service.refusal import RefusedError
from service.store.base import Store, Transaction
from service.store.batch import Batch
from service.store.rows import RoundRow, SubmissionRow

__all__ = ["Intake"]

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class _Announcement:
    """A manifest that was read and whose signature was verified."""

    submission: SubmissionRow
    plan: PublicPlan
    manifest: Manifest
    body: bytes


class _Completion(NamedTuple):
    """A submission that was decided on: accepted, or too late."""

    submission: SubmissionRow
    row: RoundRow
    signer: str


def _refusing(decide: Callable[[Transaction, Item], Outcome]) -> Callable[[Transaction, Item], Outcome | RefusedError]:
    """Return refusals: raised they would undo everybody else's decisions."""

    def decided(tx: Transaction, item: Item) -> Outcome | RefusedError:
        try:
            return decide(tx, item)
        except RefusedError as refusal:
            return refusal

    return decided


class Intake:
    """Takes submissions in."""

    def __init__(self, store: Store, conductor: Conductor, room: Room, parts: Parts) -> None:
        self._conductor = conductor
        self._announcements = Batch(store, _refusing(self._announce))
        self._ends = Batch(store, self._mark_and_complete)
        self._room = room
        self._parts = parts

    def announce(self, federation: str, site: str, round_id: str, body: bytes) -> tuple[SubmissionStatus, bool]:
        """Take a signed manifest.

        Raises:
            WireError: not a manifest, one for something else, or not signed by its site.
            RefusedError: there is no such round, the site is not invited, the round is closed, the site has announced
                another submission or uses another roster or history, or there is no room.
        """
        # Looked at twice: what may be answered without the one writer, and in the transaction that decides.
        with self._conductor.reading(federation) as tx:
            new = self._read_announcement(tx, _invited_round(tx, federation, site, round_id), site, body)
            known = self._known_announcement(tx, new)
        if known is not None:
            return known, False
        outcome = self._announcements.run(new)
        if isinstance(outcome, RefusedError):
            raise outcome
        return outcome

    def _read_announcement(self, tx: Transaction, row: RoundRow, site: str, body: bytes) -> _Announcement:
        try:
            signed = SignedManifest.parse(body)
        except WireError:
            refuse_secrets(body)
            raise
        plan, roster = federation_named(tx, row.id.federation).parsed.plan, newest_roster(tx, row.id.federation)
        signed.manifest.check(plan, row.id, row.basis.epoch, row.basis.key_id, site)
        member = roster.roster.members.get(site)
        signed.check_signed(b"" if member is None else member.public_key)
        submission = SubmissionRow(signed.submission_id, row.id, site, "open", None)
        return _Announcement(submission, plan, signed.manifest, body)

    def _announce(self, tx: Transaction, new: _Announcement) -> tuple[SubmissionStatus, bool]:
        known = self._known_announcement(tx, new)
        if known is not None:
            return known, False
        submission = new.submission
        self._room.check(tx, federation_named(tx, submission.round_id.federation), submission.site)
        tx.add_submission(submission, new.body, new.manifest.part_digests, int(self._conductor.now()))
        return _status(tx, submission, new.plan), True

    def _known_announcement(self, tx: Transaction, new: _Announcement) -> SubmissionStatus | None:
        """Find the submission if it was announced before; None if it may be now.

        Raises:
            RefusedError: it may not.
        """
        submission, round_id, site = new.submission, new.submission.round_id, new.submission.site
        row = find_round(tx, round_id.federation, str(round_id))
        existing = tx.submission_of(round_id, site)
        if existing is not None and existing.id == submission.id:
            return _status(tx, existing, new.plan)
        if not self._conductor.takes(tx, row):
            raise round_closed(row)
        if existing is not None:
            raise RefusedError(
                Reason.SECOND_SUBMISSION,
                f"site {site} has already submitted {existing.id[:12]} to round {round_id}; "
                f"the first one stays, {submission.id[:12]} was not taken",
                "continue the first submission from its spool; never encrypt again for the same round",
                round_id=str(round_id),
                submission_id=existing.id,
            )
        self._check_history(tx, row, new.manifest)
        return None

    def _check_history(self, tx: Transaction, row: RoundRow, manifest: Manifest) -> None:
        """Check that a site has the same roster and the same records as everybody else."""
        if manifest.roster not in (row.basis.roster, newest_roster(tx, row.id.federation).digest):
            raise RefusedError(
                Reason.ROSTER_MISMATCH,
                f"manifest, roster: expected {row.basis.roster[:12]}, version {row.basis.roster_version}, "
                f"got {manifest.roster[:12]}",
                "fetch the newest roster: GET /v1/federations/{federation}/rosters/newest",
            )
        # No record is written while the round is open, so this is the one before it.
        head = tx.chain_head(row.id.federation)
        if manifest.previous != head.digest:
            raise RefusedError(
                Reason.CHAIN_MISMATCH,
                f"manifest, previous: expected record {head.index}, {head.digest[:12]}, got {manifest.previous[:12]}",
                "fetch the records that are missing: GET /v1/federations/{federation}/records/{index}. If this site "
                "has seen another record there, two histories are being told: stop, and ask the coordinator",
                round_id=str(row.id),
            )

    def status(self, federation: str, site: str, submission_id: str) -> SubmissionStatus:
        """Tell how far a submission has come.

        Raises:
            RefusedError: this site has no such submission.
        """
        with self._conductor.reading(federation) as tx:
            plan = federation_named(tx, federation).parsed.plan
            return _status(tx, own_submission(tx, federation, site, submission_id), plan)

    def take(self, run: Run, body: memoryview) -> Signed | None:
        """Take parts of a submission, one after another in a body. The end of a submission completes it.

        All in one transaction: that the parts are stored, and whether the submission is in.

        Returns:
            The receipt, if they reach the submission's end: the same bytes each time, for nothing in it is new, and
            Ed25519 has no randomness.

        Raises:
            WireError: not the parts that the plan puts there.
            RefusedError: not the parts that the manifest names, the round closed before, or parts before these are
                missing.
        """
        new, data = _split(run, body)
        if not run.reaches_end:
            if new.parts:
                self._parts.store_all(new, data)
            return None
        if new.parts:
            self._parts.write(new, data)
        refusals, completion = self._ends.run(new)
        self._parts.settle(new, refusals)
        return self._receipt(completion)

    def _mark_and_complete(
        self, tx: Transaction, run: Run
    ) -> tuple[list[RefusedError | None], _Completion | RefusedError]:
        refusals = self._parts.mark(tx, run)
        refused = next((refusal for refusal in refusals if refusal is not None), None)
        return refusals, refused or _refusing(self._complete)(tx, run.submission)

    def _receipt(self, completion: _Completion | RefusedError) -> Signed:
        if isinstance(completion, RefusedError):
            raise completion
        submission, row, signer = completion
        if submission.accepted_at is None:
            raise round_closed(row)
        receipt = Receipt(submission.id, str(submission.round_id), submission.site, submission.accepted_at)
        return Signed.make("receipt", receipt.encode(), signer, self._conductor.key.signing_key)

    def _complete(self, tx: Transaction, announced: SubmissionRow) -> _Completion:
        federation, site, submission_id = announced.round_id.federation, announced.site, announced.id
        self._conductor.tick_in(tx, federation)
        submission = own_submission(tx, federation, site, submission_id)
        if submission.state in ("open", "expiring"):
            row = find_round(tx, federation, str(submission.round_id))
            missing = tx.missing(submission_id)
            if missing and self._conductor.takes(tx, row):
                raise RefusedError(
                    Reason.INCOMPLETE,
                    f"submission {submission_id[:12]}: {len(missing)} part(s) are not here yet",
                    "put the missing parts, then the end of the submission again",
                    round_id=str(row.id),
                    submission_id=submission_id,
                    missing=missing,
                )
            if not missing:
                failpoint("completion.before_row")
                event = events.Completed(row.id.number, row.id.attempt, site)
                self._conductor.apply_in(tx, federation, event)
                submission = own_submission(tx, federation, site, submission_id)
        row = find_round(tx, federation, str(submission.round_id))
        return _Completion(submission, row, self._conductor.signer(tx, federation, row.basis.roster_version)[0])


def _split(run: Run, body: memoryview) -> tuple[Run, list[memoryview]]:
    """Parts that are not stored yet, and their bytes. Those that are have to be the announced ones as well."""
    new, bodies, begin = [], [], 0
    for part in run.parts:
        data = body[begin : begin + part.place.wire_bytes]
        begin += part.place.wire_bytes
        if (digest := hashlib.sha256(data).hexdigest()) != part.digest:
            refuse_secrets(data)
            raise RefusedError(
                Reason.BAD_DIGEST,
                f"part {part.place.number}: expected SHA-256 {part.digest[:12]} as in the manifest, got {digest[:12]}",
                "send the bytes that the manifest was made of",
            )
        if not part.stored:
            new.append(part)
            bodies.append(data)
    return replace(run, parts=tuple(new)), bodies


def _invited_round(tx: Transaction, federation: str, site: str, round_id: str) -> RoundRow:
    """Find the round that a site wants to submit to, if it may."""
    row = find_round(tx, federation, round_id)
    if site not in tx.invited(row.id):
        raise RefusedError(
            Reason.NOT_INVITED,
            f"site {site} is not invited to round {row.id}",
            "sites take part from the first round that opens after they were added to the roster",
            round_id=str(row.id),
        )
    return row


def _status(tx: Transaction, row: SubmissionRow, plan: PublicPlan) -> SubmissionStatus:
    # What expires is open for whoever asks: all of it is missing. Of a complete one nothing is, but for damaged parts.
    state = "open" if row.state == "expiring" else row.state
    return SubmissionStatus(row.id, str(row.round_id), state, len(plan.places), tx.missing(row.id))
