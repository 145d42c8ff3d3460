"""Parts of a body: each is checked and stored in a thread while the next one arrives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from service.core.submissions.receive import Taken, Uploads
from service.core.submissions.runs import ExpectedPart, Run
from service.http.auth import Caller
from service.http.bodies import BodyReader
from service.limits import Limits

__all__ = ["take_run"]

_MARKED_EVERY_S = 2.0
"""A run that takes longer is marked in between: a process that is killed keeps what it knew by then. Units: seconds."""

_Keeping = asyncio.Task[tuple[ExpectedPart, ...]]


async def take_run(request: Request, run: Run, uploads: Uploads, limits: Limits, caller: Caller) -> Taken | None:
    """Read the parts of a run and take them in. What was stored of a run that breaks off stays.

    Returns:
        What the site is told, if a manifest comes behind them.

    Raises:
        RefusedError, WireError, ClientDisconnect: as the reader and `uploads` say.
    """
    reader, groups = BodyReader(request), run.groups()
    kept: list[ExpectedPart] = []
    keeping: _Keeping | None = None
    loop = asyncio.get_running_loop()
    marked_at = loop.time()
    try:
        for group in groups:
            if keeping is not None and not limits.has_room(caller.federation, caller.name):
                kept += await asyncio.shield(keeping)
                keeping = None
            async with contextlib.AsyncExitStack() as turn:
                # Turn by turn: a long submission on a slow link keeps nobody else waiting longer than a part does.
                await turn.enter_async_context(limits.body(caller.federation, caller.name))
                last, lengths = group is groups[-1], group.lengths()
                pieces = await _beside(keeping, reader.read(lengths, limits.time_for(sum(lengths)), last=last))
                if keeping is not None:
                    kept += keeping.result()
                    keeping = None
                if last:
                    return await run_in_threadpool(uploads.take, group, pieces, kept)
                keeping = asyncio.create_task(_keep(uploads, group, pieces, turn.pop_all()))
            if kept and loop.time() - marked_at > _MARKED_EVERY_S:
                await run_in_threadpool(uploads.mark, run, kept)
                kept, marked_at = [], loop.time()
    except BaseException:
        if keeping is not None:
            await asyncio.wait({keeping})
            if not keeping.cancelled() and keeping.exception() is None:
                kept += keeping.result()
        if kept:
            await run_in_threadpool(uploads.mark, run, kept)
        raise
    return None


async def _keep(
    uploads: Uploads, group: Run, pieces: Sequence[memoryview], turn: contextlib.AsyncExitStack
) -> tuple[ExpectedPart, ...]:
    async with turn:
        if group.begins:
            # The look at its head was a guess: it is given its room before more of it is kept.
            await run_in_threadpool(uploads.take, group, pieces)
            return ()
        return await run_in_threadpool(uploads.keep, group, pieces)


async def _beside(keeping: _Keeping | None, coming: Coroutine[Any, Any, list[memoryview]]) -> list[memoryview]:
    """Wait for the next part, and for the one before it to be stored; not for the next one if that fails."""
    if keeping is None:
        return await coming
    reading = asyncio.create_task(coming)
    try:
        await asyncio.wait({reading, keeping}, return_when=asyncio.FIRST_EXCEPTION)
        if keeping.done():
            keeping.result()
        return reading.result()
    finally:
        if not reading.done():
            reading.cancel()
            await asyncio.wait({reading})
