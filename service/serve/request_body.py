"""Bodies of requests: what has come before anybody asks for it, and the rest straight into the asker's memory.

An event loop hands on what it has read as bytes of its own, the parser makes others of those that belong to a body, and
whoever puts a part together copies them a third time. The length of a body is in its head, so the parser has nothing to
find in it: the connection counts instead, and while somebody waits for a part, the kernel writes into that part.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Protocol

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = ["RequestBody"]

_WAKES_BYTES = 2**18
"""The kernel says that something is there when it is so much, or all that is waited for. Units: bytes."""


class Connection(Protocol):
    """What a body needs of the connection by which it comes."""

    transport: asyncio.Transport

    def count_body(self, length: int) -> None:
        """Take note that so much of the body has come past the parser. Units: bytes."""

    def resume_reading(self) -> None:
        """Read on, if that was stopped because nobody took what had come."""

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`, as the next three."""

    def eof_received(self) -> bool | None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class RequestBody:
    """The body of one request.

    Attributes:
        waiting: how much of it has come and was taken by nobody yet. Units: bytes.
        coming: how much of it has not come, where the head says how long it is. Units: bytes.
        taken: how much was handed out. Units: bytes.
    """

    def __init__(self, connection: Connection, cycle: RequestResponseCycle) -> None:
        self._connection = connection
        self._cycle = cycle
        self._pieces: deque[bytes | memoryview] = deque()
        self.waiting = self.coming = self.taken = 0

    def add(self, piece: bytes) -> None:
        """Keep a piece that came while nobody waited for it."""
        self._pieces.append(piece)
        self.waiting += len(piece)
        self._cycle.message_event.set()

    async def receive(self, wait: Receive) -> Message:
        """Hand out the next piece, as ASGI's messages."""
        message: Message = {"type": "http.request", "body": b"", "more_body": True}
        if not self._pieces:
            message = await wait()
        if self._pieces:
            piece = self._pieces.popleft()
            self.waiting -= len(piece)
            self.taken += len(piece)
            more = bool(self._pieces) or self._cycle.more_body
            message = {"type": "http.request", "body": piece, "more_body": more}
        return message

    async def fill(self, room: memoryview) -> int:
        """Fill memory with what comes next.

        Returns:
            How much it is: less only where the body ends. Units: bytes.

        Raises:
            ClientDisconnect: the peer went away before the end.
        """
        if self.coming and not self._pieces and self._cycle.waiting_for_100_continue:
            self._cycle.waiting_for_100_continue = False
            self._cycle.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        filled = 0
        while filled < len(room) and (self._pieces or self.coming):
            if self._pieces:
                filled += self._take(room[filled:])
            elif self._connection.transport.is_closing():
                raise ClientDisconnect
            else:
                filled += await self._come(room[filled : filled + self.coming])
        return filled

    def _take(self, room: memoryview) -> int:
        piece = self._pieces.popleft()
        count = min(len(piece), len(room))
        room[:count] = piece[:count]
        if count < len(piece):
            self._pieces.appendleft(memoryview(piece)[count:])
        self.waiting -= count
        self.taken += count
        return count

    async def _come(self, room: memoryview) -> int:
        coming = _Coming(self._connection, room)
        try:
            self._connection.resume_reading()
            await coming.done
        finally:
            coming.end()
            self.taken += coming.count
        return coming.count


class _Coming(asyncio.BufferedProtocol):
    """Stands in a connection's place while memory is filled with its bytes.

    Attributes:
        count: how many have come. Units: bytes.
        done: at the last of them, or of the connection.
    """

    def __init__(self, connection: Connection, room: memoryview) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._room = room
        self.count = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Of records of TLS, nobody here knows how many are still in the kernel.
        plain = self._transport.get_extra_info("ssl_object") is None and hasattr(socket, "SO_RCVLOWAT")
        self._socket = self._transport.get_extra_info("socket") if plain else None
        self._wakes_at = 1
        self._wake_at(min(len(room), _WAKES_BYTES))
        self._transport.set_protocol(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._room[self.count :]

    def buffer_updated(self, nbytes: int) -> None:
        self.count += nbytes
        left = len(self._room) - self.count
        if left:
            self._wake_at(min(left, _WAKES_BYTES))
        else:
            self.end()
        self._connection.count_body(nbytes)

    def end(self) -> None:
        """Give the connection its place back."""
        # In this order: of a connection that is lost, asyncio's TLS cannot say whose it is.
        if not self._transport.is_closing() and self._transport.get_protocol() is self:
            self._wake_at(1)
            self._transport.set_protocol(self._connection)  # type: ignore[arg-type]
        if not self.done.done():
            self.done.set_result(None)

    def _wake_at(self, count: int) -> None:
        if self._socket is not None and count != self._wakes_at:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._wakes_at = count

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
        self.end()

    def eof_received(self) -> bool | None:
        return self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
