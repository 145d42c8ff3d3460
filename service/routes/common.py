"""What several endpoints share: the aggregator behind a request, waiting, and entity tags."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from service.aggregator import Aggregator
from service.limits import Limits

__all__ = ["Limited", "Running", "Wait", "etag", "poll", "tag_matches"]

Answer = TypeVar("Answer")


def _aggregator(request: Request) -> Aggregator:
    aggregator: Aggregator = request.app.state.aggregator
    return aggregator


def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


Running = Annotated[Aggregator, Depends(_aggregator)]
"""Type of a route's parameter: the aggregator."""

Limited = Annotated[Limits, Depends(_limits)]
"""Type of a route's parameter: what is under way."""

Wait = Annotated[
    float,
    Query(
        ge=0, allow_inf_nan=False, description="How long to wait for news before answering, 60 at most. Units: seconds."
    ),
]
"""Type of a route's parameter: how long to wait."""


async def poll(
    aggregator: Aggregator, wait: float, look: Callable[[], Answer], enough: Callable[[Answer], bool]
) -> Answer:
    """Look until the answer is worth giving, or the wait is over, or the server stops.

    Args:
        aggregator: whose changes wake us.
        wait: Units: seconds.
        look: reads the store; runs in a thread.
        enough: whether to answer at once.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + min(wait, aggregator.settings.max_wait_s)
    while True:
        heard = aggregator.worker.bell.listen()  # before looking, so that nothing is missed in between
        answer = await run_in_threadpool(look)
        left = end - loop.time()
        if enough(answer) or left <= 0 or aggregator.worker.stopping:
            return answer
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(heard.wait(), left)


def etag(digest: str) -> str:
    """A strong entity tag: content with the same digest is the same content."""
    return f'"{digest}"'


def tag_matches(request: Request, digest: str) -> bool:
    """Whether the caller has this content already (If-None-Match)."""
    tags = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    return etag(digest) in [tag.removeprefix("W/") for tag in tags]
