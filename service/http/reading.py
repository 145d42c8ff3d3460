"""Read rows for a request: on the event loop where that waits for nobody, in a thread otherwise.

SQLite's readers wait for no writer, and a few statements take less than finding a thread for them does. PostgreSQL is
behind a network.

Those threads do nothing else: all others may be waiting for a writer, a disk or an object store, and who is not
identified in the meantime is a stranger, of whom there may not be many. What turns out to have to write goes to those
others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync

from service.aggregator import Aggregator
from service.core.event_loop import READING, NotReadingError, OffLoopError

__all__ = ["run_reading"]

Answer = TypeVar("Answer")

_READERS = 4
"""Threads. With those of all requests they are as many as a process has connections to PostgreSQL."""

_limiter: RunVar[CapacityLimiter] = RunVar("readers")


async def run_reading(aggregator: Aggregator, look: Callable[[], Answer]) -> Answer:
    """Run what reads a few rows. It runs again, elsewhere, if they turn out to be many or something to be written."""
    before = READING.set(True)
    try:
        if not aggregator.store.is_shared:
            with contextlib.suppress(OffLoopError):
                return look()
        return await run_sync(look, limiter=_readers())
    except NotReadingError:
        pass
    finally:
        READING.reset(before)
    return await run_sync(look)


def _readers() -> CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        _limiter.set(limiter := CapacityLimiter(_READERS))
        return limiter
