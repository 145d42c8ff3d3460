"""HTTP/1.1 on a line: one request and its answer.

h11 reads and writes heads, and bodies without a length. A body whose length is known passes it by, from the line
straight to where it belongs. Redirects are not followed, cookies neither kept nor sent, compressed bodies not expanded:
nothing here knows of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h11

from client_sdk._effects import Sink
from client_sdk._net.budget import BadAnswerError, ClosedError
from client_sdk._net.lines import Line
from client_sdk.progress import Event

__all__ = ["Exchange", "Head"]

_MAX_EVENT_BYTES = 2**16
_ROOM_BYTES = 2**16
_BODILESS = (204, 304)


@dataclass(frozen=True)
class Head:
    """The head of an answer; names of fields are in lower case."""

    status: int
    headers: Mapping[str, str]


class Exchange:
    """One request on a line, and its answer.

    A class because an answer comes in pieces. Call `ask`, `send` the body if `ask` got none, then `head` and `body`.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_EVENT_BYTES)
        self._unsent: ClosedError | None = None
        self._length: int | None = None
        self._keeps = False
        self._read = False

    @property
    def leaves_line(self) -> bool:
        """Whether the line may be used for another request: all of this one, and of its answer, went over it."""
        return self._keeps and self._read and self._unsent is None

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send the head of a request, and a body if it is short."""
        head = self._h11.send(h11.Request(method=method, target=target, headers=[*headers.items()]))
        self.send((head or b"") + body)

    def send(self, piece: bytes | memoryview) -> None:
        """Send a piece of the body. If the other side takes no more, it may have answered why: see `head`."""
        if self._unsent is None:
            try:
                self._line.send(piece)
            except ClosedError as error:
                self._unsent = error

    @property
    def wants_more(self) -> bool:
        """Whether what is sent still arrives."""
        return self._unsent is None

    @property
    def has_rest(self) -> bool:
        """Whether bytes came after the head."""
        return bool(self._h11.trailing_data[0])

    def head(self) -> Head:
        """Wait for the head of the answer."""
        while isinstance(event := self._event(), h11.InformationalResponse):
            pass
        self._line.budget.heads = False
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        if event.status_code in _BODILESS:
            self._length = 0
        elif "transfer-encoding" not in headers and "content-length" in headers:
            self._length = int(headers["content-length"])
        ends = self._length is not None or "transfer-encoding" in headers
        self._keeps = ends and event.http_version == b"1.1" and "close" not in headers.get("connection", "").lower()
        return Head(event.status_code, headers)

    def body(self, sink: Sink) -> Iterator[Event]:
        """Put the body of the answer where it belongs.

        Yields:
            What is to be told about it.
        """
        if self._length is None:
            yield from self._unmeasured(sink)
        else:
            yield from self._measured(sink, self._length)
        self._read = True

    def _measured(self, sink: Sink, left: int) -> Iterator[Event]:
        already, _ = self._h11.trailing_data
        if len(already) > left:
            raise BadAnswerError("expected the announced number of bytes, got more")
        left -= len(already)
        yield from _poured(sink, already)
        while left:
            count = self._line.receive(sink.room()[:left])
            if not count:
                raise ClosedError(f"the connection was closed, {left} bytes of the answer are missing")
            self._line.budget.received(count)
            left -= count
            yield from _told(sink, count)

    def _unmeasured(self, sink: Sink) -> Iterator[Event]:
        while isinstance(event := self._event(), h11.Data):
            yield from _poured(sink, event.data)
        if self._h11.trailing_data[0]:
            raise BadAnswerError("expected one answer, got more bytes")

    def _event(self) -> Any:
        room = memoryview(bytearray(_ROOM_BYTES))
        try:
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                count = self._line.receive(room)
                self._line.budget.received(count)
                self._h11.receive_data(bytes(room[:count]))
        except h11.RemoteProtocolError as error:
            if self._h11.trailing_data[1]:
                raise ClosedError("the connection was closed before all of the answer was there") from error
            raise BadAnswerError(str(error)) from error
        return event


def _poured(sink: Sink, data: bytes | bytearray) -> Iterator[Event]:
    rest = memoryview(data)
    while rest:
        room = sink.room()
        count = min(len(room), len(rest))
        room[:count] = rest[:count]
        rest = rest[count:]
        yield from _told(sink, count)


def _told(sink: Sink, count: int) -> Iterator[Event]:
    event = sink.took(count)
    if event is not None:
        yield event
