"""Background work: deadlines, folding, scrubbing, and waking whoever waits.

Nothing is queued. Every pass looks at what the store says and does what is due, so a restart, or a command of the
operator in another process, needs no message to get here: being noticed at the next pass is enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from functools import partial

from starlette.concurrency import run_in_threadpool

from he_agg.ids import RoundId
from service import rounds
from service.conductor import Conductor
from service.failpoints import failpoint
from service.folding import CorruptPartError, fold_round, warm_up
from service.logs import log
from service.rounds import Phase
from service.settings import Settings
from service.store.base import Store
from service.store.blobs import Blobs

__all__ = ["Bell", "Worker"]


class Bell:
    """Wakes everybody who listens. Listen first, then look: what happens in between is not missed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """An event that the next `ring` sets."""
        return self._event

    def ring(self) -> None:
        """Wake all who listen now."""
        self._event.set()
        self._event = asyncio.Event()


class Worker:
    """One loop. Started and stopped by the application's lifespan."""

    def __init__(self, settings: Settings, store: Store, blobs: Blobs, conductor: Conductor) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._conductor = conductor
        self.bell = Bell()
        self.stopping = False
        self._stopped = asyncio.Event()
        self._poked = asyncio.Event()
        self._stop_folding = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._folds: dict[RoundId, asyncio.Task[None]] = {}
        self._one_fold = asyncio.Semaphore(1)

    async def start(self) -> None:
        """Begin. Rounds that were closed or folding when the last process ended are taken up again."""
        await run_in_threadpool(warm_up)
        self._task = asyncio.create_task(self._run(), name="worker")

    def poke(self) -> None:
        """Something has changed in this process: look now."""
        self.bell.ring()
        self._poked.set()

    def release_waiters(self) -> None:
        """Let long polls answer at once, for the server wants to stop."""
        self.stopping = True
        self.bell.ring()

    async def stop(self) -> None:
        """End, after the part that is being folded."""
        self.release_waiters()
        self._stop_folding.set()
        self._stopped.set()
        self._poked.set()
        # Not cancelled but awaited: a thread cannot be cancelled, and the store is closed after this.
        tasks = [task for task in (self._task, *self._folds.values()) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

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
        self._conductor.tick_all()
        with self._store.read() as tx:
            generation = tx.generation()
            to_fold = [row.id for row in tx.rounds_in([Phase.CLOSED, Phase.FOLDING])]
            to_scrub = tx.unscrubbed()
        for row in to_scrub:
            # Files first: once the rows say that a round is scrubbed, nobody looks for its files again.
            if row.phase is Phase.FAILED:
                self._blobs.remove_round(row.id)
            else:
                self._blobs.remove_submissions(row.id)
            failpoint("scrubbing.files_gone")
            with self._store.write() as tx:
                tx.scrub(row.id)
        return generation, to_fold

    async def _fold(self, round_id: RoundId) -> None:
        try:
            async with self._one_fold:
                await run_in_threadpool(self._fold_now, round_id)
        except Exception as error:
            # Out of space, out of files: the set is closed and stays, so trying again is all there is to do.
            log(logging.ERROR, "folding failed; trying again", error=error, round_id=str(round_id))
            await _wait(self._stopped, self._settings.fold_retry_s)
        finally:
            del self._folds[round_id]
            self.poke()

    def _fold_now(self, round_id: RoundId) -> None:
        apply = partial(self._conductor.apply, round_id.federation)
        apply(rounds.FoldBegan(round_id.number, round_id.attempt))
        with self._store.read() as tx:
            row = tx.federation(round_id.federation)
        if row is None:
            return
        failpoint("folding.began")
        began = time.perf_counter()
        try:
            done = fold_round(self._store, self._blobs, row.parsed.plan, round_id, self._stop_folding.is_set)
        except CorruptPartError as error:
            log(
                logging.CRITICAL,
                "a stored part is not what was received; the round fails",
                round_id=str(round_id),
                site=error.site,
                submission_id=error.submission_id,
                n=error.number,
            )
            apply(rounds.FoldBroke(round_id.number, round_id.attempt, error.site))
            return
        if done:
            failpoint("folding.done")
            apply(rounds.Folded(round_id.number, round_id.attempt))
            ms = round((time.perf_counter() - began) * 1000, 1)
            log(logging.INFO, "published", round_id=str(round_id), ms=ms)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
