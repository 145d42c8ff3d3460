"""One snapshot for all who look: however many pages are open, the store is read once a second, and only then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool

from service.aggregator import Aggregator
from service.monitor.monitoring import Watching
from service.monitor.view import take_view

__all__ = ["MAX_VIEWERS", "Live"]

MAX_VIEWERS = 32
"""Pages at once. A page costs a connection and, each second, as many bytes as the snapshot has."""

_EVERY_S = 1.0
"""Parts that come in ring no bell, so there is a look at least this often. Units: seconds."""

_FRESH_S = 0.4
_WHOLE_S = 10.0
"""A snapshot is sent this often though nothing has changed but the time. Units: seconds."""

_PULSE_S = 2.0
"""Something is sent this often: a page that hears nothing for longer says that nobody answers. Units: seconds."""


class Live:
    """Makes snapshots."""

    def __init__(self, aggregator: Aggregator, watching: Watching) -> None:
        self._aggregator = aggregator
        self._watching = watching
        self._taken: tuple[float, dict[str, Any]] | None = None
        self._lock = asyncio.Lock()
        self.viewers = 0

    async def snapshot(self) -> dict[str, Any]:
        """Return a snapshot that is fresh enough."""
        async with self._lock:
            if self._taken is None or time.monotonic() - self._taken[0] > _FRESH_S:
                snapshot = await run_in_threadpool(
                    take_view,
                    self._aggregator.store,
                    self._aggregator.part_store,
                    self._aggregator.settings,
                    self._aggregator.conductor.now(),
                    process=self._watching.process(),
                )
                self._taken = (time.monotonic(), snapshot)
            return self._taken[1]

    async def events(self, lasts: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Send events: a snapshot at once, whenever something has changed, and now and then; a pulse in between.

        Args:
            lasts: whether whoever looks still may.
        """
        worker = self._aggregator.worker
        yield b"retry: 2000\n\n"
        last, sent_at, pulse_at = b"", 0.0, 0.0
        while not worker.stopping and lasts():
            heard = worker.bell.listen()
            snapshot = await self.snapshot()
            shown = _encode(_still(snapshot))
            if shown != last or time.monotonic() - sent_at >= _WHOLE_S:
                last, sent_at = shown, time.monotonic()
                pulse_at = sent_at
                yield b"event: snapshot\ndata: " + _encode(snapshot) + b"\n\n"
            elif time.monotonic() - pulse_at >= _PULSE_S:
                pulse_at = time.monotonic()
                yield b"event: pulse\ndata: 1\n\n"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(heard.wait(), _EVERY_S)
                await asyncio.sleep(_FRESH_S)  # a bell that rings often wakes us once


def _still(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Drop what changes by itself: the time and the free space."""
    federations = [
        {**one, "round": one["round"] and {**one["round"], "remaining_s": None}} for one in snapshot["federations"]
    ]
    storage = {**snapshot["storage"], "free_bytes": None}
    return {**snapshot, "now": None, "storage": storage, "federations": federations}


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
