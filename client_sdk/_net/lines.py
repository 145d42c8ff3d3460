"""Lines: a TCP connection, and TLS over any line, so that it goes through a proxy that speaks TLS itself, too.

Sockets do not block: a step is tried, and only if there is nothing to be had it is waited for, as long as the budget of
the request under way allows. Bytes land where the caller wants them.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import time
from typing import Any, Protocol

from client_sdk._net.budget import Budget, ClosedError, NoConnectionError

__all__ = ["Line", "TcpLine", "TlsLine"]

_CONNECT_S = 10.0
_STEP_BYTES = 2**18
"""At most so much is read or written at a time: what stays in a core's cache."""

_RECORDS_BYTES = 2**16

_LOOK_S = 1.0
"""So long one wait lasts at most. Python looks for signals before it and after it: one that comes in between, or to
another thread, interrupts nothing, and a Ctrl-C would be heard of when a poll of half a minute ends."""

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_Waiting = getattr(selectors, "PollSelector", selectors.SelectSelector)
"""Windows has no poll. Neither needs a descriptor of its own, as epoll does."""


class Line(Protocol):
    """Carries bytes both ways."""

    budget: Budget

    def receive(self, room: memoryview) -> int:
        """Wait for bytes and put them there; 0 when no more will come."""

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it."""

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come that nobody asked for, not even an end."""

    def shut(self) -> None:
        """End it, from any thread: whoever waits for it wakes up."""

    def close(self) -> None:
        """Give its socket back."""


class TcpLine:
    """A connection to a host, held to a budget.

    Raises:
        NoConnectionError: none of the host's addresses takes one; all of them share the time.
    """

    def __init__(self, host: str, port: int, budget: Budget) -> None:
        self.budget = budget
        until = time.monotonic() + _CONNECT_S
        fault = NoConnectionError(f"{host} has no address")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NoConnectionError(str(error)) from error
        for family, kind, protocol, _, address in found:
            try:
                self._socket = socket.socket(family, kind, protocol)
            except OSError as error:  # a system without IPv6
                fault = _because(error)
                continue
            try:
                self._connect(address, until)
                return
            except NoConnectionError as error:
                fault = error
            except BaseException:
                self._socket.close()
                raise
            self._socket.close()
        raise fault

    def _connect(self, address: tuple[Any, ...], until: float) -> None:
        self._socket.setblocking(False)
        self._waiting: selectors.BaseSelector = _Waiting()
        self._waiting.register(self._socket, _WRITE)
        try:
            with contextlib.suppress(BlockingIOError):
                self._socket.connect(address)
            left = min(self.budget.left(), until - time.monotonic())
            if left <= 0 or not self._waiting.select(left):
                raise NoConnectionError("timed out")
            if number := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, "")  # of the type that the number has
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise _because(error) from error

    def receive(self, room: memoryview) -> int:
        """See `Line.receive`."""
        room = room[:_STEP_BYTES]
        try:
            while True:
                with contextlib.suppress(BlockingIOError):
                    return self._socket.recv_into(room)
                self._wait(_READ)
        except OSError as error:
            raise ClosedError(str(error)) from error

    def send(self, data: bytes | memoryview) -> None:
        """See `Line.send`."""
        rest = memoryview(data)
        try:
            while rest:
                self.budget.left()
                try:
                    count = self._socket.send(rest[:_STEP_BYTES])
                except BlockingIOError:
                    self._wait(_WRITE)
                    continue
                self.budget.sent(count)
                rest = rest[count:]
        except OSError as error:
            raise ClosedError(str(error)) from error

    def _wait(self, what: int) -> None:
        self._waiting.modify(self._socket, what)
        until = time.monotonic() + self.budget.left()
        while not self._waiting.select(min(_LOOK_S, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                raise self.budget.over()

    @property
    def is_quiet(self) -> bool:
        """See `Line.is_quiet`."""
        self._waiting.modify(self._socket, _READ)
        return not self._waiting.select(0)

    def shut(self) -> None:
        """See `Line.shut`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `Line.close`."""
        self._socket.close()


class TlsLine:
    """TLS over another line.

    Raises:
        NoConnectionError: no handshake came about; its cause says why.
    """

    def __init__(self, below: Line, context: ssl.SSLContext, host: str) -> None:
        self._below = below
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._records = memoryview(bytearray(_RECORDS_BYTES))
        try:
            self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
            self._shake_hands()
        except ssl.SSLError as error:
            raise NoConnectionError(str(error)) from error

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLError:
                self._flush()  # the alert: why
                raise
            else:
                self._flush()
                return

    @property
    def budget(self) -> Budget:
        """What the request under way may take."""
        return self._below.budget

    @budget.setter
    def budget(self, budget: Budget) -> None:
        self._below.budget = budget

    def receive(self, room: memoryview) -> int:
        """See `Line.receive`."""
        room, count = room[:_STEP_BYTES], 0
        try:
            while count < len(room):
                try:
                    count += self._read(room[count:])
                except ssl.SSLWantReadError:
                    if count:
                        break
                    self._flush()
                    self._fill()
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLError as error:
            raise ClosedError(str(error)) from error
        return count

    def _read(self, room: memoryview) -> int:
        count: Any = self._tls.read(len(room), room)
        return int(count)

    def send(self, data: bytes | memoryview) -> None:
        """See `Line.send`."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest[:_RECORDS_BYTES]) :]
                self._flush()
        except ssl.SSLError as error:
            raise ClosedError(str(error)) from error

    def _fill(self) -> None:
        count = self._below.receive(self._records)
        if count:
            self._in.write(self._records[:count])
        else:
            self._in.write_eof()

    def _flush(self) -> None:
        if self._out.pending:
            self._below.send(self._out.read())

    @property
    def is_quiet(self) -> bool:
        """See `Line.is_quiet`."""
        return not self._tls.pending() and not self._in.pending and self._below.is_quiet

    def shut(self) -> None:
        """See `Line.shut`."""
        self._below.shut()

    def close(self) -> None:
        """See `Line.close`."""
        self._below.close()


def _because(error: OSError) -> NoConnectionError:
    fault = NoConnectionError(str(error))
    fault.__cause__ = error
    return fault
