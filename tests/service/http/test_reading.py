"""Rows are read for a request while all that others have to wait for takes its time."""

from __future__ import annotations

import asyncio
import threading

from anyio.to_thread import current_default_thread_limiter, run_sync

from service.aggregator import Aggregator
from service.core.event_loop import leave_event_loop
from service.http.reading import run_reading
from service.settings import Settings

PATIENCE_S = 20


def test_who_calls_is_found_out_while_every_thread_of_requests_waits_for_a_store(tmp_path):
    """Or a burst of long uploads has others hung up as strangers: those of a proxy, which is one address."""
    slow = threading.Event()

    async def ask() -> list[str]:
        aggregator = await run_sync(Aggregator.open, Settings(data_dir=tmp_path / "data"))

        def look() -> list[str]:
            leave_event_loop()
            with aggregator.store.read() as tx:
                return [row.name for row in tx.federations()]

        limiter = current_default_thread_limiter()
        waiting = [asyncio.create_task(run_sync(slow.wait, PATIENCE_S)) for _ in range(int(limiter.total_tokens))]
        try:
            while limiter.available_tokens:
                await asyncio.sleep(0.01)
            found = await asyncio.wait_for(run_reading(aggregator, look), PATIENCE_S / 2)
            assert not any(task.done() for task in waiting)
            return found
        finally:
            slow.set()
            await asyncio.gather(*waiting)
            await run_sync(aggregator.close)

    assert asyncio.run(ask()) == []
