"""Read and write submissions and their parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, select, update

from he_agg.ids import RoundId
from service.domain.events import Phase
from service.domain.submissions import AWAITED, State
from service.store.new_submissions import NewSubmissions
from service.store.queries import Queries, as_row, columns_of
from service.store.rows import DamagedPart, PartRow, SubmissionRow
from service.store.schema import dealings, federations, parts, rounds, submissions
from service.store.statements import Prepared

__all__ = ["SUBMISSIONS", "SubmissionRows", "submission_from"]

SUBMISSIONS = select(*columns_of(submissions, SubmissionRow))
_SUBMISSION = Prepared(SUBMISSIONS.where(submissions.c.id == bindparam("id")))
_OF_ROUND = submissions.c.round_id == bindparam("round_id")
_SUBMISSION_OF = Prepared(SUBMISSIONS.where(_OF_ROUND, submissions.c.site == bindparam("site")))
_SUBMISSION_OF_OR = Prepared(
    SUBMISSIONS.where((_OF_ROUND & (submissions.c.site == bindparam("site"))) | (submissions.c.id == bindparam("id")))
)
_SUBMISSIONS_TO = Prepared(SUBMISSIONS.where(_OF_ROUND).order_by(submissions.c.id))
_EXPIRING = Prepared(SUBMISSIONS.where(submissions.c.state == State.EXPIRING.value))
_COMPLETE = _OF_ROUND & (submissions.c.state == State.COMPLETE.value)
_COMPLETED = Prepared(select(submissions.c.site).where(_COMPLETE))
_MANIFEST = Prepared(select(submissions.c.manifest).where(submissions.c.id == bindparam("id")))
_MANIFESTS = Prepared(select(submissions.c.site, submissions.c.manifest).where(_COMPLETE))
_HOLDING = select(parts.c.submission_id).where(parts.c.stored).scalar_subquery()
_OPEN_ROUNDS = select(rounds.c.id).where(rounds.c.phase == Phase.OPEN.value).scalar_subquery()
_IDLE = Prepared(
    SUBMISSIONS.where(submissions.c.state == State.OPEN.value, submissions.c.active_at < bindparam("before"))
    .where(submissions.c.round_id.in_(_OPEN_ROUNDS), submissions.c.id.in_(_HOLDING))
    .order_by(submissions.c.id)
)
_IN_THE_STORE = (
    select(func.count())
    .select_from(submissions.join(rounds, rounds.c.id == submissions.c.round_id))
    .where(rounds.c.federation == bindparam("federation"), ~rounds.c.scrubbed)
)
_KEPT_FOR_AUDIT = select(federations.c.name).where(federations.c.keep_submissions).scalar_subquery()
_BEHIND_A_SUM = rounds.c.phase.in_([Phase.PUBLISHED.value, Phase.REJECTED.value])
_STORED = Prepared(_IN_THE_STORE)
_COUNTING = _IN_THE_STORE.where(~_BEHIND_A_SUM | rounds.c.federation.in_(_KEPT_FOR_AUDIT))
_COUNTED = Prepared(_COUNTING)
_COUNTED_OF_SITE = Prepared(_COUNTING.where(submissions.c.site == bindparam("site")))
_OF_ID = submissions.c.id == bindparam("this_id")
_MOVING = update(submissions).where(_OF_ID).values(state=bindparam("state"))
_MOVE_SUBMISSION = Prepared(_MOVING)
_ACCEPT_SUBMISSION = Prepared(_MOVING.values(accepted_at=bindparam("at")))
_ADD_MANIFEST = Prepared(
    update(submissions).where(_OF_ID).values(digest=bindparam("digest"), manifest=bindparam("bytes"))
)
_TOUCH = Prepared(update(submissions).where(_OF_ID).values(active_at=bindparam("at")))

_OF_SUBMISSION = select(*columns_of(parts, PartRow)).where(parts.c.submission_id == bindparam("submission_id"))
_PARTS = Prepared(_OF_SUBMISSION)
_PART = Prepared(_OF_SUBMISSION.where(parts.c.number == bindparam("number")))
_MISSING = Prepared(
    select(parts.c.number)
    .where(parts.c.submission_id == bindparam("submission_id"), ~parts.c.stored)
    .order_by(parts.c.number)
)
_AWAITED = Prepared(
    select(rounds.c.federation, func.count().label("parts"))
    .select_from(
        parts.join(submissions, submissions.c.id == parts.c.submission_id).join(
            rounds, rounds.c.id == submissions.c.round_id
        )
    )
    .where(submissions.c.state.in_([state.value for state in AWAITED]), ~parts.c.stored)
    .group_by(rounds.c.federation)
)
_MARK_STORED = Prepared(
    update(parts)
    .where(parts.c.submission_id == bindparam("this_submission"), parts.c.number == bindparam("this_number"))
    .values(stored=True, damaged_at=None, digest=bindparam("this_digest"))
)
_DIGESTS_OF_PART = Prepared(
    select(submissions.c.id, submissions.c.site, parts.c.digest)
    .join(parts, parts.c.submission_id == submissions.c.id)
    .where(_COMPLETE, parts.c.number == bindparam("number"))
    .order_by(submissions.c.id)
)
_DAMAGED = Prepared(
    select(submissions.c.id, submissions.c.site, parts.c.number, parts.c.damaged_at)
    .join(parts, parts.c.submission_id == submissions.c.id)
    .where(_COMPLETE, parts.c.damaged_at.is_not(None))
    .order_by(parts.c.damaged_at, submissions.c.id, parts.c.number)
)
_AWAITED_PARTS = ("awaited parts",)


class SubmissionRows(Queries):
    """What a transaction reads and writes about submissions."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._new = NewSubmissions()

    def write_down(self) -> None:
        """See `Queries`."""
        self._new.write(self._connection)

    def submission(self, submission_id: str) -> SubmissionRow | None:
        """Return one submission."""
        key = ("submission", submission_id)
        return self._once(key, lambda: self._know(self._first(submission_from, _SUBMISSION, id=submission_id)))

    def submission_of(self, round_id: RoundId, site: str) -> SubmissionRow | None:
        """Return the submission of one site to one attempt."""

        def find() -> SubmissionRow | None:
            return self._know(self._first(submission_from, _SUBMISSION_OF, round_id=str(round_id), site=site))

        return self._once(("submission of", str(round_id), site), find)

    def look_for(self, submission_id: str, round_id: RoundId, site: str) -> None:
        """Read at once what `submission` and `submission_of` will be asked for."""
        keys = ("submission", submission_id), ("submission of", str(round_id), site)
        known = [key in self._found for key in keys]
        if not all(known):
            values = {"id": submission_id, "round_id": str(round_id), "site": site}
            # What is not written yet is known: then it is neither of these.
            run = self._run if any(known) else self._run_now
            rows = run(_SUBMISSION_OF_OR, values).all()
            self._found |= dict.fromkeys(keys)
            for row in rows:
                self._know(submission_from(row))

    def _know(self, row: SubmissionRow | None) -> SubmissionRow | None:
        if row is not None:
            self._found["submission", row.id] = self._found["submission of", str(row.round_id), row.site] = row
        return row

    def _renew(self, submission_id: str, **changed: Any) -> None:
        row: SubmissionRow | None = self._found.get(("submission", submission_id))
        if row is not None:
            self._know(replace(row, **changed))

    def submissions(self, round_id: RoundId) -> list[SubmissionRow]:
        """Return all submissions to one attempt, by id."""
        return self._all(submission_from, _SUBMISSIONS_TO, round_id=str(round_id))

    def completed(self, round_id: RoundId) -> frozenset[str]:
        """Return the sites whose submission to one attempt is complete."""

        def find() -> frozenset[str]:
            written = self._run_now(_COMPLETED, {"round_id": str(round_id)}).all()
            return frozenset({str(row.site) for row in written} | self._new.completed(round_id))

        return self._once(("completed", str(round_id)), find)

    def manifest(self, submission_id: str) -> bytes:
        """Return the bytes of the signed manifest that was accepted."""
        return bytes(self._run(_MANIFEST, {"id": submission_id}).scalar_one())

    def manifests(self, round_id: RoundId) -> list[bytes]:
        """Return the signed manifests of all complete submissions, by site."""
        found = self._run(_MANIFESTS, {"round_id": str(round_id)}).all()
        return [bytes(row.manifest) for row in sorted(found, key=lambda row: row.site)]

    def add_submission(self, row: SubmissionRow, parts_: int, at: int) -> None:
        """Write a new submission, of which so many parts are awaited."""
        self._new.add(row, parts_, at)
        self._know(row)
        self._await(row.round_id.federation, parts_)
        self._found["parts", row.id] = [PartRow(row.id, n, None, False) for n in range(parts_)]

    def remove_submission(self, submission_id: str) -> None:
        """Forget a submission whose manifest was never accepted."""
        for table in (parts, dealings):
            self._run(delete(table).where(table.c.submission_id == submission_id))
        self._run(delete(submissions).where(submissions.c.id == submission_id))
        self._found.clear()

    def add_manifest(self, submission_id: str, digest: str, manifest: bytes) -> None:
        """Write the manifest that is accepted for a submission."""
        if submission_id in self._new:
            self._new.set(submission_id, digest=digest, manifest=manifest)
        else:
            self._run(_ADD_MANIFEST, {"this_id": submission_id, "digest": digest, "bytes": manifest})
        self._renew(submission_id, digest=digest)

    def move_submission(self, submission_id: str, state: State, accepted_at: int | None = None) -> None:
        """Put a submission into another state, and note when it was accepted, if that is now."""
        values = {"this_id": submission_id, "state": state.value}
        if accepted_at is None:
            self._change(_MOVE_SUBMISSION, values)
            return
        if submission_id in self._new:
            self._new.set(submission_id, state=state.value, accepted_at=accepted_at)
        else:
            self._run(_ACCEPT_SUBMISSION, values | {"at": accepted_at})
        self._renew(submission_id, state=state, accepted_at=accepted_at)
        row: SubmissionRow | None = self._found.get(("submission", submission_id))
        known: list[PartRow] | None = self._found.get(("parts", submission_id))
        if known is None or not all(part.stored for part in known):
            self._found.pop(_AWAITED_PARTS, None)
        for key in [key for key in self._found if key[0] == "completed"]:
            if row is None or state is not State.COMPLETE:
                del self._found[key]
            elif key[1] == str(row.round_id):
                self._found[key] |= {row.site}

    def unmark_parts(self, submission_id: str) -> None:
        """Note that no part of a submission is stored."""
        self._change(update(parts).where(parts.c.submission_id == submission_id).values(stored=False, digest=None))

    def drop_parts(self, submission_id: str, numbers: Iterable[int]) -> None:
        """Note that these parts are not stored, so that others may come in their place."""
        these = (parts.c.submission_id == submission_id) & parts.c.number.in_(numbers)
        self._change(update(parts).where(these).values(stored=False, digest=None))

    def expiring(self) -> list[SubmissionRow]:
        """Return submissions whose parts are being removed."""
        return self._all(submission_from, _EXPIRING)

    def idle(self, before: int) -> list[SubmissionRow]:
        """Return open submissions of open rounds that hold parts and have not got one since `before`."""
        return self._all(submission_from, _IDLE, before=before)

    def stored_submissions(self, federation: str) -> int:
        """Return how many submissions the disk holds or has to hold parts of."""
        return int(self._run(_STORED, {"federation": federation}).scalar_one())

    def counted_submissions(self, federation: str, site: str | None = None) -> int:
        """Return how many submissions, of one site or of all, count for quotas: all but those behind a sum.

        Those behind a sum do if they are kept for audit.
        """
        if site is None:
            found = self._run(_COUNTED, {"federation": federation})
        else:
            found = self._run(_COUNTED_OF_SITE, {"federation": federation, "site": site})
        return int(found.scalar_one())

    def count_submissions(self) -> dict[tuple[str, State], int]:
        """Return how many submissions are in which state, by federation and state."""
        columns = (rounds.c.federation, submissions.c.state)
        query = select(*columns, func.count().label("submissions")).group_by(*columns)
        found = self._run(query.select_from(submissions.join(rounds, rounds.c.id == submissions.c.round_id)))
        return {(row.federation, State(row.state)): row.submissions for row in found}

    def awaited_parts(self) -> dict[str, int]:
        """Return how many parts of open submissions are not stored, by federation."""
        return self._once(_AWAITED_PARTS, lambda: {row.federation: row.parts for row in self._run(_AWAITED)})

    def _await(self, federation: str, change: int) -> None:
        known: dict[str, int] | None = self._found.get(_AWAITED_PARTS)
        if known is not None:
            self._found[_AWAITED_PARTS] = known | {federation: known.get(federation, 0) + change}

    def part(self, submission_id: str, number: int) -> PartRow | None:
        """Return one part; None when there is none or the round is scrubbed."""
        return self._first(as_row(PartRow), _PART, submission_id=submission_id, number=number)

    def parts(self, submission_id: str) -> list[PartRow]:
        """Return all parts, in no order; none when the round is scrubbed."""
        key = ("parts", submission_id)
        return self._once(key, lambda: self._all(as_row(PartRow), _PARTS, submission_id=submission_id))

    def missing(self, submission_id: str) -> list[int]:
        """Return numbers of parts that are not stored."""
        return self._all(lambda row: int(row.number), _MISSING, submission_id=submission_id)

    def digests_of_part(self, round_id: RoundId, number: int) -> list[tuple[str, str, str]]:
        """Return (submission id, site, digest) of part `number` of every complete submission, by submission id."""
        found = self._run(_DIGESTS_OF_PART, {"round_id": str(round_id), "number": number})
        return [(row.id, row.site, row.digest) for row in found]

    def mark_stored(self, submission_id: str, digests: Mapping[int, str], at: int) -> None:
        """Note that the files of parts, by number, are durable, and what they hold."""
        if submission_id in self._new:
            self._new.store_parts(submission_id, digests)
            self._new.set(submission_id, active_at=at)
        else:
            these = [
                {"this_submission": submission_id, "this_number": number, "this_digest": digest}
                for number, digest in digests.items()
            ]
            self._run(_MARK_STORED, these)
            self._run(_TOUCH, {"this_id": submission_id, "at": at})
        known: list[PartRow] | None = self._found.get(("parts", submission_id))
        row: SubmissionRow | None = self._found.get(("submission", submission_id))
        if row is None or known is None:
            self._found.pop(_AWAITED_PARTS, None)
        elif row.state in AWAITED:
            came = sum(part.number in digests and not part.stored for part in known)
            self._await(row.round_id.federation, -came)
        if known is not None:
            self._found["parts", submission_id] = [
                row if row.number not in digests else PartRow(row.submission_id, row.number, digests[row.number], True)
                for row in known
            ]

    def mark_damaged(self, submission_id: str, number: int, at: int) -> None:
        """Note that a part's file is not what it was, so that the part is missing again."""
        this = (parts.c.submission_id == submission_id) & (parts.c.number == number)
        self._change(update(parts).where(this).values(stored=False, damaged_at=at))

    def damaged(self, round_id: RoundId) -> list[DamagedPart]:
        """Return parts of the closed set that are missing again."""
        return self._all(as_row(DamagedPart), _DAMAGED, round_id=str(round_id))


def submission_from(row: Row[Any]) -> SubmissionRow:
    """Make a row of `SUBMISSIONS`."""
    return SubmissionRow(row.id, RoundId.parse(row.round_id), row.site, State(row.state), row.accepted_at, row.digest)
