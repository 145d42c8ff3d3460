"""What becomes of submissions: announced by a manifest, filled part by part, completed once. No HTTP in here.

Order of every write: file, then row, then answer. Every method may be called again with the same arguments.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from he_agg.canonical import check_hex
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId
from he_agg.manifest import Manifest, SignedManifest
from he_agg.messages import Receipt, SubmissionStatus
from he_agg.plan import PublicPlan
from he_agg.sections import PartPlace
from he_agg.signed import Signed
from he_agg.wire import parse_part, refuse_secrets
from service import events
from service.ahead import Ahead
from service.conductor import Conductor
from service.events import Phase
from service.failpoints import failpoint
from service.known import newest_roster
from service.refusal import RefusedError
from service.room import Room
from service.store.base import FederationRow, PartRow, RoundRow, Store, SubmissionRow, Transaction
from service.store.batch import Batch
from service.store.blobs import Blobs

__all__ = ["ExpectedPart", "Intake", "find_round"]

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class ExpectedPart:
    """What a PUT of a part has to bring.

    Attributes:
        submission: which submission it belongs to.
        place: which part it is.
        plan: the plan.
        digest: SHA-256 that the manifest names, in hex.
        stored: whether it is here already.
    """

    submission: SubmissionRow
    place: PartPlace
    plan: PublicPlan
    digest: str
    stored: bool


@dataclass(frozen=True)
class _Announcement:
    """A manifest that was read and whose signature was verified."""

    submission: SubmissionRow
    plan: PublicPlan
    manifest: Manifest
    body: bytes


def _refusing(decide: Callable[[Transaction, Item], Outcome]) -> Callable[[Transaction, Item], Outcome | RefusedError]:
    """Return refusals, which come before anything is written: raised they would undo everybody else's decisions."""

    def decided(tx: Transaction, item: Item) -> Outcome | RefusedError:
        try:
            return decide(tx, item)
        except RefusedError as refusal:
            return refusal

    return decided


class Intake:
    """Takes submissions in.

    Args:
        store: rows.
        blobs: files.
        conductor: the one writer of rounds.
        room: knows whether there is any.
        ahead: makes parts of the sum as soon as they can be made.
    """

    def __init__(
        self, store: Store, blobs: Blobs, conductor: Conductor, room: Room, ahead: Ahead | None = None
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._conductor = conductor
        self._announcements = Batch(store, _refusing(self._announce))
        self._marks = Batch(store, self._mark_stored)
        self._completions = Batch(store, _refusing(self._complete))
        self._room = room
        self._ahead = ahead

    def check_invited(self, federation: str, site: str, round_id: str) -> RoundId:
        """Find the round that a site wants to submit to.

        Raises:
            RefusedError: there is none such, or the site is not invited.
        """
        with self._conductor.reading(federation) as tx:
            row = find_round(tx, federation, round_id)
            if site not in tx.invited(row.id):
                raise RefusedError(
                    Reason.NOT_INVITED,
                    f"site {site} is not invited to round {row.id}",
                    "sites take part from the first round that opens after they were added to the roster",
                    round_id=str(row.id),
                )
            return row.id

    def announce(self, federation: str, site: str, round_id: RoundId, body: bytes) -> tuple[SubmissionStatus, bool]:
        """Take a signed manifest.

        Returns:
            The submission, and whether it is new.

        Raises:
            WireError: not a manifest, one for something else, or not signed by its site.
            RefusedError: the round is closed, the site has announced another submission or goes by another roster or
                history, or there is no room.
        """
        with self._store.read() as tx:
            plan, row = self._federation_in(tx, federation).parsed.plan, find_round(tx, federation, str(round_id))
            roster = newest_roster(tx, federation)
        try:
            signed = SignedManifest.parse(body)
        except WireError:
            refuse_secrets(body)
            raise
        manifest = signed.manifest
        manifest.check(plan, round_id, row.basis.epoch, row.basis.key_id, site)
        member = None if roster is None else roster.roster.members.get(site)
        signed.check_signed(b"" if member is None else member.public_key)
        submission = SubmissionRow(signed.submission_id, round_id, site, "open", None)
        new = _Announcement(submission, plan, manifest, body)
        # Looked at twice: before there is a directory, and in the one transaction that decides.
        with self._store.read() as tx:
            known = self._known_announcement(tx, new)
        if known is not None:
            return known, False
        # The directory before the row: parts may come as soon as the row is there.
        path = self._blobs.part_path(round_id, submission.id, 0)
        self._blobs.make_parent(path)
        failpoint("announcement.directory_made")
        outcome = self._announcements.run(new)
        if isinstance(outcome, RefusedError):
            self._blobs.remove_parent(path)
            raise outcome
        return outcome

    def _announce(self, tx: Transaction, new: _Announcement) -> tuple[SubmissionStatus, bool]:
        known = self._known_announcement(tx, new)
        if known is not None:
            return known, False
        submission = new.submission
        tx.add_submission(submission, new.body, new.manifest.part_digests, int(self._conductor.now()))
        return _status(tx, submission, new.plan), True

    def _known_announcement(self, tx: Transaction, new: _Announcement) -> SubmissionStatus | None:
        """The submission if it was announced before, None if it may be now.

        Raises:
            RefusedError: it may not.
        """
        submission, round_id, site = new.submission, new.submission.round_id, new.submission.site
        row = find_round(tx, round_id.federation, str(round_id))
        existing = tx.submission_of(round_id, site)
        if existing is not None and existing.id == submission.id:
            return _status(tx, existing, new.plan)
        if not self._takes(tx, row):
            raise _closed(row)
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
        self._room.check(tx, self._federation_in(tx, round_id.federation), site)
        return None

    def _check_history(self, tx: Transaction, row: RoundRow, manifest: Manifest) -> None:
        """See that a site goes by the same roster and the same records as everybody else."""
        newest = newest_roster(tx, row.id.federation)
        if manifest.roster != row.basis.roster and (newest is None or manifest.roster != newest.digest):
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
        """How far a submission has come.

        Raises:
            RefusedError: this site has no such submission.
        """
        with self._conductor.reading(federation) as tx:
            plan = self._federation_in(tx, federation).parsed.plan
            return _status(tx, _own(tx, federation, site, submission_id), plan)

    def expect_part(self, federation: str, site: str, submission_id: str, number: int) -> ExpectedPart:
        """Say what a PUT of a part has to bring, before it is read.

        Raises:
            RefusedError: no such submission or part, or the round is closed.
        """
        with self._conductor.reading(federation) as tx:
            plan = self._federation_in(tx, federation).parsed.plan
            submission = _own(tx, federation, site, submission_id)
            if not 0 <= number < len(plan.places):
                raise RefusedError(
                    Reason.UNKNOWN_PART,
                    f"submission {submission_id[:12]}: expected a part number from 0 to {len(plan.places) - 1}, "
                    f"got {min(number, 10**9)}",
                )
            row = tx.part(submission_id, number)
            if row is not None:
                digest, stored = row.digest, row.stored
            else:  # the round is over and the parts are gone; what the answer was is still known
                digest = _announced(tx.manifest(submission_id), number)
                stored = submission.state == "complete"
            if not stored:
                round_ = find_round(tx, federation, str(submission.round_id))
                if not self._wants(tx, round_, submission, row):
                    raise _closed(round_)
                if submission.state == "expiring":
                    raise _expiring(submission)
            return ExpectedPart(submission, plan.places[number], plan, digest, stored)

    def store_part(self, part: ExpectedPart, data: bytes | memoryview) -> bool:
        """Check a part whose digest is the announced one, and make it durable.

        Returns:
            Whether it is new.

        Raises:
            WireError: not the part that the plan puts there.
            RefusedError: the round closed in the meantime.
        """
        number, submission = part.place.number, part.submission
        parse_part(data, part.place, part.plan.plan_id)
        failpoint("part.checked")
        path = self._blobs.part_path(submission.round_id, submission.id, number)
        try:
            self._blobs.put(path, data)
        except FileNotFoundError:
            # The round has ended while the body came in, and its submissions are being removed. Or the directory was
            # lost, with whatever was in it, and the part is to come again.
            with self._store.read() as tx:
                round_ = find_round(tx, submission.round_id.federation, str(submission.round_id))
                current = tx.submission(submission.id) or submission
                if not self._wants(tx, round_, current, tx.part(submission.id, number)):
                    raise _closed(round_) from None
            self._blobs.make_parent(path)
            self._blobs.put(path, data)
        outcome = self._marks.run(part)
        if isinstance(outcome, bool):
            if self._ahead is not None:
                member = (submission.site, submission.id, path, part.digest)
                self._ahead.stored(part.plan, submission.round_id, part.place, member)
            return outcome
        if outcome.reason is Reason.ROUND_CLOSED:
            # No row names the file, and none ever will: nobody wants it any more.
            self._blobs.remove(path)
        raise outcome

    def _mark_stored(self, tx: Transaction, part: ExpectedPart) -> bool | RefusedError:
        """Decide whether a part that is on the disk is stored; whether that is new, or why not."""
        number, submission = part.place.number, part.submission
        round_ = find_round(tx, submission.round_id.federation, str(submission.round_id))
        current = tx.submission(submission.id) or submission
        row = tx.part(submission.id, number)
        if row is not None and row.stored:
            return False  # another connection was faster, with the same bytes
        if row is None or not self._wants(tx, round_, current, row):
            return _closed(round_)
        # Between our writing and now the upload may have expired, and our file been removed with the others.
        # The file is left alone here: by the time it were removed, it could be that of a later request.
        path = self._blobs.part_path(submission.round_id, submission.id, number)
        if current.state == "expiring" or not self._blobs.is_there(path, part.place.wire_bytes):
            return _expiring(submission)
        failpoint("part.before_row")
        tx.mark_stored(submission.id, number, int(self._conductor.now()))
        return True

    def complete(self, federation: str, site: str, submission_id: str) -> Signed:
        """Decide, in one transaction, whether a submission is in.

        Returns:
            The receipt, the same bytes each time: nothing in it is new, and Ed25519 has no randomness.

        Raises:
            RefusedError: parts are missing, or the round closed before.
        """
        self._conductor.tick(federation)
        outcome = self._completions.run((federation, site, submission_id))
        if isinstance(outcome, RefusedError):
            raise outcome
        submission, row, signer = outcome
        if submission.accepted_at is None:
            raise _closed(row)
        receipt = Receipt(submission.id, str(submission.round_id), site, submission.accepted_at)
        return Signed.make("receipt", receipt.encode(), signer, self._conductor.key.signing_key)

    def _complete(self, tx: Transaction, what: tuple[str, str, str]) -> tuple[SubmissionRow, RoundRow, str]:
        federation, site, submission_id = what
        submission = _own(tx, federation, site, submission_id)
        if submission.state in ("open", "expiring"):
            row = find_round(tx, federation, str(submission.round_id))
            missing = tx.missing(submission_id)
            if missing and self._takes(tx, row):
                raise RefusedError(
                    Reason.INCOMPLETE,
                    f"submission {submission_id[:12]}: {len(missing)} part(s) are not here yet",
                    "put the missing parts, then complete again",
                    round_id=str(row.id),
                    submission_id=submission_id,
                    missing=missing,
                )
            if not missing:
                failpoint("completion.before_row")
                event = events.Completed(row.id.number, row.id.attempt, site)
                self._conductor.apply_in(tx, federation, event)
                submission = _own(tx, federation, site, submission_id)
        row = find_round(tx, federation, str(submission.round_id))
        return submission, row, self._conductor.signer(tx, federation, row.basis.roster_version)[0]

    def _federation_in(self, tx: Transaction, name: str) -> FederationRow:
        row = tx.federation(name)
        if row is None:
            raise RefusedError(Reason.UNKNOWN_FEDERATION, f"there is no federation {name} here")
        return row

    def _takes(self, tx: Transaction, row: RoundRow) -> bool:
        federation = tx.federation(row.id.federation)
        return federation is not None and self._conductor.takes(federation, row)

    def _wants(self, tx: Transaction, row: RoundRow, submission: SubmissionRow, part: PartRow | None) -> bool:
        """Whether a part that is missing may come now: in an open round, or because the store has damaged it."""
        damaged = part is not None and part.damaged_at is not None and submission.state == "complete"
        return self._takes(tx, row) or (damaged and row.phase in (Phase.CLOSED, Phase.FOLDING))


def find_round(tx: Transaction, federation: str, text: str) -> RoundRow:
    """The round that an address names, if it is one of the caller's federation.

    Raises:
        RefusedError: it is not, whether or not another federation has it.
    """
    try:
        round_id = RoundId.parse(text)
    except WireError:
        raise RefusedError(
            Reason.UNKNOWN_ROUND, "expected a round id like 'federation.3.1', got another form"
        ) from None
    row = tx.round(round_id) if round_id.federation == federation else None
    if row is None:
        raise RefusedError(Reason.UNKNOWN_ROUND, f"there is no round {round_id} in federation {federation}")
    return row


def _announced(manifest: bytes, number: int) -> str:
    # Read leniently: it was checked when it came, and one from before there were signatures is its own body.
    document = json.loads(manifest)
    digest: str = document.get("body", document)["parts"][number]
    return digest


def _own(tx: Transaction, federation: str, site: str, submission_id: str) -> SubmissionRow:
    try:
        check_hex(submission_id, 32, "submission id")
    except WireError as error:
        raise RefusedError(Reason.UNKNOWN_SUBMISSION, error.message) from None
    row = tx.submission(submission_id)
    if row is None or row.site != site or row.round_id.federation != federation:
        raise RefusedError(
            Reason.UNKNOWN_SUBMISSION,
            f"site {site} has no submission {submission_id[:12]}",
            "announce it first: POST its manifest to /v1/rounds/{round}/submissions",
        )
    return row


def _status(tx: Transaction, row: SubmissionRow, plan: PublicPlan) -> SubmissionStatus:
    # What expires is open for whoever asks: all of it is missing. Of a complete one nothing is, but for damaged parts.
    state = "open" if row.state == "expiring" else row.state
    return SubmissionStatus(row.id, str(row.round_id), state, len(plan.places), tx.missing(row.id))


def _expiring(row: SubmissionRow) -> RefusedError:
    return RefusedError(
        Reason.BUSY,
        f"submission {row.id[:12]} was abandoned and its parts are being removed",
        "send it again in a moment, from the first part",
        submission_id=row.id,
    )


def _closed(row: RoundRow) -> RefusedError:
    members: dict[str, Any] = {"round_id": str(row.id)}
    if row.record is not None:
        members["record"] = json.loads(row.record)
    return RefusedError(
        Reason.ROUND_CLOSED,
        f"round {row.id} is {'closed' if row.phase is Phase.OPEN else row.phase} and takes no more submissions",
        "go on with the next round",
        **members,
    )
