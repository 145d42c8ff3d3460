"""Back-pressure: how many requests at once, how many bodies in memory, how slowly a body may come.

Requests that wait in a long poll cost little and are counted apart from bodies, which cost memory. A body that has to
wait its turn is not read: TCP holds its sender back, which costs both less than refusing it and having it sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from he_agg.errors import Reason
from service.refusal import RefusedError
from service.settings import Settings

__all__ = ["BODY", "KNOWN", "Body", "Limits"]

KNOWN = "he_agg.known"
"""Where in a request's scope there is what to call when its sender has proved who it is."""

BODY = "he_agg.body"
"""Where in a request's scope there is its `Body`, if the server hands it out."""


class Body(Protocol):
    """A request's body, beside ASGI's messages.

    Attributes:
        taken: how much of it was handed out, in whatever way. Units: bytes.
    """

    taken: int

    async def fill(self, room: memoryview) -> int:
        """Fill memory with what comes next, and return how much that is: less only where the body ends."""


Member = tuple[str, str]
"""A federation and a name in it."""


class _Slots:
    """A number of places. Nobody gets another one while it has as many as are free.

    So a single member has half of them at most and ten together have ten elevenths, and whoever has none finds one,
    whatever the others do.
    """

    def __init__(self, total: int) -> None:
        self._held: Counter[Member] = Counter()
        self.free = total

    def may_take(self, member: Member) -> bool:
        return self._held[member] < self.free

    def held_by(self, member: Member) -> int:
        return self._held[member]

    @contextlib.contextmanager
    def one(self, member: Member) -> Iterator[None]:
        self.free -= 1
        self._held[member] += 1
        try:
            yield
        finally:
            self.free += 1
            self._held[member] -= 1
            if not self._held[member]:
                del self._held[member]


class Limits:
    """Counts what is under way in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._unproved = 0
        self._requests = _Slots(settings.max_requests)
        self._bodies = _Slots(settings.max_uploads)
        self._freed = asyncio.Event()

    @property
    def under_way(self) -> int:
        """How many requests are, waiting ones included."""
        return self._settings.max_requests - self._requests.free + self._unproved

    @contextlib.contextmanager
    def unproved(self) -> Iterator[None]:
        """Admit any request while nothing is known of it but its head.

        Raises:
            RefusedError: `BUSY`.
        """
        if self._unproved >= self._settings.max_requests:
            raise RefusedError(Reason.BUSY, f"{self._unproved} requests are being looked at, and no more are taken")
        self._unproved += 1
        try:
            yield
        finally:
            self._unproved -= 1

    @contextlib.contextmanager
    def request(self, federation: str, name: str) -> Iterator[None]:
        """Admit a request of a member that has proved who it is.

        Raises:
            RefusedError: `TOO_MANY_REQUESTS`, or `BUSY`.
        """
        member, held = (federation, name), self._requests.held_by((federation, name))
        if held >= self._settings.max_site_requests:
            raise RefusedError(
                Reason.TOO_MANY_REQUESTS,
                f"{name} has {held} requests under way, and no more are taken",
                "wait for answers before sending more",
            )
        if not self._requests.may_take(member):
            raise RefusedError(Reason.BUSY, f"{self.under_way} requests are under way, and the rest is for others")
        with self._requests.one(member):
            yield

    def has_room(self, federation: str, name: str) -> bool:
        """Tell whether one more body of a member would not have to wait."""
        return self._bodies.may_take((federation, name))

    @contextlib.asynccontextmanager
    async def body(self, federation: str, name: str) -> AsyncIterator[None]:
        """Admit a member's body in memory, from its first byte until it is on the disk.

        Raises:
            RefusedError: `BUSY`: its turn did not come.
        """
        member = (federation, name)
        try:
            async with asyncio.timeout(self._settings.upload_queue_s):
                while not self._bodies.may_take(member):
                    await self._freed.wait()
        except TimeoutError:
            raise RefusedError(
                Reason.BUSY, f"{self._settings.max_uploads} bodies are being read, and this one's turn did not come"
            ) from None
        try:
            with self._bodies.one(member):
                yield
        finally:
            # All look, the longest waiting first: who may go next depends on what each of them holds.
            self._freed.set()
            self._freed = asyncio.Event()

    def time_for(self, length: int) -> float | None:
        """Return how long a body may take; None for no limit. Units: bytes, seconds."""
        rate = self._settings.min_rate
        return self._settings.slow_grace_s + length / rate if rate else None
