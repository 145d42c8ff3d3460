"""Background work: deadlines, folding, scrubbing, and waking whoever waits.

Nothing is queued. Every pass looks at what the store says and does what is due, so a restart, a command of the operator
in another process, or a replica that died needs no message to get here: being noticed at the next pass is enough.
Leases see to it that replicas do not all do the same; closing needs none, since one transaction decides it. A process
that only serves looks for nothing but news, for those who wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial

from starlette.concurrency import run_in_threadpool

from he_agg.ids import RoundId
from service.core.conductor import Conductor
from service.core.made_sums import MadeSums
from service.core.submissions.running_sums import RunningSums
from service.domain.events import Phase
from service.logs import log
from service.observers import Fold
from service.settings import Settings
from service.store.news import Ear
from service.store.parts.base import PartStore
from service.store.sql import Store
from service.work.folder import Folder
from service.work.folding import warm_up
from service.work.housekeeping import Housekeeper
from service.work.leases import LeaseLostError, Leases

__all__ = ["Worker"]

_SWEEP_LEASE = "sweep"
_FOLD_RETRY_S = 5.0
"""Pause after a failed attempt to fold."""


class Bell:
    """Wakes everybody who listens. Listen first, then look: what happens in between is not missed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """Return an event that the next `ring` sets."""
        return self._event

    def ring(self) -> None:
        """Wake all who listen now."""
        self._event.set()
        self._event = asyncio.Event()


class Worker:
    """One loop. Started and stopped by the application's lifespan."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        part_store: PartStore,
        conductor: Conductor,
        sums: RunningSums,
        made: MadeSums,
    ) -> None:
        self._settings = settings
        self._store = store
        self._part_store = part_store
        self._conductor = conductor
        self._made = made
        self._leases = Leases(store, conductor.now, settings.lease_s)
        self.folder = Folder(settings, store, part_store, conductor, self._leases, sums, made)
        self._housekeeper = Housekeeper(settings, store, part_store, conductor.now)
        self._swept: tuple[int, float] | None = None
        self.bell = Bell()
        self.stopping = False
        self._stopped = asyncio.Event()
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ear: Ear | None = None
        self._folds: dict[RoundId, asyncio.Task[None]] = {}
        self._one_fold = asyncio.Semaphore(1)

    async def start(self) -> None:
        """Begin. Rounds that were closed or folding when the last process ended are taken up again."""
        await run_in_threadpool(warm_up)
        loop = asyncio.get_running_loop()
        self._ear = Ear(self._settings, lambda: loop.call_soon_threadsafe(self._poked.set))
        self._task = asyncio.create_task(self._run(), name="worker")

    def poke(self) -> None:
        """Look now, and wake whoever waits: something has changed in this process."""
        self.bell.ring()
        self.nudge()

    def nudge(self) -> None:
        """Look now. Whoever waits is woken if rounds have changed."""
        self._poked.set()

    def release_waiters(self) -> None:
        """Let long polls answer at once, for the server wants to stop."""
        self.stopping = True
        self.bell.ring()

    async def stop(self) -> None:
        """End, after the part that is being folded."""
        self.release_waiters()
        self.folder.stop()
        self._stopped.set()
        self._poked.set()
        # Not cancelled but awaited: a thread cannot be cancelled, and the store is closed after this.
        tasks = [task for task in (self._task, *self._folds.values()) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._ear is not None:
            await run_in_threadpool(self._ear.close)

    async def _run(self) -> None:
        generation = -1
        while not self._stopped.is_set():
            self._poked.clear()
            try:
                latest, to_fold = await run_in_threadpool(self._look)
            except Exception as error:
                log(logging.ERROR, "background pass failed", error=error)
            else:
                for round_id in to_fold:
                    if round_id not in self._folds and not self._stopped.is_set():
                        self._folds[round_id] = asyncio.create_task(self._fold(round_id))
                if latest != generation:
                    generation = latest
                    self.bell.ring()
            if not self._stopped.is_set():
                await _wait(self._poked, self._settings.recheck_s)

    def _look(self) -> tuple[int, list[RoundId]]:
        if not self._settings.work:
            with self._store.read() as tx:
                return tx.generation(), []
        self._made.forget_old()
        self._conductor.tick_all()
        with self._store.read() as tx:
            generation = tx.generation()
            closed = tx.rounds_in([Phase.CLOSED, Phase.FOLDING])
            to_fold = [row.id for row in closed if self.folder.is_due(tx, row)]
        try:
            self._sweep(generation)
        except Exception as error:
            # What stays too long is no reason not to fold.
            log(logging.ERROR, "removing failed; trying again", error=error)
        return generation, to_fold

    def _sweep(self, generation: int) -> None:
        """Remove what is due: after every change, and now and then for what only time makes due."""
        now = time.monotonic()
        if self._swept is not None:
            swept_generation, swept_at = self._swept
            if swept_generation == generation and now - swept_at < self._settings.sweep_s:
                return
        with self._store.read() as tx:
            needed = self._housekeeper.is_needed(tx)
            if needed and not self._leases.is_free(tx, _SWEEP_LEASE):
                return
        lease = self._leases.take(_SWEEP_LEASE) if needed else None
        if needed and lease is None:
            return
        if lease is not None:
            try:
                self._housekeeper.run(partial(self._leases.hold, lease=lease))
            except LeaseLostError:
                return
            finally:
                self._leases.release(lease)
        self._swept = (generation, now)

    async def _fold(self, round_id: RoundId) -> None:
        began = time.time()
        try:
            async with self._one_fold:
                await run_in_threadpool(self.folder.fold, round_id)
        except Exception as error:
            # Out of space, out of files: the set is closed and stays, so trying again is all there is to do.
            log(logging.ERROR, "folding failed; trying again", error=error, round_id=str(round_id))
            self.folder.on_fold(Fold(round_id, began, time.time(), "error"))
            await _wait(self._stopped, _FOLD_RETRY_S)
        finally:
            del self._folds[round_id]
            self.poke()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
