"""Runs events of `rounds` against the store: load the state, step, write the actions down, in one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from he_agg.documents.draw import members_digest
from he_agg.documents.record import ENDED, NO_RECORD, RoundRecord, reason_of_end
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.errors import InputError, Reason
from he_agg.ids import RoundId
from service.core.aggregator_key import AggregatorKey
from service.core.event_loop import leave_reading
from service.core.holder_lists import is_ready, next_list
from service.core.roster_cache import newest_roster, roster_of, signer_in
from service.core.verdicts import release_undisputed
from service.domain import events, rounds, submissions
from service.domain.events import Action, Event, Federation, Phase, Round, Stage
from service.store.rows import Basis, ChainHead, FederationRow, RoundRow
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["Conductor"]


_BECAME = {
    (Stage.CREATED, Stage.RUNNING): "federation.started",
    (Stage.RUNNING, Stage.PAUSED): "federation.paused",
    (Stage.PAUSED, Stage.RUNNING): "federation.resumed",
}
"""What the audit log is told of a new stage; of an end, by its record."""


class Conductor:
    """The one writer of rounds, and of the chain of records."""

    def __init__(self, store: Store, key: AggregatorKey, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self.key = key
        self._clock = clock

    def now(self) -> float:
        """Return the aggregator's time. Units: seconds since 1970, UTC."""
        return self._clock()

    def apply(self, federation: str, event: Event) -> list[Action]:
        """Let an event happen to a federation."""
        with self._store.write() as tx:
            return self.apply_in(tx, federation, event)

    def apply_in(self, tx: Transaction, federation: str, event: Event) -> list[Action]:
        """Apply an event within a transaction that has more to decide; skip a federation without a roster."""
        row = tx.federation(federation)
        if row is None:
            return []
        now, roster = self._clock(), newest_roster(tx, federation)
        state = self._load(tx, row, roster)
        _, actions = rounds.step(state, event, now)
        for action in actions:
            self._persist(tx, row, roster, action, int(now))
        # That a site is in changes nothing that anybody waits for, until it closes the round.
        if any(not isinstance(action, events.Accepted) for action in actions):
            tx.bump()
        return actions

    def tick_in(self, tx: Transaction, federation: str) -> None:
        """Close or fail the open round if its deadline has passed. Writes nothing otherwise."""
        newest = tx.newest_round(federation)
        if newest is not None and self._due(tx, newest):
            self.apply_in(tx, federation, events.Tick())

    @contextmanager
    def reading(self, federation: str) -> Iterator[Transaction]:
        """Open a reading transaction in which no deadline of a federation is overdue.

        Raises:
            NotReadingError: one is, and what follows has to be written, which who only reads does not wait for.
        """
        with self._store.read() as tx:
            newest = tx.newest_round(federation)
            if newest is None or not self._due(tx, newest):
                yield tx
                return
        leave_reading()
        self.apply(federation, events.Tick())
        with self._store.read() as tx:
            yield tx

    def tick_all(self) -> None:
        """Close or fail the open rounds of all federations whose deadlines have passed."""
        with self._store.read() as tx:
            due = [row.id.federation for row in tx.rounds_in([Phase.OPEN]) if self._due(tx, row)]
        for federation in due:
            self.apply(federation, events.Tick())

    def takes(self, tx: Transaction, row: RoundRow) -> bool:
        """Tell whether a round takes parts now. The deadline of a paused federation stands still."""
        return row.phase is Phase.OPEN and not self._due(tx, row)

    def _due(self, tx: Transaction, row: RoundRow) -> bool:
        if row.phase is not Phase.OPEN or self._clock() < row.deadline_at:
            return False
        federation = tx.federation(row.id.federation)
        if federation is None or federation.stage is Stage.PAUSED:
            return False
        # Nobody may go by a roster that has expired, and so no round ends by one: it waits for the next.
        return self._clock() < newest_roster(tx, federation.name).body.expires_at

    def _load(self, tx: Transaction, row: FederationRow, roster: Signed[Roster]) -> Federation:
        plan = row.parsed.plan
        newest, summed = tx.newest_round(row.name), tx.newest_sum(row.name)
        before = None if summed is None else _sum(tx, summed)
        round_, burnt = None, False
        if newest is not None:
            invited = tx.invited(newest.id)
            opened_under = roster_of(tx, row.name, newest.basis.roster_version).body
            least = opened_under.min_sites
            burnt = not roster.body.has_holders_of(opened_under)
            round_ = Round(
                newest.id.number,
                newest.id.attempt,
                newest.phase,
                newest.opened_at,
                newest.deadline_at,
                invited,
                tx.completed(newest.id),
                least if before is None else before.least(newest.id.number, invited, least),
                newest.settled_at is not None,
                frozenset(opened_under.having(Role.HOLDER)),
            )
        min_sites = max(plan.min_sites, roster.body.min_sites)
        draws = plan.sample_percent < 100
        return Federation(
            terms=events.Terms(min_sites, plan.rounds, plan.deadline_s, plan.sample_percent, plan.splits_keys),
            sites=frozenset(roster.body.having(Role.SITE)),
            stage=row.stage,
            round=round_,
            paused_at=row.paused_at,
            later=0 if newest is None else tx.attempts(row.name, newest.id.number + 1),
            sum=before,
            ready=is_ready(tx, roster.body),
            burnt=burnt,
            name=row.name,
            roster=roster.body_digest,
            counted=_counted(summed) if draws else NO_RECORD,
            submitted=_accepted(tx, newest.id) if draws and newest else {},
        )

    def _persist(self, tx: Transaction, row: FederationRow, roster: Signed[Roster], action: Action, at: int) -> None:
        name = row.name
        if isinstance(action, events.StageChanged):
            tx.set_stage(name, action.stage)
            tx.set_paused(name, action.at)
            if (became := _BECAME.get((row.stage, action.stage))) is not None:
                tx.report(became, federation=name)
            return
        if isinstance(action, events.Ended):
            self._end(tx, row, roster, RoundId(name, action.number, action.attempt), at)
            return
        if isinstance(action, events.GivenUp):
            given_up = RoundId(name, action.number, action.attempt)
            tx.set_phase(given_up, Phase.REJECTED)
            tx.scrub_sum(given_up)
            tx.report("federation.sum-given-up", federation=name, round=str(given_up))
            return
        round_id = RoundId(name, action.round.number, action.round.attempt)
        match action:
            case events.Opened(round_):
                basis, holders = _basis(tx, name, roster), next_list(tx, roster)
                if holders is None:
                    tx.open_round(round_id, round_, basis)
                else:
                    tx.open_round(round_id, round_, replace(basis, holders=holders.digest), holders.encode())
            case events.Extended(round_):
                tx.move_deadline(round_id, round_.deadline_at)
            case events.Accepted(_, site):
                submission = tx.submission_of(round_id, site)
                if submission is not None:
                    state = submissions.step(submission.state, submissions.Event.COMPLETED)
                    tx.move_submission(submission.id, state, accepted_at=at)
            case events.Closed():
                self._move_all(tx, round_id, submissions.Event.ROUND_CLOSED)
                tx.close_round(round_id, at)
            case events.Folding():
                tx.set_phase(round_id, Phase.FOLDING)
            case events.Published() | events.Failed():
                head = tx.chain_head(name)
                record = self._record(tx, row, action, head, at)
                if isinstance(action, events.Failed):
                    self._move_all(tx, round_id, submissions.Event.ROUND_FAILED)
                else:
                    # Its members went on from the sums before, so nobody is going to dispute those.
                    release_undisputed(tx, name)
                new_head = ChainHead(head.index + 1, record.digest)
                tx.end_round(round_id, action.round.phase, record.encode(), new_head, at)
                if action.round.settled:
                    tx.settle_round(round_id, at)
                told: dict[str, str | int] = {"federation": name, "round": str(round_id), "record": record.digest}
                if isinstance(action, events.Failed):
                    tx.report("round.failed", **told, reason=action.why)
                else:
                    tx.report("round.published", **told, members=len(record.body.members))
            case events.Concluded():
                tx.settle_round(round_id, at)

    def _end(self, tx: Transaction, row: FederationRow, roster: Signed[Roster], round_id: RoundId, at: int) -> None:
        """Write the record of a federation's end, which is the last of its chain."""
        head, basis, plan = tx.chain_head(row.name), _basis(tx, row.name, roster), row.parsed.plan
        record = RoundRecord(
            round_id=round_id,
            index=head.index + 1,
            previous=head.digest,
            closed_at=at,
            roster=basis.roster,
            epoch=basis.epoch,
            key_id=basis.key_id,
            plan_id=plan.plan_id,
            outcome=ENDED,
            members={},
            excluded={},
            sum_digests=(),
            reason=reason_of_end(round_id.number, plan.rounds),
        )
        signed = Signed.make(record, self.key.signing_key, self.signer(tx, row.name, basis.roster_version))
        tx.end_federation(round_id, basis, signed.encode(), ChainHead(record.index, signed.digest), at)
        tx.report("federation.ended", federation=row.name, reason=record.reason, record=signed.digest)

    def _move_all(self, tx: Transaction, round_id: RoundId, event: submissions.Event) -> None:
        for row in tx.submissions(round_id):
            if (state := submissions.step(row.state, event)) is not row.state:
                tx.move_submission(row.id, state)

    def signer(self, tx: Transaction, federation: str, version: int) -> str:
        """Return the name under which this aggregator signs for a round of a version.

        The version's own roster has it, unless the aggregator has got another key since: then the newest has.

        Raises:
            InputError: the newest one does not list this aggregator's key, either.
        """
        for roster in (roster_of(tx, federation, version), newest_roster(tx, federation)):
            if (name := signer_in(roster.body, self.key)) is not None:
                return name
        raise InputError(
            Reason.INTERNAL,
            f"the roster of federation {federation} does not list this aggregator's key",
            "restore aggregator.key, or have the coordinator list the new one: `he-agg aggregator show`",
        )

    def _record(
        self,
        tx: Transaction,
        row: FederationRow,
        outcome: events.Published | events.Failed,
        head: ChainHead,
        at: int,
    ) -> Signed[RoundRecord]:
        round_id = RoundId(row.name, outcome.round.number, outcome.round.attempt)
        sent, found = tx.submissions(round_id), tx.round(round_id)
        if found is None:
            raise RuntimeError("a round that ends must have begun")
        basis = found.basis
        name = self.signer(tx, row.name, basis.roster_version)
        members: dict[str, str] = {}
        digests: tuple[str, ...] = ()
        if isinstance(outcome, events.Published):
            members = {row.site: str(row.digest) for row in sent if row.state is submissions.State.COMPLETE}
            by_number = tx.sum_digests(round_id)
            digests = tuple(by_number[place.number] for place in row.parsed.plan.places)
        given_up = outcome.gives_up if isinstance(outcome, events.Failed) else None
        disputed = None if given_up is None else tx.round(RoundId(row.name, *given_up))
        record = RoundRecord(
            round_id=round_id,
            index=head.index + 1,
            previous=head.digest,
            closed_at=at if found.closed_at is None else found.closed_at,
            roster=basis.roster,
            epoch=basis.epoch,
            key_id=basis.key_id,
            plan_id=row.parsed.plan.plan_id,
            outcome=outcome.round.phase.value,
            members=members,
            excluded=rounds.exclusions(outcome.round, {row.site for row in sent}, outcome),
            sum_digests=digests,
            gives_up=None if disputed is None else disputed.record_digest,
        )
        return Signed.make(record, self.key.signing_key, name)


def _basis(tx: Transaction, federation: str, roster: Signed[Roster]) -> Basis:
    """Return what opens now opens under."""
    epoch = tx.newest_epoch(federation)
    return Basis(epoch.number, epoch.key_id, roster.body_digest, roster.body.version)


def _accepted(tx: Transaction, round_id: RoundId) -> dict[str, str]:
    """Return by site the submissions whose manifest was accepted."""
    return {each.site: each.digest for each in tx.submissions(round_id) if each.digest is not None}


def _counted(summed: RoundRow | None) -> str:
    """Return what the next draw depends on."""
    signed = None if summed is None else summed.signed
    return NO_RECORD if signed is None else members_digest(signed.body.members)


def _sum(tx: Transaction, summed: RoundRow) -> events.Sum:
    return events.Sum(summed.id.number, summed.id.attempt, tx.completed(summed.id), summed.phase is Phase.REJECTED)
