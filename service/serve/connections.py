"""Connections: how long one may take, and how many whose sender has proved nothing an address may have.

uvicorn waits for ever for the head of a request, if now and then a byte of it comes, and for a peer that takes no byte
of its answer; asyncio waits a minute for a TLS handshake. All of that costs a file, of which a process has a limited
number, and needs no key. So each step has its time here, and where there are too many strangers, the oldest goes:
whoever is honest says who it is in the first request, within milliseconds, and is none from then on.

The parser, llhttp, takes a head of any length, versions of HTTP that uvicorn does not speak, and requests for no host.
That has its end here as well.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
from collections import deque
from functools import partial
from typing import Any

import httptools
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from he_agg.errors import Reason
from service.limits import BODY, KNOWN
from service.problems import MEDIA_TYPE
from service.serve.request_body import RequestBody
from service.settings import Settings

__all__ = ["Config"]

_STALLED_S = 60.0
"""How long a peer may take no byte of an answer: sites read on when they have worked on what they have."""

_HEAD_BYTES = 2**16
"""How much of one message may be something else than its body: the head, and what is between chunks and behind them."""

_BODY_FIELDS = (b"content-length", b"transfer-encoding")

_JOINED_BYTES = 2**16
"""What is as short is copied behind its head."""

_ADDRESSES = 8
"""All strangers together are as many as so many addresses may have."""


class Config(uvicorn.Config):
    """How each listener is served.

    Args:
        tls: the handshake's context; None for plain HTTP. uvicorn's own options would choose its ciphers.
    """

    def __init__(self, app: ASGIApp, settings: Settings, tls: ssl.SSLContext | None = None, **more: Any) -> None:
        super().__init__(
            app,
            http=_Connection,
            ws="none",
            loop="auto",  # uvloop where it is installed
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            **more,
        )
        self.tls = tls
        self.head_s = settings.head_s
        self.strangers = _Strangers(settings.max_strangers)


class _Strangers:
    """Connections of which nothing is known. Each new one that is too many costs the oldest its place."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: dict[_Connection, str] = {}
        self._by_address: dict[str, dict[_Connection, None]] = {}

    def add(self, connection: _Connection, address: str) -> None:
        here = self._by_address.setdefault(address, {})
        here[connection] = None
        self._all[connection] = address
        if len(here) > self._most:
            next(iter(here)).hang_up()
        elif len(self._all) > self._most * _ADDRESSES:
            next(iter(self._all)).hang_up()

    def remove(self, connection: _Connection) -> None:
        address = self._all.pop(connection, None)
        if address is not None:
            here = self._by_address[address]
            del here[connection]
            if not here:
                del self._by_address[address]


class _Answer:
    """A transport for one answer, whose head goes out with the body behind it: uvicorn writes them apart.

    Each costs a call into the kernel here, and one more there, where somebody may be woken for the head alone. A head
    that nothing follows within this turn of the event loop is not kept back any longer.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def write(self, data: bytes | memoryview) -> None:
        if self._head and len(data) <= _JOINED_BYTES:
            data, self._head = b"".join((self._head, data)), b""
        elif not self._head and data[:5] == b"HTTP/":
            self._head = bytes(data)
            self._loop.call_soon(self._flush)
            return
        self._flush()
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)


class _Connection(HttpToolsProtocol):
    config: Config

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._inner = self.app
        self.app = self._answer
        self._answering = False
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._early: bytes | None = None  # what came before the handshake began, or before its end was heard of
        self._handshake: asyncio.Task[None] | None = None
        self._bodies: deque[RequestBody] = deque()  # of requests that nobody answers yet
        self._in_head = False
        self._framing = 0  # bytes of this message that are not its body
        self._body: RequestBody | None = None
        self._announced: int | None = None  # how much of this message's body the parser is to be given yet

    # asyncio's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._line = transport
        self.config.strangers.add(self, _address(transport))
        if self.config.tls is None:
            self._begin(transport)
        else:
            self._early = b""
            self._handshake = self.loop.create_task(self._shake_hands(transport, self.config.tls))

    def connection_lost(self, exc: Exception | None) -> None:
        self.config.strangers.remove(self)
        self._disarm()
        if self.transport is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._early is not None:
            self._early += data
        else:
            self._feed(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._arm(_STALLED_S)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answering:
            self._disarm()

    async def _shake_hands(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        handshake = self.loop.create_task(
            self.loop.start_tls(transport, self, tls, server_side=True, ssl_handshake_timeout=self.config.head_s)
        )
        await asyncio.sleep(0)  # from here on, what comes is the handshake's
        if self._early:  # uvloop reads before any task has run
            self.loop.call_soon(_feed_tls, transport.get_protocol(), self._early)
            self._early = b""
        try:
            secured = await handshake
        except OSError:
            secured = None
        if secured is None or secured.is_closing():  # it failed, or the peer has gone away since
            self.config.strangers.remove(self)
            return
        early, self._early = self._early, None
        self._begin(secured)
        if early:
            self._feed(early)

    def _begin(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._arm(self.config.head_s)

    # one request after another

    def _feed(self, data: bytes) -> None:
        if self._body is not None and (coming := self._body.coming):
            self._unset_keepalive_if_required()
            self._keep(data[:coming])
            self.count_body(min(coming, len(data)))
            data = data[coming:]
            if not data or self.transport.is_closing():
                return
        self._framing += len(data)
        super().data_received(data)
        if self._body is not None and self._announced:  # from here on it is counted
            self._body.coming, self._announced = self._announced, None
        if self._framing > _HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("")

    def count_body(self, length: int) -> None:
        """Take note that so much of the body has come past the parser. Units: bytes."""
        if self._body is not None:
            self._body.coming -= length
            if not self._body.coming and not self.transport.is_closing():
                self.parser = _parser(self)  # the old one waits for that body
                self.on_message_complete()

    def resume_reading(self) -> None:
        """Read on, if that was stopped because nobody took what had come."""
        self.flow.resume_reading()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what comes behind the body is no header of a request that is being answered
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        version, hosts = self.parser.get_http_version(), sum(name == b"host" for name, _ in self.headers)
        if version not in ("1.0", "1.1") or hosts > 1 or (hosts == 0 and version == "1.1"):
            raise ValueError("expected HTTP/1.1 and one host")
        if self.parser.should_upgrade() and any(name in _BODY_FIELDS and value != b"0" for name, value in self.headers):
            raise ValueError("expected no body in a request to speak another protocol")  # the parser would skip it
        super().on_headers_complete()
        self.cycle.transport = _Answer(self.transport, self.loop)  # type: ignore[assignment]
        self._body = RequestBody(self, self.cycle)
        self._bodies.append(self._body)
        lengths = [value for name, value in self.headers if name == b"content-length"]
        self._announced = int(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() else None

    def on_body(self, body: bytes) -> None:
        self._framing -= len(body)
        if self._announced is not None:
            self._announced -= len(body)
        self._keep(body)

    def _keep(self, piece: bytes) -> None:
        if self._body is None or self.cycle.response_complete:
            return
        self._body.add(piece)
        if self._body.waiting > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self._framing, self._announced = 0, None
        super().on_message_complete()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._answering = True
        self._disarm()
        scope[KNOWN] = self._prove
        body = self._bodies.popleft()
        scope[BODY] = body
        await self._inner(scope, partial(body.receive, receive), send)

    def on_response_complete(self) -> None:
        self._answering = False
        # Not put off by single bytes: the next head is here by then, whole, or it was the last.
        self._arm(self.config.timeout_keep_alive + self.config.head_s)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        # The peer sent what is not HTTP, and there may be no request to speak of.
        document = {
            "type": "about:blank",
            "title": "Bad Request",
            "status": 400,
            "detail": "expected an HTTP/1.1 request, got something else",
            "reason": Reason.BAD_REQUEST.value,
        }
        body = json.dumps(document).encode()
        head = (
            "HTTP/1.1 400 Bad Request",
            f"content-type: {MEDIA_TYPE}",
            f"content-length: {len(body)}",
            "connection: close",
            "",
            "",
        )
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write("\r\n".join(head).encode() + body)
        self.transport.close()

    def _prove(self) -> None:
        self.config.strangers.remove(self)

    # time

    def hang_up(self) -> None:
        """Close at once, whatever is under way."""
        self.config.strangers.remove(self)
        self._line.abort()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._unsent = self.transport.get_write_buffer_size()
        self._timer = self.loop.call_later(seconds, self._look, seconds)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, seconds: float) -> None:
        if self.transport.get_write_buffer_size() < self._unsent:
            self._arm(seconds)  # the peer is slow, and takes its answer
        else:
            self.hang_up()


def _parser(connection: _Connection) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(connection)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does, for requests sent ahead
    return parser


def _feed_tls(protocol: Any, data: bytes) -> None:
    """Give bytes to what does the handshake, as a transport does."""
    while data and hasattr(protocol, "get_buffer"):
        room = protocol.get_buffer(len(data))
        taken = min(len(room), len(data))
        room[:taken] = data[:taken]
        protocol.buffer_updated(taken)
        data = data[taken:]


def _address(transport: asyncio.Transport) -> str:
    """Who it is: an address, or a network of IPv6, of which anybody has 2**64."""
    peer = transport.get_extra_info("peername")
    try:
        address = ipaddress.ip_address(peer[0].partition("%")[0])
    except (TypeError, ValueError, IndexError):
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)
