"""Fold a round range by range, so that several workers do it side by side and each of them may die at any time.

A range is a few consecutive parts of a sum, and has a lease. Whoever lets its range go and finds the whole sum durable
publishes the round, in that transaction: writers are alone in the database, so that is always somebody.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from he_agg.ids import RoundId
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import PartPlace
from service.core.conductor import Conductor
from service.core.made_sums import MadeSums
from service.core.submissions.running_sums import RunningSums
from service.domain import events
from service.domain.events import Phase
from service.failpoints import failpoint
from service.logs import log
from service.observers import Fold
from service.settings import Settings
from service.store.parts.base import SUM, PartKey, PartStore
from service.store.rows import RoundRow
from service.store.sql import Store
from service.store.transaction import Transaction
from service.work.folding import CorruptPartError, fold_round
from service.work.leases import Lease, LeaseLostError, Leases

__all__ = ["RANGE_PARTS", "Folder"]

RANGE_PARTS = 8
"""How many parts of a sum have one lease: as many as a worker makes at once, and few enough that a round of 10^8 values
keeps a dozen workers busy. A short model is one range, which costs what a lease for the whole round would."""

_UNDER_WAY = (Phase.CLOSED, Phase.FOLDING)


class _Range(NamedTuple):
    """What one worker makes, and its right to."""

    places: tuple[PartPlace, ...]
    plan: PublicPlan
    lease: Lease


@dataclass(frozen=True)
class _Standing:
    """How far a round's sum is.

    Attributes:
        free: ranges in which a part is missing, while nobody makes them and no damaged part is waited for.
        done: whether the whole sum is durable.
        overdue: the site that has not sent a damaged part again in time; None while that can wait.
    """

    free: list[int]
    done: bool
    overdue: str | None


class Folder:
    """Makes sums for one process, one range after another."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        part_store: PartStore,
        conductor: Conductor,
        leases: Leases,
        sums: RunningSums,
        made: MadeSums,
    ) -> None:
        self._settings = settings
        self._store = store
        self._part_store = part_store
        self._conductor = conductor
        self._leases = leases
        self._sums = sums
        self._made = made
        self._stopped = threading.Event()
        self.on_fold: Callable[[Fold], None] = _nobody

    def stop(self) -> None:
        """Make `fold` end after the parts that are being made."""
        self._stopped.set()

    def is_due(self, tx: Transaction, row: RoundRow) -> bool:
        """Tell whether `fold` has anything to do for a round that is closed."""
        federation = tx.federation(row.id.federation)
        if federation is None:
            return False
        standing = self._standing(tx, row.id, federation.parsed.plan)
        return bool(standing.free) or standing.done or standing.overdue is not None

    def fold(self, round_id: RoundId) -> None:
        """Make ranges until none is free, and publish the round if that was all of it."""
        began, began_at = time.perf_counter(), time.time()
        self._forget_lost(round_id)
        worked = published = False
        try:
            while not published and not self._stopped.is_set() and (taken := self._begin(round_id)) is not None:
                worked, made = True, False
                try:
                    hold = partial(self._leases.hold, lease=taken.lease)
                    made = fold_round(
                        self._store,
                        self._part_store,
                        taken.plan,
                        round_id,
                        self._stopped.is_set,
                        places=taken.places,
                        threads=self._settings.fold_threads,
                        hold=hold,
                        on_damage=partial(self._ask_again, round_id, hold),
                        running=partial(self._sums.take, round_id),
                        keep=self._made.keep,
                    )
                    failpoint("folding.done")
                finally:
                    published = self._let_go(round_id, taken, made)
        except LeaseLostError:
            log(logging.WARNING, "another replica has taken over", round_id=str(round_id))
        if published:
            ms = round((time.perf_counter() - began) * 1000, 1)
            log(logging.INFO, "published", round_id=str(round_id), ms=ms)
        if worked:
            self.on_fold(Fold(round_id, began_at, time.time(), "published" if published else "unfinished"))

    def _begin(self, round_id: RoundId) -> _Range | None:
        """Take a range that is free; None if there is none, or the round is over."""
        with self._store.write() as tx:
            row, federation = tx.round(round_id), tx.federation(round_id.federation)
            if row is None or federation is None or row.phase not in _UNDER_WAY:
                return None
            plan = federation.parsed.plan
            standing = self._standing(tx, round_id, plan)
            if standing.overdue is not None:
                self._give_up(tx, round_id, standing.overdue)
                return None
            self._conductor.apply_in(tx, round_id.federation, events.FoldBegan(round_id.number, round_id.attempt))
            if standing.done:  # by a process that ended before it could say so
                self._publish(tx, round_id)
                log(logging.INFO, "published", round_id=str(round_id))
            if not standing.free:
                return None
            number = standing.free[0]
            lease = self._leases.take_in(tx, f"{_leases_of(round_id)}{number}")
        failpoint("folding.began")
        return _Range(_ranges(plan)[number], plan, lease)

    def _let_go(self, round_id: RoundId, taken: _Range, made: bool) -> bool:
        """Give a range back. Returns whether that has published the round."""
        with self._store.write() as tx:
            if not self._leases.release_in(tx, taken.lease) or not made:
                return False
            if not self._standing(tx, round_id, taken.plan).done:
                return False
            self._publish(tx, round_id)
            return True

    def _publish(self, tx: Transaction, round_id: RoundId) -> None:
        self._conductor.apply_in(tx, round_id.federation, events.Folded(round_id.number, round_id.attempt))
        tx.drop_leases(_leases_of(round_id))

    def _give_up(self, tx: Transaction, round_id: RoundId, site: str) -> None:
        """Fail a round that has waited long enough for a part to be sent again."""
        log(logging.CRITICAL, "a damaged part did not come again; the round fails", round_id=str(round_id))
        self._conductor.apply_in(tx, round_id.federation, events.FoldBroke(round_id.number, round_id.attempt, site))
        tx.drop_leases(_leases_of(round_id))  # who makes a range of it writes nothing more

    def _standing(self, tx: Transaction, round_id: RoundId, plan: PublicPlan) -> _Standing:
        durable, damaged = tx.sum_digests(round_id).keys(), tx.damaged(round_id)
        overdue = None
        if damaged and self._conductor.now() >= damaged[0].damaged_at + self._settings.repair_wait_s:
            overdue = damaged[0].site
        missing = [
            number
            for number, places in enumerate(_ranges(plan))
            if any(place.number not in durable for place in places)
        ]
        waiting = {part.number // RANGE_PARTS for part in damaged}
        taken = self._leases.taken(tx, _leases_of(round_id))
        free = [n for n in missing if n not in waiting and f"{_leases_of(round_id)}{n}" not in taken]
        return _Standing(free, not missing, overdue)

    def _forget_lost(self, round_id: RoundId) -> None:
        """Have parts made again that rows name and the store has not: it may have been restored since."""
        with self._store.read() as tx:
            durable = tx.sum_digests(round_id)
        lost = [number for number in durable if self._part_store.size(PartKey(round_id, SUM, number)) is None]
        if lost:
            with self._store.write() as tx:
                tx.forget_sum(round_id, lost)

    def _ask_again(self, round_id: RoundId, hold: Callable[[Transaction], None], error: CorruptPartError) -> None:
        """Make a damaged part missing again. Its site has it, and only the very same bytes are taken."""
        log(
            logging.CRITICAL,
            "a stored part is not what was received; its site is asked for it again",
            round_id=str(round_id),
            site=error.site,
            upload=error.upload,
            n=error.number,
        )
        with self._store.write() as tx:
            hold(tx)
            tx.mark_damaged(error.upload, error.number, int(self._conductor.now()))
            tx.report(
                "part.damaged",
                federation=round_id.federation,
                round=str(round_id),
                member=error.site,
                part=error.number,
            )
            tx.bump()


def _ranges(plan: PublicPlan) -> list[tuple[PartPlace, ...]]:
    """Return the parts of each range."""
    places = plan.places
    return [places[begin : begin + RANGE_PARTS] for begin in range(0, len(places), RANGE_PARTS)]


def _leases_of(round_id: RoundId) -> str:
    """Return how the names of all leases of a round begin."""
    return f"fold:{round_id}:"


def _nobody(_: Fold) -> None:
    """Do nothing: nobody listens."""
