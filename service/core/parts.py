"""Parts of submissions: what a PUT has to bring, and how it becomes durable: part, then row, then answer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

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

__all__ = ["ExpectedPart", "Parts", "Run"]

_GROUP_BYTES = 4 * 2**20
"""So much of one body is checked and stored at a time: what is interrupted is sent again from there."""


@dataclass(frozen=True)
class ExpectedPart:
    """A part that a body has to bring.

    Attributes:
        place: which part it is.
        digest: SHA-256 that the manifest names, in hex.
        stored: whether it is here already.
    """

    place: PartPlace
    digest: str
    stored: bool


@dataclass(frozen=True)
class Run:
    """Consecutive parts of a submission, to come one after another in a body; none, if it begins behind the last one.

    Attributes:
        submission: whose they are.
        plan: the plan.
        parts: in order.
    """

    submission: SubmissionRow
    plan: PublicPlan
    parts: tuple[ExpectedPart, ...]

    @property
    def wire_bytes(self) -> int:
        """How long the body is. Units: bytes."""
        return sum(part.place.wire_bytes for part in self.parts)

    @property
    def reaches_end(self) -> bool:
        """Whether no part of the submission comes after these."""
        return not self.parts or self.parts[-1].place.number + 1 == len(self.plan.places)

    def cut(self, length: int) -> Run:
        """Keep as many of these parts as a body of this length holds.

        Raises:
            RefusedError: the body does not end where a part does.
        """
        ends = list(itertools.accumulate(part.place.wire_bytes for part in self.parts))
        if not ends and not length:
            return self
        if length not in ends:
            expected = f"{ends[0]} to {ends[-1]}" if ends else "0"
            raise RefusedError(Reason.TRUNCATED, f"expected whole parts, {expected} bytes, got {length} announced")
        return replace(self, parts=self.parts[: ends.index(length) + 1])

    def groups(self) -> list[Run]:
        """Cut them into groups that are in memory together: one long part or several short ones, and never no group."""
        groups: list[list[ExpectedPart]] = []
        room = 0
        for part in self.parts:
            if part.place.wire_bytes > room:
                groups.append([])
                room = _GROUP_BYTES
            groups[-1].append(part)
            room -= part.place.wire_bytes
        return [replace(self, parts=tuple(group)) for group in groups] or [self]


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

    def expect(self, federation: str, site: str, submission_id: str, first: int) -> Run:
        """Say what a PUT may bring, before it is read: all parts from one on.

        Raises:
            RefusedError: no such submission or part, or the round is closed.
        """
        with self._conductor.reading(federation) as tx:
            plan = federation_named(tx, federation).parsed.plan
            submission = own_submission(tx, federation, site, submission_id)
            if not 0 <= first <= len(plan.places):
                raise RefusedError(
                    Reason.UNKNOWN_PART,
                    f"submission {submission.id[:12]}: expected a part number from 0 to {len(plan.places)}, "
                    f"got {max(-1, min(first, 10**9))}",
                )
            return Run(submission, plan, self._expect(tx, submission, plan.places[first:], tx.parts(submission.id)))

    def store_all(self, run: Run, data: Sequence[memoryview]) -> None:
        """Check parts and make them durable, decided in one transaction.

        Raises:
            WireError: not the parts that the plan puts there.
        """
        self.write(run, data)
        self.settle(run, self._marks.run(run))

    def write(self, run: Run, data: Sequence[memoryview]) -> None:
        """Check parts and write their files. They are not stored before `mark`.

        Raises:
            WireError: not the parts that the plan puts there.
            RefusedError: the round closed in the meantime.
        """
        for part, body in zip(run.parts, data, strict=True):
            parse_part(body, part.place, run.plan.plan_id)
        failpoint("part.checked")
        self._part_store.put_all([(_key(run, part), body) for part, body in zip(run.parts, data, strict=True)])

    def mark(self, tx: Transaction, run: Run) -> list[RefusedError | None]:
        """Decide whether parts that are in the part store are stored.

        Returns:
            Of each why it is not, or None.
        """
        round_, current = _now(tx, run.submission)
        return [self._mark(tx, round_, current, run, part) for part in run.parts]

    def settle(self, run: Run, refusals: Sequence[RefusedError | None]) -> None:
        """Do what follows from `mark`, once that is durable.

        Raises:
            RefusedError: the first refusal.
        """
        submission = run.submission
        for part, refusal in zip(run.parts, refusals, strict=True):
            key = _key(run, part)
            if refusal is None:
                if self._ahead is not None:
                    member = Member(submission.site, key, part.digest)
                    self._ahead.stored(run.plan, submission.round_id, part.place, member)
            elif refusal.reason is Reason.ROUND_CLOSED:
                # No row names it, and none ever will: nobody wants it any more.
                self._part_store.delete(key)
        for refusal in refusals:
            if refusal is not None:
                raise refusal

    def _expect(
        self,
        tx: Transaction,
        submission: SubmissionRow,
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
            expected.append(ExpectedPart(place, digest, stored))
        return tuple(expected)

    def _mark(
        self, tx: Transaction, round_: RoundRow, current: SubmissionRow, run: Run, part: ExpectedPart
    ) -> RefusedError | None:
        number = part.place.number
        row = tx.part(current.id, number)
        if row is not None and row.stored:
            return None  # another connection was faster, with the same bytes
        if row is None or not self._wants(tx, round_, current, row):
            return round_closed(round_)
        # Between our putting it and now the upload may have expired, and our part been removed with the others.
        # It is left alone here: by the time it were removed, it could be that of a later request.
        if current.state == "expiring" or self._part_store.size(_key(run, part)) != part.place.wire_bytes:
            return expiring(current)
        failpoint("part.before_row")
        tx.mark_stored(current.id, number, int(self._conductor.now()))
        return None

    def _wants(self, tx: Transaction, row: RoundRow, submission: SubmissionRow, part: PartRow | None) -> bool:
        """Tell whether a missing part may come now: in an open round, or because the store has damaged it."""
        damaged = part is not None and part.damaged_at is not None and submission.state == "complete"
        takes = self._conductor.takes(tx, row)
        return takes or (damaged and row.phase in (Phase.CLOSED, Phase.FOLDING))


def _key(run: Run, part: ExpectedPart) -> PartKey:
    return PartKey(run.submission.round_id, run.submission.id, part.place.number)


def _now(tx: Transaction, submission: SubmissionRow) -> tuple[RoundRow, SubmissionRow]:
    """Read the round of a submission and the submission, as they are by now."""
    round_ = find_round(tx, submission.round_id.federation, str(submission.round_id))
    return round_, tx.submission(submission.id) or submission


def _announced(manifest: bytes) -> list[str]:
    # Read leniently: it was checked when it came, and one from before there were signatures is its own body.
    document = json.loads(manifest)
    digests: list[str] = document.get("body", document)["parts"]
    return digests
