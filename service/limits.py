"""Back-pressure: how many requests at once, how many bodies in memory, how slowly a body may come.

Requests that wait in a long poll cost little and are counted apart from bodies, which cost memory. A body that has to
wait its turn is not read: TCP holds its sender back, which costs both less than refusing it and having it sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from he_agg.errors import Reason
from service.refusal import RefusedError
from service.settings import Settings

__all__ = ["Limits"]


class Limits:
    """Counts what is under way in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._requests = 0
        self._by_member: Counter[tuple[str, str]] = Counter()
        self._bodies = asyncio.Semaphore(settings.max_uploads)

    @property
    def under_way(self) -> int:
        """How many requests are, waiting ones included."""
        return self._requests

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Admit any request, before anything is known of it.

        Raises:
            RefusedError: `BUSY`.
        """
        if self._requests >= self._settings.max_requests:
            raise RefusedError(Reason.BUSY, f"{self._requests} requests are under way, and no more are taken")
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    @contextlib.contextmanager
    def member(self, federation: str, name: str) -> Iterator[None]:
        """Admit a request of a member that has proved who it is.

        Raises:
            RefusedError: `TOO_MANY_REQUESTS`.
        """
        key = (federation, name)
        if self._by_member[key] >= self._settings.max_site_requests:
            raise RefusedError(
                Reason.TOO_MANY_REQUESTS,
                f"{name} has {self._by_member[key]} requests under way, and no more are taken",
                "wait for answers before sending more",
            )
        self._by_member[key] += 1
        try:
            yield
        finally:
            self._by_member[key] -= 1
            if not self._by_member[key]:
                del self._by_member[key]

    @contextlib.asynccontextmanager
    async def body(self) -> AsyncIterator[None]:
        """Admit a body in memory, from its first byte until it is on the disk.

        Raises:
            RefusedError: `BUSY`: its turn did not come.
        """
        try:
            async with asyncio.timeout(self._settings.upload_queue_s):
                await self._bodies.acquire()
        except TimeoutError:
            raise RefusedError(
                Reason.BUSY, f"{self._settings.max_uploads} bodies are being read, and this one's turn did not come"
            ) from None
        try:
            yield
        finally:
            self._bodies.release()

    def time_for(self, length: int) -> float | None:
        """Return how long a body may take; None for no limit. Units: bytes, seconds."""
        rate = self._settings.min_rate
        return self._settings.slow_grace_s + length / rate if rate else None
