"""`Transaction` in SQL: one method, one statement or two. What they mean is said in base.py.

What every request asks for is in statements.py; and of what a transaction has read of federations, rosters and rounds
it asks once, until it changes one of them itself: nobody else can while it lasts.
"""

# ruff: noqa: D102 - base.py says it

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Executable, Row, Select, delete, func, insert, select, update

from he_agg.documents.record import NO_RECORD
from he_agg.ids import RoundId
from service.domain.events import Phase, Round, Stage
from service.domain.submissions import State
from service.store import statements as sql
from service.store.rows import (
    Basis,
    ChainHead,
    DamagedPart,
    EpochRow,
    FederationRow,
    Keeping,
    LeaseRow,
    PartRow,
    RosterRow,
    RoundRow,
    SubmissionRow,
)
from service.store.schema import (
    commitments,
    epochs,
    federations,
    invitations,
    leases,
    meta,
    parts,
    rosters,
    rounds,
    submissions,
    sum_parts,
)

__all__ = ["SqlTransaction"]

Found = TypeVar("Found")


class SqlTransaction:
    """Reads and writes on one connection, between BEGIN and COMMIT."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._found: dict[tuple[str, ...], Any] = {}

    def _one(self, query: Select[Any], **values: Any) -> Row[Any] | None:
        return self._connection.execute(query, values).first()

    def _all(self, query: Select[Any], **values: Any) -> list[Row[Any]]:
        return list(self._connection.execute(query, values).all())

    def _once(self, key: tuple[str, ...], find: Callable[[], Found]) -> Found:
        if key not in self._found:
            self._found[key] = find()
        found: Found = self._found[key]
        return found

    def _change(self, statement: Executable, values: Any = None) -> CursorResult[Any]:
        """Write to federations, rosters or rounds."""
        self._found.clear()
        return self._connection.execute(statement, values)

    # federations

    def federation(self, name: str) -> FederationRow | None:
        def find() -> FederationRow | None:
            row = self._one(sql.FEDERATION, name=name)
            return None if row is None else _federation(row)

        return self._once(("federation", name), find)

    def federations(self) -> list[FederationRow]:
        return [_federation(row) for row in self._all(sql.FEDERATIONS.order_by(federations.c.name))]

    def add_federation(self, row: FederationRow) -> None:
        self._change(
            insert(federations).values(
                name=row.name,
                document=row.document,
                stage=row.stage.value,
                created_at=row.created_at,
                paused_at=row.paused_at,
                sample_fraction=row.keeping.sample_fraction,
                keep_sums=row.keeping.keep_sums,
                keep_submissions=row.keeping.keep_submissions,
            )
        )

    def set_stage(self, name: str, stage: Stage) -> None:
        self._change(update(federations).where(federations.c.name == name).values(stage=stage.value))

    def set_paused(self, name: str, at: int | None) -> None:
        self._change(update(federations).where(federations.c.name == name).values(paused_at=at))

    # rosters, epochs and commitments

    def newest_roster(self, federation: str) -> RosterRow:
        def find() -> RosterRow:
            row = self._connection.execute(sql.NEWEST_ROSTER, {"federation": federation}).one()
            return RosterRow(row.federation, row.version, row.digest)

        return self._once(("newest roster", federation), find)

    def roster(self, federation: str, version: int) -> RosterRow | None:
        def find() -> RosterRow | None:
            row = self._one(sql.ROSTER, federation=federation, version=version)
            return None if row is None else RosterRow(row.federation, row.version, row.digest)

        return self._once(("roster", federation, str(version)), find)

    def roster_document(self, federation: str, version: int) -> bytes:
        this = (rosters.c.federation == federation) & (rosters.c.version == version)
        return bytes(self._connection.execute(select(rosters.c.document).where(this)).scalar_one())

    def roster_versions(self, federation: str) -> list[int]:
        query = select(rosters.c.version).where(rosters.c.federation == federation).order_by(rosters.c.version)
        return [row.version for row in self._all(query)]

    def add_roster(self, row: RosterRow, document: bytes, at: int) -> None:
        values = {"federation": row.federation, "version": row.version, "digest": row.digest}
        self._change(insert(rosters).values(**values, document=document, stored_at=at))

    def newest_epoch(self, federation: str) -> EpochRow:
        row = self._connection.execute(sql.NEWEST_EPOCH, {"federation": federation}).one()
        return EpochRow(row.federation, row.number, row.key_id)

    def epoch(self, federation: str, number: int) -> EpochRow | None:
        row = self._one(sql.EPOCHS.where(epochs.c.federation == federation, epochs.c.number == number))
        return None if row is None else EpochRow(row.federation, row.number, row.key_id)

    def bundle(self, federation: str, number: int) -> bytes | None:
        this = (epochs.c.federation == federation) & (epochs.c.number == number)
        bundle = self._connection.execute(select(epochs.c.bundle).where(this)).scalar()
        return None if bundle is None else bytes(bundle)

    def add_epoch(self, row: EpochRow, bundle: bytes | None, at: int) -> None:
        values = {"federation": row.federation, "number": row.number, "key_id": row.key_id}
        self._connection.execute(insert(epochs).values(**values, bundle=bundle, stored_at=at))

    def set_bundle(self, federation: str, number: int, bundle: bytes) -> None:
        this = (epochs.c.federation == federation) & (epochs.c.number == number)
        self._connection.execute(update(epochs).where(this).values(bundle=bundle))

    def commitment(self, federation: str, epoch: int, site: str) -> bytes | None:
        this = (commitments.c.federation == federation) & (commitments.c.epoch == epoch) & (commitments.c.site == site)
        document = self._connection.execute(select(commitments.c.document).where(this)).scalar()
        return None if document is None else bytes(document)

    def commitments(self, federation: str, epoch: int) -> list[bytes]:
        these = (commitments.c.federation == federation) & (commitments.c.epoch == epoch)
        found = self._all(select(commitments.c.site, commitments.c.document).where(these))
        # Not sorted by the database, whose language may have its own order.
        return [bytes(row.document) for row in sorted(found, key=lambda row: row.site)]

    def add_commitment(self, federation: str, epoch: int, site: str, document: bytes, at: int) -> None:
        values = {"federation": federation, "epoch": epoch, "site": site}
        self._connection.execute(insert(commitments).values(**values, document=document, stored_at=at))

    # rounds

    def round(self, round_id: RoundId) -> RoundRow | None:
        def find() -> RoundRow | None:
            row = self._one(sql.ROUND, id=str(round_id))
            return None if row is None else _round(row)

        return self._once(("round", str(round_id)), find)

    def newest_round(self, federation: str) -> RoundRow | None:
        def find() -> RoundRow | None:
            row = self._one(sql.NEWEST_ROUND, federation=federation)
            return None if row is None else self._once(("round", row.id), lambda: _round(row))

        return self._once(("newest round", federation), find)

    def last_published(self, federation: str) -> RoundId | None:
        of_it = (rounds.c.federation == federation) & (rounds.c.phase == Phase.PUBLISHED.value)
        row = self._one(select(rounds.c.id).where(of_it).order_by(rounds.c.number.desc()).limit(1))
        return None if row is None else RoundId.parse(row.id)

    def rounds_in(self, phases: Collection[Phase]) -> list[RoundRow]:
        query = sql.ROUNDS.where(rounds.c.phase.in_([phase.value for phase in phases])).order_by(rounds.c.id)
        return [_round(row) for row in self._all(query)]

    def unscrubbed(self) -> list[RoundRow]:
        keeping = select(federations.c.name).where(federations.c.keep_submissions).scalar_subquery()
        done = (rounds.c.phase == Phase.PUBLISHED.value) & rounds.c.federation.not_in(keeping)
        these = ~rounds.c.scrubbed & ((rounds.c.phase == Phase.FAILED.value) | done)
        return [_round(row) for row in self._all(sql.ROUNDS.where(these).order_by(rounds.c.id))]

    def invited(self, round_id: RoundId) -> frozenset[str]:
        def find() -> frozenset[str]:
            return frozenset(row.site for row in self._all(sql.INVITED, round_id=str(round_id)))

        return self._once(("invited", str(round_id)), find)

    def open_round(self, round_id: RoundId, state: Round, basis: Basis) -> None:
        self._change(
            insert(rounds).values(
                id=str(round_id),
                federation=round_id.federation,
                number=round_id.number,
                attempt=round_id.attempt,
                phase=state.phase.value,
                opened_at=state.opened_at,
                deadline_at=state.deadline_at,
                scrubbed=False,
                sample_seed=state.sample_seed,
                sum_scrubbed=False,
                epoch=basis.epoch,
                key_id=basis.key_id,
                roster=basis.roster,
                roster_version=basis.roster_version,
            )
        )
        invited = [{"round_id": str(round_id), "site": site} for site in sorted(state.invited)]
        if invited:
            self._change(insert(invitations), invited)

    def close_round(self, round_id: RoundId, at: int) -> None:
        values = {"phase": Phase.CLOSED.value, "closed_at": at}
        self._change(update(rounds).where(rounds.c.id == str(round_id)).values(**values))

    def set_phase(self, round_id: RoundId, phase: Phase) -> None:
        self._change(update(rounds).where(rounds.c.id == str(round_id)).values(phase=phase.value))

    def end_round(self, round_id: RoundId, phase: Phase, record: bytes, head: ChainHead, at: int) -> None:
        values = {"phase": phase.value, "record": record, "record_digest": head.digest, "chain_index": head.index}
        self._change(update(rounds).where(rounds.c.id == str(round_id)).values(**values, ended_at=at))

    def chain_head(self, federation: str) -> ChainHead:
        def find() -> ChainHead:
            row = self._one(sql.CHAIN_HEAD, federation=federation)
            return ChainHead(0, NO_RECORD) if row is None else ChainHead(row.chain_index, row.record_digest)

        return self._once(("chain head", federation), find)

    def record_at(self, federation: str, index: int) -> RoundRow | None:
        row = self._one(sql.ROUNDS.where(rounds.c.federation == federation, rounds.c.chain_index == index))
        return None if row is None else _round(row)

    def move_deadline(self, round_id: RoundId, deadline_at: int) -> None:
        self._change(update(rounds).where(rounds.c.id == str(round_id)).values(deadline_at=deadline_at))

    def recent_rounds(self, federation: str, limit: int) -> list[RoundRow]:
        these = (rounds.c.federation == federation) & rounds.c.chain_index.is_not(None)
        query = sql.ROUNDS.where(these).order_by(rounds.c.chain_index.desc()).limit(limit)
        return [_round(row) for row in self._all(query)]

    def count_rounds(self) -> dict[tuple[str, Phase], int]:
        columns = (rounds.c.federation, rounds.c.phase)
        found = self._all(select(*columns, func.count().label("rounds")).group_by(*columns))
        return {(row.federation, Phase(row.phase)): row.rounds for row in found}

    def count_submissions(self) -> dict[tuple[str, State], int]:
        columns = (rounds.c.federation, submissions.c.state)
        query = select(*columns, func.count().label("submissions")).group_by(*columns)
        found = self._all(query.select_from(submissions.join(rounds, rounds.c.id == submissions.c.round_id)))
        return {(row.federation, State(row.state)): row.submissions for row in found}

    def kept_sums(self, federation: str) -> list[RoundRow]:
        return [_round(row) for row in self._all(sql.KEPT_SUMS, federation=federation)]

    def scrub_sum(self, round_id: RoundId) -> None:
        self._change(update(rounds).where(rounds.c.id == str(round_id)).values(sum_scrubbed=True))

    def sums_to_remove(self) -> list[RoundId]:
        named = select(sum_parts.c.round_id).scalar_subquery()
        query = select(rounds.c.id).where(rounds.c.sum_scrubbed, rounds.c.id.in_(named)).order_by(rounds.c.id)
        return [RoundId.parse(row.id) for row in self._all(query)]

    def forget_sum(self, round_id: RoundId) -> None:
        self._connection.execute(delete(sum_parts).where(sum_parts.c.round_id == str(round_id)))

    def scrub(self, round_id: RoundId) -> None:
        mine = select(submissions.c.id).where(submissions.c.round_id == str(round_id)).scalar_subquery()
        self._connection.execute(delete(parts).where(parts.c.submission_id.in_(mine)))
        failed = select(rounds.c.id).where(rounds.c.id == str(round_id), rounds.c.phase == Phase.FAILED.value)
        self._connection.execute(delete(sum_parts).where(sum_parts.c.round_id.in_(failed.scalar_subquery())))
        self._change(update(rounds).where(rounds.c.id == str(round_id)).values(scrubbed=True))

    # submissions

    def submission(self, submission_id: str) -> SubmissionRow | None:
        row = self._one(sql.SUBMISSION, id=submission_id)
        return None if row is None else _submission(row)

    def submission_of(self, round_id: RoundId, site: str) -> SubmissionRow | None:
        row = self._one(sql.SUBMISSION_OF, round_id=str(round_id), site=site)
        return None if row is None else _submission(row)

    def submissions(self, round_id: RoundId) -> list[SubmissionRow]:
        query = sql.SUBMISSIONS.where(submissions.c.round_id == str(round_id)).order_by(submissions.c.id)
        return [_submission(row) for row in self._all(query)]

    def completed(self, round_id: RoundId) -> frozenset[str]:
        return frozenset(row.site for row in self._all(sql.COMPLETED, round_id=str(round_id)))

    def manifest(self, submission_id: str) -> bytes:
        query = select(submissions.c.manifest).where(submissions.c.id == submission_id)
        return bytes(self._connection.execute(query).scalar_one())

    def manifests(self, round_id: RoundId) -> list[bytes]:
        these = (submissions.c.round_id == str(round_id)) & (submissions.c.state == State.COMPLETE.value)
        found = self._all(select(submissions.c.site, submissions.c.manifest).where(these))
        return [bytes(row.manifest) for row in sorted(found, key=lambda row: row.site)]

    def add_submission(self, row: SubmissionRow, manifest: bytes, digests: Iterable[str], at: int) -> None:
        values = {
            "id": row.id,
            "round_id": str(row.round_id),
            "site": row.site,
            "manifest": manifest,
            "state": row.state.value,
            "created_at": at,
            "accepted_at": row.accepted_at,
            "active_at": at,
        }
        self._connection.execute(sql.ADD_SUBMISSION, values)
        announced = [
            {"submission_id": row.id, "number": number, "digest": digest, "stored": False}
            for number, digest in enumerate(digests)
        ]
        self._connection.execute(sql.ADD_PART, announced)

    def move_submission(self, submission_id: str, state: State, accepted_at: int | None = None) -> None:
        values = {"this_id": submission_id, "state": state.value}
        if accepted_at is None:
            self._connection.execute(sql.MOVE_SUBMISSION, values)
        else:
            self._connection.execute(sql.ACCEPT_SUBMISSION, values | {"at": accepted_at})

    def unmark_parts(self, submission_id: str) -> None:
        self._connection.execute(update(parts).where(parts.c.submission_id == submission_id).values(stored=False))

    def expiring(self) -> list[SubmissionRow]:
        query = sql.SUBMISSIONS.where(submissions.c.state == State.EXPIRING.value)
        return [_submission(row) for row in self._all(query)]

    def idle(self, before: int) -> list[SubmissionRow]:
        open_rounds = select(rounds.c.id).where(rounds.c.phase == Phase.OPEN.value).scalar_subquery()
        holding = select(parts.c.submission_id).where(parts.c.stored).scalar_subquery()
        these = (submissions.c.state == State.OPEN.value) & (submissions.c.active_at < before)
        query = sql.SUBMISSIONS.where(these, submissions.c.round_id.in_(open_rounds), submissions.c.id.in_(holding))
        return [_submission(row) for row in self._all(query.order_by(submissions.c.id))]

    def stored_submissions(self, federation: str, site: str | None = None) -> int:
        if site is None:
            found = self._connection.execute(sql.STORED_SUBMISSIONS, {"federation": federation})
        else:
            found = self._connection.execute(sql.STORED_SUBMISSIONS_OF, {"federation": federation, "site": site})
        return int(found.scalar_one())

    def awaited_parts(self) -> dict[str, int]:
        return {row.federation: row.parts for row in self._all(sql.AWAITED_PARTS)}

    def unsummed(self) -> list[str]:
        return [row.federation for row in self._all(sql.UNSUMMED)]

    # parts

    def part(self, submission_id: str, number: int) -> PartRow | None:
        row = self._one(sql.PART, submission_id=submission_id, number=number)
        return None if row is None else _part(row)

    def parts(self, submission_id: str) -> list[PartRow]:
        return [_part(row) for row in self._all(sql.PARTS_OF, submission_id=submission_id)]

    def missing(self, submission_id: str) -> list[int]:
        return [row.number for row in self._all(sql.MISSING, submission_id=submission_id)]

    def digests_of_part(self, round_id: RoundId, number: int) -> list[tuple[str, str, str]]:
        query = (
            select(submissions.c.id, submissions.c.site, parts.c.digest)
            .join(parts, parts.c.submission_id == submissions.c.id)
            .where(submissions.c.round_id == str(round_id), submissions.c.state == State.COMPLETE.value)
            .where(parts.c.number == number)
            .order_by(submissions.c.id)
        )
        return [(row.id, row.site, row.digest) for row in self._all(query)]

    def mark_stored(self, submission_id: str, number: int, at: int) -> None:
        self._connection.execute(sql.MARK_STORED, {"this_submission": submission_id, "this_number": number})
        self._connection.execute(sql.TOUCH, {"this_id": submission_id, "at": at})

    def mark_damaged(self, submission_id: str, number: int, at: int) -> None:
        this = (parts.c.submission_id == submission_id) & (parts.c.number == number)
        self._connection.execute(update(parts).where(this).values(stored=False, damaged_at=at))

    def damaged(self, round_id: RoundId) -> list[DamagedPart]:
        query = (
            select(submissions.c.id, submissions.c.site, parts.c.number, parts.c.damaged_at)
            .join(parts, parts.c.submission_id == submissions.c.id)
            .where(submissions.c.round_id == str(round_id), submissions.c.state == State.COMPLETE.value)
            .where(parts.c.damaged_at.is_not(None))
            .order_by(parts.c.damaged_at, submissions.c.id, parts.c.number)
        )
        return [DamagedPart(row.id, row.site, row.number, row.damaged_at) for row in self._all(query)]

    def sum_digests(self, round_id: RoundId) -> dict[int, str]:
        return {row.number: row.digest for row in self._all(sql.SUM_DIGESTS, round_id=str(round_id))}

    def add_sum_part(self, round_id: RoundId, number: int, digest: str) -> None:
        this = (sum_parts.c.round_id == str(round_id)) & (sum_parts.c.number == number)
        # Alone among all writers, so nobody inserts in between.
        if not self._connection.execute(update(sum_parts).where(this).values(digest=digest)).rowcount:
            self._connection.execute(insert(sum_parts).values(round_id=str(round_id), number=number, digest=digest))

    # leases

    def lease(self, name: str) -> LeaseRow | None:
        columns = (leases.c.name, leases.c.holder, leases.c.token, leases.c.expires_at)
        row = self._one(select(*columns).where(leases.c.name == name))
        return None if row is None else LeaseRow(row.name, row.holder, row.token, row.expires_at)

    def put_lease(self, row: LeaseRow) -> None:
        self.drop_lease(row.name)
        values = {"name": row.name, "holder": row.holder, "token": row.token, "expires_at": row.expires_at}
        self._connection.execute(insert(leases).values(values))

    def drop_lease(self, name: str) -> None:
        self._connection.execute(delete(leases).where(leases.c.name == name))

    def drop_leases(self) -> None:
        self._connection.execute(delete(leases))

    # changes

    def number(self, name: str) -> int | None:
        number = self._connection.execute(select(meta.c.number).where(meta.c.name == name)).scalar()
        return None if number is None else int(number)

    def set_number(self, name: str, number: int) -> None:
        self._connection.execute(insert(meta).values(name=name, number=number))

    def generation(self) -> int:
        return int(self._connection.execute(sql.GENERATION).scalar_one())

    def bump(self) -> None:
        self._connection.execute(sql.BUMP)


def _federation(row: Row[Any]) -> FederationRow:
    keeping = Keeping(row.sample_fraction, row.keep_sums, row.keep_submissions)
    return FederationRow(row.name, bytes(row.document), Stage(row.stage), row.created_at, row.paused_at, keeping)


def _round(row: Row[Any]) -> RoundRow:
    record = None if row.record is None else bytes(row.record)
    return RoundRow(
        RoundId.parse(row.id),
        Phase(row.phase),
        row.opened_at,
        row.deadline_at,
        Basis(row.epoch, row.key_id, row.roster, row.roster_version),
        record,
        row.record_digest,
        row.sample_seed,
        row.sum_scrubbed,
        row.closed_at,
        row.ended_at,
    )


def _submission(row: Row[Any]) -> SubmissionRow:
    return SubmissionRow(row.id, RoundId.parse(row.round_id), row.site, State(row.state), row.accepted_at)


def _part(row: Row[Any]) -> PartRow:
    return PartRow(row.submission_id, row.number, row.digest, row.stored, row.damaged_at)
