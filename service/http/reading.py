"""Read rows for a request: on the event loop where that waits for nobody, in a thread otherwise.

SQLite's readers wait for no writer, and a few statements take less than finding a thread for them does. PostgreSQL is
behind a network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from service.aggregator import Aggregator
from service.core.event_loop import OffLoopError

__all__ = ["run_reading"]

Answer = TypeVar("Answer")


async def run_reading(aggregator: Aggregator, look: Callable[[], Answer]) -> Answer:
    """Run what reads a few rows. It may run twice: what turns out to have to write goes to a thread."""
    if not aggregator.store.is_shared:
        try:
            return look()
        except OffLoopError:
            pass
    return await run_in_threadpool(look)
