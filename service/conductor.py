"""Runs events of `rounds` against the store: load the state, step, write the actions down, in one transaction."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

from he_agg.federation import FederationDocument
from he_agg.ids import RoundId
from he_agg.record import RoundRecord
from service import rounds
from service.rounds import Action, Event, Federation, Phase, Round, Stage
from service.store.base import FederationRow, RoundRow, Store, Transaction

__all__ = ["Conductor"]


class Conductor:
    """The one writer of rounds.

    Args:
        store: where they are kept.
        clock: Units: seconds since 1970, UTC.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    def now(self) -> float:
        """The aggregator's time. Units: seconds since 1970, UTC."""
        return self._clock()

    def apply(self, federation: str, event: Event) -> list[Action]:
        """Let an event happen to a federation.

        Returns:
            What was written down.
        """
        with self._store.write() as tx:
            return self.apply_in(tx, federation, event)

    def apply_in(self, tx: Transaction, federation: str, event: Event) -> list[Action]:
        """The same within a transaction that has more to decide."""
        row = tx.federation(federation)
        if row is None:
            return []
        now = self._clock()
        state = self._load(tx, row)
        _, actions = rounds.step(state, event, now)
        for action in actions:
            self._persist(tx, row.parsed, action, int(now))
        if actions:
            tx.bump()
        return actions

    def tick(self, federation: str) -> None:
        """Close or fail the open round if its deadline has passed. Writes nothing otherwise."""
        with self._store.read() as tx:
            row, newest = tx.federation(federation), tx.newest_round(federation)
        if row is not None and newest is not None and self._due(row, newest):
            self.apply(federation, rounds.Tick())

    def tick_all(self) -> None:
        """The same for all federations."""
        with self._store.read() as tx:
            known = {row.name: row for row in tx.federations()}
            opened = tx.rounds_in([Phase.OPEN])
            due = [row.id.federation for row in opened if self._due(known[row.id.federation], row)]
        for federation in due:
            self.apply(federation, rounds.Tick())

    def takes(self, federation: FederationRow, row: RoundRow) -> bool:
        """Whether a round takes parts now. The deadline of a paused federation stands still."""
        return row.phase is Phase.OPEN and not self._due(federation, row)

    def _due(self, federation: FederationRow, row: RoundRow) -> bool:
        return row.phase is Phase.OPEN and federation.stage is not Stage.PAUSED and self._clock() >= row.deadline_at

    def _load(self, tx: Transaction, row: FederationRow) -> Federation:
        plan = row.parsed.plan
        newest = tx.newest_round(row.name)
        round_ = None
        if newest is not None:
            round_ = Round(
                newest.id.number,
                newest.id.attempt,
                newest.phase,
                newest.opened_at,
                newest.deadline_at,
                tx.invited(newest.id),
                frozenset(s.site for s in tx.submissions(newest.id) if s.state == "complete"),
                newest.sample_seed,
            )
        return Federation(
            terms=rounds.Terms(plan.min_sites, plan.rounds, plan.deadline_s, row.keeping.sample_fraction),
            sites=frozenset(site.name for site in tx.sites(row.name)),
            stage=row.stage,
            round=round_,
            paused_at=row.paused_at,
            fresh_seed=secrets.token_hex(32),
        )

    def _persist(self, tx: Transaction, document: FederationDocument, action: Action, at: int) -> None:
        name = document.plan.federation
        if isinstance(action, rounds.StageChanged):
            tx.set_stage(name, action.stage)
            tx.set_paused(name, action.at)
            return
        round_id = RoundId(name, action.round.number, action.round.attempt)
        match action:
            case rounds.Opened(round_):
                tx.open_round(round_id, round_)
            case rounds.Extended(round_):
                tx.move_deadline(round_id, round_.deadline_at)
            case rounds.Accepted(_, site):
                submission = tx.submission_of(round_id, site)
                if submission is not None:
                    tx.accept(submission.id, at)
            case rounds.Closed():
                tx.exclude_open(round_id)
                tx.set_phase(round_id, Phase.CLOSED)
            case rounds.Folding():
                tx.set_phase(round_id, Phase.FOLDING)
            case rounds.Published() | rounds.Failed():
                record = self._record(tx, document, round_id, action)
                if isinstance(action, rounds.Failed):
                    tx.exclude_all(round_id)
                encoded = record.encode()
                tx.end_round(round_id, action.round.phase, encoded, hashlib.sha256(encoded).hexdigest(), at)

    def _record(
        self,
        tx: Transaction,
        document: FederationDocument,
        round_id: RoundId,
        outcome: rounds.Published | rounds.Failed,
    ) -> RoundRecord:
        submissions = tx.submissions(round_id)
        members: dict[str, str] = {}
        digests: tuple[str, ...] = ()
        if isinstance(outcome, rounds.Published):
            members = {s.site: s.id for s in submissions if s.state == "complete"}
            by_number = tx.sum_digests(round_id)
            digests = tuple(by_number[place.number] for place in document.plan.places)
        return RoundRecord(
            round_id=round_id,
            epoch=document.epoch,
            key_id=document.key_id,
            plan_id=document.plan.plan_id,
            outcome=outcome.round.phase.value,
            members=members,
            excluded=rounds.exclusions(outcome.round, {s.site for s in submissions}, outcome),
            sum_digests=digests,
            sample_seed=outcome.round.sample_seed,
        )
