"""Flows side by side: in threads for the blocking driver, in tasks for the one on asyncio."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from client_sdk._protocol.effects import Flow, Together
from client_sdk.progress import Event, Listener

__all__ = ["run_in_tasks", "run_in_threads"]


def run_in_threads(effect: Together, run: Callable[[Flow[Any], Listener], Any], listener: Listener) -> list[Any]:
    """Carry out a `Together`, each flow in a thread. The listener is called in the caller's thread only.

    Raises:
        Exception: the first that a flow raised, in their order.
    """
    told: queue.SimpleQueue[Event | Future[Any]] = queue.SimpleQueue()
    failed = threading.Event()

    def work(make: Callable[[], Flow[Any]]) -> Any:
        if failed.is_set():
            return None
        try:
            return run(make(), told.put)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(effect.width, thread_name_prefix="he-agg-site") as pool:
        try:
            futures = [pool.submit(work, make) for make in effect.flows]
            for future in futures:
                future.add_done_callback(told.put)
            left = len(futures)
            while left:
                event = told.get()
                if not isinstance(event, Future):
                    listener(event)
                    continue
                left -= 1
                if not failed.is_set():
                    listener(effect.each(event.result()))
        except BaseException:  # the listener's error, or Ctrl-C: nothing more begins
            failed.set()
            raise
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise errors[0]
    return [future.result() for future in futures]


async def run_in_tasks(
    effect: Together, run: Callable[[Flow[Any], Listener], Awaitable[Any]], listener: Listener
) -> list[Any]:
    """Carry out a `Together`, each flow in a task.

    Raises:
        Exception: the first that a flow raised, in their order.
    """
    turn = asyncio.Semaphore(effect.width)
    failed = False

    async def work(make: Callable[[], Flow[Any]]) -> Any:
        nonlocal failed
        async with turn:
            if failed:
                return None
            try:
                result = await run(make(), listener)
                if not failed:
                    listener(effect.each(result))
            except BaseException:
                failed = True
                raise
            return result

    tasks = [asyncio.ensure_future(work(make)) for make in effect.flows]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        failed = True
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)  # what is under way is cleaned up before this one ends
        raise
    errors = [error for task in tasks if (error := task.exception()) is not None]
    if errors:
        raise errors[0]
    return [task.result() for task in tasks]
