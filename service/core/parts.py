"""Parts of submissions: what a PUT has to bring, and how it becomes durable: part, then row, then answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from he_agg.errors import Reason
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import PartPlace
from he_agg.protocol.wire import parse_part
from service.core.conductor import Conductor
from service.core.find import expiring, federation_named, find_round, own_submission, round_closed
from service.domain.events import Phase
from service.failpoints import failpoint
from service.refusal import RefusedError
from service.store.base import Store, Transaction
from service.store.batch import Batch
from service.store.parts.base import PartKey, PartStore
from service.store.rows import PartRow, RoundRow, SubmissionRow
from service.work.ahead import Ahead
from service.work.folding import Member

__all__ = ["ExpectedPart", "Parts", "in_groups"]

_GROUP_BYTES = 4 * 2**20
"""So much of one body is checked and stored at a time: what is interrupted is sent again from there."""


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


def in_groups(parts: Sequence[ExpectedPart]) -> list[list[ExpectedPart]]:
    """Cut consecutive parts into groups that are in memory together: one long part, or several short ones."""
    groups: list[list[ExpectedPart]] = []
    room = 0
    for part in parts:
        if part.place.wire_bytes > room:
            groups.append([])
            room = _GROUP_BYTES
        groups[-1].append(part)
        room -= part.place.wire_bytes
    return groups


class Parts:
    """Takes parts in.

    Args:
        ahead: makes parts of the sum as soon as they can be made.
    """

    def __init__(self, store: Store, part_store: PartStore, conductor: Conductor, ahead: Ahead | None = None) -> None:
        self._store = store
        self._part_store = part_store
        self._conductor = conductor
        self._ahead = ahead
        self._marks = Batch(store, self.mark)

    def expect(self, federation: str, site: str, submission_id: str, number: int) -> ExpectedPart:
        """Say what a PUT of a part has to bring, before it is read.

        Raises:
            RefusedError: no such submission or part, or the round is closed.
        """
        with self._conductor.reading(federation) as tx:
            plan = federation_named(tx, federation).parsed.plan
            submission = own_submission(tx, federation, site, submission_id)
            _check_number(submission, plan, number)
            row = tx.part(submission.id, number)
            (part,) = self._expect(tx, submission, plan, [plan.places[number]], [] if row is None else [row])
            return part

    def expect_from(self, federation: str, site: str, submission_id: str, first: int) -> tuple[ExpectedPart, ...]:
        """Check all parts from one of them on, as `expect` does.

        Raises:
            RefusedError: no such submission or part, or the round is closed.
        """
        with self._conductor.reading(federation) as tx:
            plan = federation_named(tx, federation).parsed.plan
            submission = own_submission(tx, federation, site, submission_id)
            _check_number(submission, plan, first)
            return self._expect(tx, submission, plan, plan.places[first:], tx.parts(submission.id))

    def store(self, part: ExpectedPart, data: bytes | memoryview) -> bool:
        """Check a part whose digest is the announced one, and make it durable.

        Raises:
            WireError: not the part that the plan puts there.
            RefusedError: the round closed in the meantime.
        """
        (new,) = self.store_all([(part, data)])
        return new

    def store_all(self, parts: Sequence[tuple[ExpectedPart, bytes | memoryview]]) -> list[bool]:
        """Store parts of one submission, decided in one transaction."""
        self.write(parts)
        stored = [part for part, _ in parts]
        return self.settle(stored, self._marks.run(stored))

    def write(self, parts: Sequence[tuple[ExpectedPart, bytes | memoryview]]) -> None:
        """Check parts of one submission and keep them. They are not stored before `mark`.

        Raises:
            WireError: not the parts that the plan puts there.
        """
        for part, data in parts:
            parse_part(data, part.place, part.plan.plan_id)
        failpoint("part.checked")
        self._part_store.put_all([(_key(part), data) for part, data in parts])

    def mark(self, tx: Transaction, parts: Sequence[ExpectedPart]) -> list[bool | RefusedError]:
        """Decide whether parts of one submission that are in the part store are stored.

        Returns:
            Of each whether that is new, or why not.
        """
        round_, current = _now(tx, parts[0].submission)
        return [self._mark(tx, round_, current, part) for part in parts]

    def settle(self, parts: Sequence[ExpectedPart], outcomes: Sequence[bool | RefusedError]) -> list[bool]:
        """Do what follows from `mark`, once that is durable.

        Raises:
            RefusedError: the first refusal.
        """
        refusals = []
        for part, outcome in zip(parts, outcomes, strict=True):
            submission, key = part.submission, _key(part)
            if not isinstance(outcome, RefusedError):
                if self._ahead is not None:
                    member = Member(submission.site, key, part.digest)
                    self._ahead.stored(part.plan, submission.round_id, part.place, member)
                continue
            if outcome.reason is Reason.ROUND_CLOSED:
                # No row names it, and none ever will: nobody wants it any more.
                self._part_store.delete(key)
            refusals.append(outcome)
        if refusals:
            raise refusals[0]
        return [outcome is True for outcome in outcomes]

    def _expect(
        self,
        tx: Transaction,
        submission: SubmissionRow,
        plan: PublicPlan,
        places: Sequence[PartPlace],
        rows: Sequence[PartRow],
    ) -> tuple[ExpectedPart, ...]:
        known = {row.number: row for row in rows}
        # Without rows the round is over and the parts are gone; what the answer was is still known.
        announced = [] if known else _announced(tx.manifest(submission.id))
        round_ = find_round(tx, submission.round_id.federation, str(submission.round_id))
        expected = []
        for place in places:
            row = known.get(place.number)
            digest = announced[place.number] if row is None else row.digest
            stored = submission.state == "complete" if row is None else row.stored
            if not stored:
                if not self._wants(tx, round_, submission, row):
                    raise round_closed(round_)
                if submission.state == "expiring":
                    raise expiring(submission)
            expected.append(ExpectedPart(submission, place, plan, digest, stored))
        return tuple(expected)

    def _mark(
        self, tx: Transaction, round_: RoundRow, current: SubmissionRow, part: ExpectedPart
    ) -> bool | RefusedError:
        number = part.place.number
        row = tx.part(current.id, number)
        if row is not None and row.stored:
            return False  # another connection was faster, with the same bytes
        if row is None or not self._wants(tx, round_, current, row):
            return round_closed(round_)
        # Between our putting it and now the upload may have expired, and our part been removed with the others.
        # It is left alone here: by the time it were removed, it could be that of a later request.
        if current.state == "expiring" or self._part_store.size(_key(part)) != part.place.wire_bytes:
            return expiring(current)
        failpoint("part.before_row")
        tx.mark_stored(current.id, number, int(self._conductor.now()))
        return True

    def _wants(self, tx: Transaction, row: RoundRow, submission: SubmissionRow, part: PartRow | None) -> bool:
        """Tell whether a missing part may come now: in an open round, or because the store has damaged it."""
        damaged = part is not None and part.damaged_at is not None and submission.state == "complete"
        takes = self._conductor.takes(tx, row)
        return takes or (damaged and row.phase in (Phase.CLOSED, Phase.FOLDING))


def _key(part: ExpectedPart) -> PartKey:
    return PartKey(part.submission.round_id, part.submission.id, part.place.number)


def _now(tx: Transaction, submission: SubmissionRow) -> tuple[RoundRow, SubmissionRow]:
    """Read the round of a submission and the submission, as they are by now."""
    round_ = find_round(tx, submission.round_id.federation, str(submission.round_id))
    return round_, tx.submission(submission.id) or submission


def _check_number(submission: SubmissionRow, plan: PublicPlan, number: int) -> None:
    if not 0 <= number < len(plan.places):
        raise RefusedError(
            Reason.UNKNOWN_PART,
            f"submission {submission.id[:12]}: expected a part number from 0 to {len(plan.places) - 1}, "
            f"got {min(number, 10**9)}",
        )


def _announced(manifest: bytes) -> list[str]:
    # Read leniently: it was checked when it came, and one from before there were signatures is its own body.
    document = json.loads(manifest)
    digests: list[str] = document.get("body", document)["parts"]
    return digests
