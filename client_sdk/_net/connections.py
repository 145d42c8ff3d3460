"""Connections that keep to what the request under way may take: so much time, and so many bytes of heads.

HTTP libraries bound the silence between two bytes, so that a byte now and then holds them for ever: in the head of an
answer, in interim answers (1xx) without end, in a body, in the fields after its last chunk. Here every step on the
socket gets what is left of the request's whole time, which grows only with the bytes that get through.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpcore

__all__ = ["AsyncBackend", "Backend", "Budget", "within"]

_MAX_HEAD_BYTES = 2**16
_WRITE_BYTES = 2**14
"""As much as one record of TLS takes, so that a step is one call of the system."""


@dataclass
class Budget:
    """What one request may take.

    Attributes:
        step_s: how long the other side may do nothing, and how long the whole may take beside its bytes.
        bytes_per_s: the least rate: so much longer it may take for each byte.
        until: when it ends, on the monotonic clock.
        heads: whether the head of the answer is still to come.
    """

    step_s: float
    bytes_per_s: float
    until: float = field(init=False)
    heads: bool = True
    _head_bytes: int = 0

    def __post_init__(self) -> None:
        self.until = time.monotonic() + self.step_s

    def left(self, most_s: float | None = None) -> float:
        """Return how long the next step may take."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout(
                f"timed out: expected an answer within {self.step_s:.0f} s "
                f"and at {self.bytes_per_s:.0f} bytes a second or more"
            )
        return min(left, self.step_s if most_s is None else most_s)

    def moved(self, n_bytes: int) -> None:
        """Count what got through, either way."""
        self.until += n_bytes / self.bytes_per_s

    def received(self, data: bytes) -> bytes:
        """Count what came in."""
        if self.heads:
            if self._head_bytes > _MAX_HEAD_BYTES:
                raise httpcore.RemoteProtocolError(f"expected at most {_MAX_HEAD_BYTES} bytes before the answer")
            self._head_bytes += len(data)
        else:
            self.moved(len(data))
        return data


_current: ContextVar[Budget] = ContextVar("he_agg_budget")


@contextlib.contextmanager
def within(budget: Budget) -> Iterator[None]:
    """Hold this thread's or task's connections to a budget."""
    token = _current.set(budget)
    try:
        yield
    finally:
        _current.reset(token)


class _Stream(httpcore.NetworkStream):
    """A connection each of whose steps is held to the budget."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the budget decides
        budget = _current.get()
        return budget.received(self._inner.read(max_bytes, budget.left()))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        budget = _current.get()
        for piece in _pieces(buffer):
            self._inner.write(piece, budget.left())
            budget.moved(len(piece))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _current.get().left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class Backend(httpcore.SyncBackend):
    """Opens connections that are held to the budget of the thread that uses them."""

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.NetworkStream:
        """Connect to the first address that answers; all of them share the budget, whatever their number."""
        budget = _current.get()
        fault: Exception = httpcore.ConnectError(f"{host} has no address")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for *_, address in found:
            try:
                return _Stream(super().connect_tcp(str(address[0]), port, budget.left(timeout), *args, **options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                fault = error
        raise fault


class _AsyncStream(httpcore.AsyncNetworkStream):
    """The same on asyncio."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        budget = _current.get()
        return budget.received(await self._inner.read(max_bytes, budget.left()))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        budget = _current.get()
        for piece in _pieces(buffer):
            await self._inner.write(piece, budget.left())
            budget.moved(len(piece))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        left = _current.get().left(timeout)
        return _AsyncStream(await self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class AsyncBackend(httpcore.AnyIOBackend):
    """Opens connections that are held to the budget of the task that uses them."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        *args: Any,
        **options: Any,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers, all of them within one time."""
        return _AsyncStream(await super().connect_tcp(host, port, _current.get().left(timeout), *args, **options))


def _pieces(buffer: bytes) -> Iterator[bytes]:
    return (buffer[start : start + _WRITE_BYTES] for start in range(0, len(buffer), _WRITE_BYTES))
