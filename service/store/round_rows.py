"""Read and write attempts at rounds, their records and their sums."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, select, update

from he_agg.documents.record import NO_RECORD
from he_agg.ids import RoundId
from service.domain.events import Phase, Round
from service.store.queries import Queries, as_row, columns_of
from service.store.rows import Basis, ChainHead, RoundRow
from service.store.schema import federations, invitations, parts, rounds, submissions, sum_parts, verdicts
from service.store.statements import Prepared, adding

__all__ = ["ROUNDS", "RoundRows", "round_of"]

ROUNDS = select(
    rounds.c.id,
    rounds.c.phase,
    rounds.c.opened_at,
    rounds.c.deadline_at,
    *columns_of(rounds, Basis),
    rounds.c.record,
    rounds.c.record_digest,
    rounds.c.scrubbed,
    rounds.c.sum_scrubbed,
    rounds.c.closed_at,
    rounds.c.ended_at,
    rounds.c.settled_at,
)
_WITH_MEMBERS = [Phase.PUBLISHED.value, Phase.REJECTED.value]
_OF_FEDERATION = rounds.c.federation == bindparam("federation")
_ROUND = Prepared(ROUNDS.where(rounds.c.id == bindparam("id")))
_OPENED = rounds.c.phase != Phase.ENDED.value
_NEWEST_ROUND = Prepared(
    # The one without a record, or the one whose record is the newest: a number may be tried again later.
    ROUNDS.where(_OF_FEDERATION, _OPENED)
    .order_by(rounds.c.chain_index.is_not(None), rounds.c.chain_index.desc())
    .limit(1)
)
_END = Prepared(ROUNDS.where(_OF_FEDERATION, ~_OPENED))
_ATTEMPTS = Prepared(
    select(func.coalesce(func.max(rounds.c.attempt), 0)).where(_OF_FEDERATION, rounds.c.number == bindparam("number"))
)
_LAST_PUBLISHED = Prepared(
    select(rounds.c.id)
    .where(_OF_FEDERATION, rounds.c.phase == Phase.PUBLISHED.value)
    .order_by(rounds.c.number.desc())
    .limit(1)
)
_SUMMED = ROUNDS.where(_OF_FEDERATION, rounds.c.phase.in_(_WITH_MEMBERS))
_NEWEST_SUM = Prepared(_SUMMED.order_by(rounds.c.chain_index.desc()).limit(1))
_UNRELEASED = Prepared(_SUMMED.where(~rounds.c.released, ~rounds.c.scrubbed).order_by(rounds.c.chain_index))
_KEEPING = select(federations.c.name).where(federations.c.keep_submissions).scalar_subquery()
_UNSCRUBBED = Prepared(
    ROUNDS.where(
        ~rounds.c.scrubbed,
        (rounds.c.phase == Phase.FAILED.value)
        | (
            rounds.c.phase.in_(_WITH_MEMBERS)
            & rounds.c.federation.not_in(_KEEPING)
            & (rounds.c.released | (rounds.c.ended_at < bindparam("before")))
        ),
    ).order_by(rounds.c.id)
)
_INVITED = Prepared(select(invitations.c.site).where(invitations.c.round_id == bindparam("round_id")))
_INVITE = adding(invitations, "round_id", "site")
_CHAIN_HEAD = Prepared(
    select(rounds.c.chain_index, rounds.c.record_digest)
    .where(_OF_FEDERATION, rounds.c.chain_index.is_not(None))
    .order_by(rounds.c.chain_index.desc())
    .limit(1)
)
_KEPT_SUMS = Prepared(
    ROUNDS.where(_OF_FEDERATION, rounds.c.phase == Phase.PUBLISHED.value, ~rounds.c.sum_scrubbed).order_by(
        rounds.c.number.desc()
    )
)
_RECORD_AT = Prepared(ROUNDS.where(_OF_FEDERATION, rounds.c.chain_index == bindparam("index")))
_UNSUMMED = Prepared(
    select(rounds.c.federation).where(
        rounds.c.phase.in_([phase.value for phase in (Phase.OPEN, Phase.CLOSED, Phase.FOLDING)])
    )
)
_OF_ROUND = sum_parts.c.round_id == bindparam("round_id")
_SUM_DIGESTS = Prepared(select(sum_parts.c.number, sum_parts.c.digest).where(_OF_ROUND).order_by(sum_parts.c.number))
_ADD_SUM_PART = adding(sum_parts, "round_id", "number", "digest")
_RENEW_SUM_PART = Prepared(
    update(sum_parts)
    .where(sum_parts.c.round_id == bindparam("this_round"), sum_parts.c.number == bindparam("this_number"))
    .values(digest=bindparam("digest"))
)
_NAMED = select(sum_parts.c.round_id).scalar_subquery()
_SUMS_TO_REMOVE = Prepared(
    select(rounds.c.id).where(rounds.c.sum_scrubbed, rounds.c.id.in_(_NAMED)).order_by(rounds.c.id)
)
_FORGET_SUM = Prepared(delete(sum_parts).where(_OF_ROUND))
_OF_VERDICTS = verdicts.c.round_id == bindparam("round_id")
_VERDICT = Prepared(select(verdicts.c.document).where(_OF_VERDICTS, verdicts.c.site == bindparam("site")))
_VERDICTS = Prepared(select(verdicts.c.site, verdicts.c.verdict).where(_OF_VERDICTS))
_VERDICT_DOCUMENTS = Prepared(select(verdicts.c.site, verdicts.c.document).where(_OF_VERDICTS))
_ADD_VERDICT = adding(verdicts, "round_id", "site", "verdict", "document", "stored_at")
_SUBMITTED = select(submissions.c.id).where(submissions.c.round_id == bindparam("round_id")).scalar_subquery()
_FORGET_PARTS = Prepared(delete(parts).where(parts.c.submission_id.in_(_SUBMITTED)))
_FAILED = select(rounds.c.id).where(rounds.c.id == bindparam("round_id"), rounds.c.phase == Phase.FAILED.value)
_FORGET_FAILED_SUM = Prepared(delete(sum_parts).where(sum_parts.c.round_id.in_(_FAILED.scalar_subquery())))


@cache
def _setting(*columns: str) -> Prepared:
    changed = update(rounds).where(rounds.c.id == bindparam("this_id"))
    return Prepared(changed.values({name: bindparam(name) for name in columns}))


@cache
def _adding(*columns: str) -> Prepared:
    return adding(rounds, *columns)


@cache
def _in_phases(*phases: Phase) -> Prepared:
    these = rounds.c.phase.in_([phase.value for phase in phases])
    return Prepared(ROUNDS.where(these).order_by(rounds.c.id))


class RoundRows(Queries):
    """What a transaction reads and writes about rounds."""

    def round(self, round_id: RoundId) -> RoundRow | None:
        """Return one attempt."""
        return self._once(("round", str(round_id)), lambda: self._first(round_of, _ROUND, id=str(round_id)))

    def newest_round(self, federation: str) -> RoundRow | None:
        """Return the newest attempt of a federation that has opened."""

        def find() -> RoundRow | None:
            row = self._run(_NEWEST_ROUND, {"federation": federation}).first()
            return None if row is None else self._once(("round", row.id), lambda: round_of(row))

        return self._once(("newest round", federation), find)

    def attempts(self, federation: str, number: int) -> int:
        """Return the newest attempt at a number; 0 if there was none."""

        def find() -> int:
            return int(self._run(_ATTEMPTS, {"federation": federation, "number": number}).scalar_one())

        return self._once(("attempts", federation, str(number)), find)

    def last_published(self, federation: str) -> RoundId | None:
        """Return the newest attempt with a sum."""
        return self._first(_id, _LAST_PUBLISHED, federation=federation)

    def newest_sum(self, federation: str) -> RoundRow | None:
        """Return the attempt that got a sum last, whether that was given up or not."""
        return self._once(("newest sum", federation), lambda: self._first(round_of, _NEWEST_SUM, federation=federation))

    def rounds_in(self, phases: Collection[Phase]) -> list[RoundRow]:
        """Return all attempts in these phases."""
        return self._all(round_of, _in_phases(*phases))

    def unscrubbed(self, before: int) -> list[RoundRow]:
        """Return ended attempts whose single submissions are still to be deleted and not to be kept.

        Args:
            before: a sum that was published later has to be released. Units: seconds since 1970, UTC.
        """
        return self._all(round_of, _UNSCRUBBED, before=before)

    def invited(self, round_id: RoundId) -> frozenset[str]:
        """Return the sites that were invited."""

        def find() -> frozenset[str]:
            return frozenset(self._all(lambda row: str(row.site), _INVITED, round_id=str(round_id)))

        return self._once(("invited", str(round_id)), find)

    def is_invited(self, round_id: RoundId, site: str) -> bool:
        """Tell whether a site was invited."""
        return self._once(("is invited", str(round_id), site), lambda: site in self.invited(round_id))

    def open_round(self, round_id: RoundId, state: Round, basis: Basis, holder_list: bytes | None = None) -> None:
        """Write a new attempt and its invitations, and whom its members deal to."""
        self._insert(round_id, basis, state.phase, state.opened_at, state.deadline_at, has_files=True)
        if holder_list is not None:
            self._set(round_id, holder_list=holder_list)
        invited = [{"round_id": str(round_id), "site": site} for site in sorted(state.invited)]
        if invited:
            self._change(_INVITE, invited)

    def _insert(
        self, round_id: RoundId, basis: Basis, phase: Phase, opened_at: int, deadline_at: int, *, has_files: bool
    ) -> None:
        done = not has_files
        values = {
            "id": str(round_id),
            "federation": round_id.federation,
            "number": round_id.number,
            "attempt": round_id.attempt,
            "phase": phase.value,
            "opened_at": opened_at,
            "deadline_at": deadline_at,
            "released": done,
            "scrubbed": done,
            "sum_scrubbed": done,
            **vars(basis),
        }
        self._change(_adding(*values), values)

    def _set(self, round_id: RoundId, **values: Any) -> None:
        self._change(_setting(*values), {"this_id": str(round_id), **values})

    def close_round(self, round_id: RoundId, at: int) -> None:
        """Note that an attempt's set is final."""
        self._set(round_id, phase=Phase.CLOSED.value, closed_at=at)

    def set_phase(self, round_id: RoundId, phase: Phase) -> None:
        """Move an attempt on."""
        self._set(round_id, phase=phase.value)

    def move_deadline(self, round_id: RoundId, deadline_at: int) -> None:
        """Give an attempt another deadline."""
        self._set(round_id, deadline_at=deadline_at)

    def end_round(self, round_id: RoundId, phase: Phase, record: bytes, head: ChainHead, at: int) -> None:
        """Write the record, which is the new head of the chain."""
        chained = {"record": record, "record_digest": head.digest, "chain_index": head.index}
        self._set(round_id, phase=phase.value, ended_at=at, **chained)

    def settle_round(self, round_id: RoundId, at: int) -> None:
        """Note that nothing is awaited of the holders of a published round."""
        self._set(round_id, settled_at=at)

    def end_federation(self, round_id: RoundId, basis: Basis, record: bytes, head: ChainHead, at: int) -> None:
        """Write the record of a federation's end: an attempt that never opened, and has nothing to be removed."""
        self._insert(round_id, basis, Phase.ENDED, at, at, has_files=False)
        self._set(round_id, closed_at=at)
        self.end_round(round_id, Phase.ENDED, record, head, at)

    def end_of(self, federation: str) -> RoundRow | None:
        """Return the row of a federation's end; None if it has not ended."""
        return self._first(round_of, _END, federation=federation)

    def chain_head(self, federation: str) -> ChainHead:
        """Return the newest record of a federation."""

        def find() -> ChainHead:
            head = self._first(as_row(ChainHead), _CHAIN_HEAD, federation=federation)
            return head or ChainHead(0, NO_RECORD)

        return self._once(("chain head", federation), find)

    def record_at(self, federation: str, index: int) -> RoundRow | None:
        """Return the attempt whose record is at a position of the chain."""
        return self._first(round_of, _RECORD_AT, federation=federation, index=index)

    def recent_rounds(self, federation: str, limit: int) -> list[RoundRow]:
        """Return the attempts of a federation that have ended last, newest first."""
        these = (rounds.c.federation == federation) & rounds.c.chain_index.is_not(None) & _OPENED
        return self._all(round_of, ROUNDS.where(these).order_by(rounds.c.chain_index.desc()).limit(limit))

    def count_rounds(self) -> dict[tuple[str, Phase], int]:
        """Return how many attempts are in which phase, by federation and phase."""
        columns = (rounds.c.federation, rounds.c.phase)
        found = self._run(select(*columns, func.count().label("rounds")).where(_OPENED).group_by(*columns))
        return {(row.federation, Phase(row.phase)): row.rounds for row in found}

    def unsummed(self) -> list[str]:
        """Return the federation of every round whose sum is still to be made."""
        return self._once(("unsummed",), lambda: self._all(lambda row: str(row.federation), _UNSUMMED))

    def kept_sums(self, federation: str) -> list[RoundRow]:
        """Return published rounds whose sum is here, newest first."""
        return self._all(round_of, _KEPT_SUMS, federation=federation)

    def sum_digests(self, round_id: RoundId) -> dict[int, str]:
        """Return the digest by number of the parts of the sum that are durable."""
        return {row.number: row.digest for row in self._run(_SUM_DIGESTS, {"round_id": str(round_id)})}

    def add_sum_part(self, round_id: RoundId, number: int, digest: str) -> None:
        """Note that a part of the sum is durable, or replace what was noted."""
        this = {"this_round": str(round_id), "this_number": number}
        # Alone among all writers, so nobody inserts in between.
        if not self._run(_RENEW_SUM_PART, {**this, "digest": digest}).rowcount:
            self._run(_ADD_SUM_PART, {"round_id": str(round_id), "number": number, "digest": digest})

    def scrub_sum(self, round_id: RoundId) -> None:
        """Note that the files of a sum are going to be removed. The record stays."""
        self._set(round_id, sum_scrubbed=True)

    def sums_to_remove(self) -> list[RoundId]:
        """Return rounds whose sum is scrubbed while rows still name its parts."""
        return self._all(_id, _SUMS_TO_REMOVE)

    def forget_sum(self, round_id: RoundId, numbers: Collection[int] | None = None) -> None:
        """Forget parts of a sum whose files are gone: all, or some."""
        if numbers is None:
            self._run(_FORGET_SUM, {"round_id": str(round_id)})
        else:
            these = (sum_parts.c.round_id == str(round_id)) & sum_parts.c.number.in_(numbers)
            self._run(delete(sum_parts).where(these))

    def release(self, round_id: RoundId) -> None:
        """Note that the single submissions of a published round need not be kept for the sake of its sum."""
        self._set(round_id, released=True)

    def unreleased(self, federation: str) -> list[RoundRow]:
        """Return published rounds whose single submissions stay until sites have opened the sum, oldest first."""
        return self._all(round_of, _UNRELEASED, federation=federation)

    def verdict(self, round_id: RoundId, site: str) -> bytes | None:
        """Return the canonical bytes of a site's verdict on a round."""
        return self._bytes(_VERDICT, round_id=str(round_id), site=site)

    def verdicts(self, round_id: RoundId) -> dict[str, str]:
        """Return what sites have said about a round's sum, by site."""
        found = self._run(_VERDICTS, {"round_id": str(round_id)})
        return {row.site: row.verdict for row in sorted(found, key=lambda row: row.site)}

    def verdict_documents(self, round_id: RoundId) -> list[bytes]:
        """Return the canonical bytes of all verdicts on a round, by site."""
        found = self._run(_VERDICT_DOCUMENTS, {"round_id": str(round_id)})
        return [bytes(row.document) for row in sorted(found, key=lambda row: row.site)]

    def add_verdict(self, round_id: RoundId, site: str, verdict: str, document: bytes, at: int) -> None:
        """Write a site's verdict."""
        values = {"round_id": str(round_id), "site": site, "verdict": verdict}
        self._run(_ADD_VERDICT, {**values, "document": document, "stored_at": at})

    def scrub(self, round_id: RoundId) -> None:
        """Forget the single parts, and those of a sum that was never published, once their files are gone."""
        self._run(_FORGET_PARTS, {"round_id": str(round_id)})
        self._run(_FORGET_FAILED_SUM, {"round_id": str(round_id)})
        self._set(round_id, scrubbed=True)


def _id(row: Row[Any]) -> RoundId:
    return RoundId.parse(row.id)


def round_of(row: Row[Any]) -> RoundRow:
    """Make a row of `ROUNDS`."""
    return RoundRow(
        RoundId.parse(row.id),
        Phase(row.phase),
        row.opened_at,
        row.deadline_at,
        Basis(row.epoch, row.key_id, row.roster, row.roster_version, row.holders),
        None if row.record is None else bytes(row.record),
        row.record_digest,
        row.scrubbed,
        row.sum_scrubbed,
        row.closed_at,
        row.ended_at,
        row.settled_at,
    )
