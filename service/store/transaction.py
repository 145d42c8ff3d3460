"""`Transaction` in SQL: one method, one statement or two. What they mean is said in base.py."""

# ruff: noqa: D102 - base.py says it

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from he_agg.ids import RoundId
from service.rounds import Phase, Round, Stage
from service.store.base import FederationRow, PartRow, RoundRow, SiteRow, SubmissionRow
from service.store.schema import federations, invitations, meta, parts, rounds, sites, submissions, sum_parts

__all__ = ["SqlTransaction"]

_FEDERATION = select(federations.c.name, federations.c.document, federations.c.stage, federations.c.created_at)
_SITE = select(sites.c.federation, sites.c.name, sites.c.added_at).where(sites.c.active)
_ROUND = select(
    rounds.c.id,
    rounds.c.phase,
    rounds.c.opened_at,
    rounds.c.deadline_at,
    rounds.c.record,
    rounds.c.record_digest,
)
_SUBMISSION = select(
    submissions.c.id, submissions.c.round_id, submissions.c.site, submissions.c.state, submissions.c.accepted_at
)
_ENDED = (Phase.PUBLISHED, Phase.FAILED)


class SqlTransaction:
    """Reads and writes on one connection, between BEGIN and COMMIT."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _one(self, query: Select[Any]) -> Row[Any] | None:
        return self._connection.execute(query).first()

    def _all(self, query: Select[Any]) -> list[Row[Any]]:
        return list(self._connection.execute(query).all())

    # federations and sites

    def federation(self, name: str) -> FederationRow | None:
        row = self._one(_FEDERATION.where(federations.c.name == name))
        return None if row is None else _federation(row)

    def federations(self) -> list[FederationRow]:
        return [_federation(row) for row in self._all(_FEDERATION.order_by(federations.c.name))]

    def add_federation(self, row: FederationRow) -> None:
        self._connection.execute(
            insert(federations).values(
                name=row.name, document=row.document, stage=row.stage.value, created_at=row.created_at
            )
        )

    def set_stage(self, name: str, stage: Stage) -> None:
        self._connection.execute(update(federations).where(federations.c.name == name).values(stage=stage.value))

    def sites(self, federation: str) -> list[SiteRow]:
        query = _SITE.where(sites.c.federation == federation).order_by(sites.c.name)
        return [_site(row) for row in self._all(query)]

    def add_site(self, row: SiteRow, token_hash: str) -> None:
        self._connection.execute(
            insert(sites).values(
                federation=row.federation, name=row.name, token_hash=token_hash, active=True, added_at=row.added_at
            )
        )

    def set_token(self, federation: str, site: str, token_hash: str) -> None:
        this = (sites.c.federation == federation) & (sites.c.name == site)
        self._connection.execute(update(sites).where(this).values(token_hash=token_hash))

    def site_of_token(self, token_hash: str) -> SiteRow | None:
        row = self._one(_SITE.where(sites.c.token_hash == token_hash))
        return None if row is None else _site(row)

    # rounds

    def round(self, round_id: RoundId) -> RoundRow | None:
        row = self._one(_ROUND.where(rounds.c.id == str(round_id)))
        return None if row is None else _round(row)

    def newest_round(self, federation: str) -> RoundRow | None:
        newest = (rounds.c.number.desc(), rounds.c.attempt.desc())
        row = self._one(_ROUND.where(rounds.c.federation == federation).order_by(*newest).limit(1))
        return None if row is None else _round(row)

    def last_published(self, federation: str) -> RoundId | None:
        of_it = (rounds.c.federation == federation) & (rounds.c.phase == Phase.PUBLISHED.value)
        row = self._one(select(rounds.c.id).where(of_it).order_by(rounds.c.number.desc()).limit(1))
        return None if row is None else RoundId.parse(row.id)

    def rounds_in(self, phases: Collection[Phase]) -> list[RoundRow]:
        query = _ROUND.where(rounds.c.phase.in_([phase.value for phase in phases])).order_by(rounds.c.id)
        return [_round(row) for row in self._all(query)]

    def unscrubbed(self) -> list[RoundRow]:
        ended = rounds.c.phase.in_([phase.value for phase in _ENDED])
        return [_round(row) for row in self._all(_ROUND.where(~rounds.c.scrubbed, ended).order_by(rounds.c.id))]

    def invited(self, round_id: RoundId) -> frozenset[str]:
        query = select(invitations.c.site).where(invitations.c.round_id == str(round_id))
        return frozenset(row.site for row in self._all(query))

    def open_round(self, round_id: RoundId, state: Round) -> None:
        self._connection.execute(
            insert(rounds).values(
                id=str(round_id),
                federation=round_id.federation,
                number=round_id.number,
                attempt=round_id.attempt,
                phase=state.phase.value,
                opened_at=state.opened_at,
                deadline_at=state.deadline_at,
                scrubbed=False,
            )
        )
        self._connection.execute(
            insert(invitations),
            [
                {"round_id": str(round_id), "federation": round_id.federation, "site": site}
                for site in sorted(state.invited)
            ],
        )

    def set_phase(self, round_id: RoundId, phase: Phase) -> None:
        self._connection.execute(update(rounds).where(rounds.c.id == str(round_id)).values(phase=phase.value))

    def end_round(self, round_id: RoundId, phase: Phase, record: bytes, digest: str, at: int) -> None:
        self._connection.execute(
            update(rounds)
            .where(rounds.c.id == str(round_id))
            .values(phase=phase.value, record=record, record_digest=digest, ended_at=at)
        )

    def scrub(self, round_id: RoundId) -> None:
        mine = select(submissions.c.id).where(submissions.c.round_id == str(round_id)).scalar_subquery()
        self._connection.execute(delete(parts).where(parts.c.submission_id.in_(mine)))
        failed = select(rounds.c.id).where(rounds.c.id == str(round_id), rounds.c.phase == Phase.FAILED.value)
        self._connection.execute(delete(sum_parts).where(sum_parts.c.round_id.in_(failed.scalar_subquery())))
        self._connection.execute(update(rounds).where(rounds.c.id == str(round_id)).values(scrubbed=True))

    # submissions

    def submission(self, submission_id: str) -> SubmissionRow | None:
        row = self._one(_SUBMISSION.where(submissions.c.id == submission_id))
        return None if row is None else _submission(row)

    def submission_of(self, round_id: RoundId, site: str) -> SubmissionRow | None:
        this = (submissions.c.round_id == str(round_id)) & (submissions.c.site == site)
        row = self._one(_SUBMISSION.where(this))
        return None if row is None else _submission(row)

    def submissions(self, round_id: RoundId) -> list[SubmissionRow]:
        query = _SUBMISSION.where(submissions.c.round_id == str(round_id)).order_by(submissions.c.id)
        return [_submission(row) for row in self._all(query)]

    def manifest(self, submission_id: str) -> bytes:
        query = select(submissions.c.manifest).where(submissions.c.id == submission_id)
        return bytes(self._connection.execute(query).scalar_one())

    def add_submission(self, row: SubmissionRow, manifest: bytes, digests: Iterable[str], at: int) -> None:
        self._connection.execute(
            insert(submissions).values(
                id=row.id,
                round_id=str(row.round_id),
                site=row.site,
                manifest=manifest,
                state=row.state,
                created_at=at,
                accepted_at=row.accepted_at,
            )
        )
        announced = [
            {"submission_id": row.id, "number": number, "digest": digest, "stored": False}
            for number, digest in enumerate(digests)
        ]
        self._connection.execute(insert(parts), announced)

    def accept(self, submission_id: str, at: int) -> None:
        self._connection.execute(
            update(submissions).where(submissions.c.id == submission_id).values(state="complete", accepted_at=at)
        )

    def exclude_open(self, round_id: RoundId) -> None:
        these = (submissions.c.round_id == str(round_id)) & (submissions.c.state == "open")
        self._connection.execute(update(submissions).where(these).values(state="excluded"))

    def exclude_all(self, round_id: RoundId) -> None:
        these = submissions.c.round_id == str(round_id)
        self._connection.execute(update(submissions).where(these).values(state="excluded"))

    # parts

    def part(self, submission_id: str, number: int) -> PartRow | None:
        this = (parts.c.submission_id == submission_id) & (parts.c.number == number)
        columns = (parts.c.submission_id, parts.c.number, parts.c.digest, parts.c.stored)
        row = self._one(select(*columns).where(this))
        return None if row is None else PartRow(row.submission_id, row.number, row.digest, row.stored)

    def missing(self, submission_id: str) -> list[int]:
        these = (parts.c.submission_id == submission_id) & ~parts.c.stored
        return [row.number for row in self._all(select(parts.c.number).where(these).order_by(parts.c.number))]

    def digests_of_part(self, round_id: RoundId, number: int) -> list[tuple[str, str, str]]:
        query = (
            select(submissions.c.id, submissions.c.site, parts.c.digest)
            .join(parts, parts.c.submission_id == submissions.c.id)
            .where(submissions.c.round_id == str(round_id), submissions.c.state == "complete")
            .where(parts.c.number == number)
            .order_by(submissions.c.id)
        )
        return [(row.id, row.site, row.digest) for row in self._all(query)]

    def mark_stored(self, submission_id: str, number: int) -> None:
        this = (parts.c.submission_id == submission_id) & (parts.c.number == number)
        self._connection.execute(update(parts).where(this).values(stored=True))

    def sum_digests(self, round_id: RoundId) -> dict[int, str]:
        query = select(sum_parts.c.number, sum_parts.c.digest).where(sum_parts.c.round_id == str(round_id))
        return {row.number: row.digest for row in self._all(query.order_by(sum_parts.c.number))}

    def add_sum_part(self, round_id: RoundId, number: int, digest: str) -> None:
        statement = upsert(sum_parts).values(round_id=str(round_id), number=number, digest=digest)
        key = [sum_parts.c.round_id, sum_parts.c.number]
        self._connection.execute(statement.on_conflict_do_update(index_elements=key, set_={"digest": digest}))

    # changes

    def generation(self) -> int:
        query = select(meta.c.number).where(meta.c.name == "generation")
        return int(self._connection.execute(query).scalar_one())

    def bump(self) -> None:
        statement = update(meta).where(meta.c.name == bindparam("which")).values(number=meta.c.number + 1)
        self._connection.execute(statement, {"which": "generation"})


def _federation(row: Row[Any]) -> FederationRow:
    return FederationRow(row.name, bytes(row.document), Stage(row.stage), row.created_at)


def _site(row: Row[Any]) -> SiteRow:
    return SiteRow(row.federation, row.name, row.added_at)


def _round(row: Row[Any]) -> RoundRow:
    record = None if row.record is None else bytes(row.record)
    return RoundRow(RoundId.parse(row.id), Phase(row.phase), row.opened_at, row.deadline_at, record, row.record_digest)


def _submission(row: Row[Any]) -> SubmissionRow:
    return SubmissionRow(row.id, RoundId.parse(row.round_id), row.site, row.state, row.accepted_at)
