"""Carries out effects, blocking or on asyncio.

What it guarantees to every request: it is signed anew each time it is sent, and goes where `server.py` lets it; it ends
in time, whatever drips (`budget.py`); no answer is read beyond its bound; redirects are not followed, cookies neither
kept nor sent, compressed answers not expanded (`http.py`).

There is one way to send a request, and it blocks. On asyncio it runs in a thread; a task that is cancelled breaks its
connection off, and waits until the thread has let go of what the flow cleans up, however often it is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from client_sdk._effects import Compute, Effect, Flow, Now, Report, Request, Response, Sleep, StreamBody
from client_sdk._net.budget import Budget
from client_sdk._net.connections import Connections, Hold
from client_sdk._net.faults import faults
from client_sdk._net.http import Exchange
from client_sdk._net.proxies import proxy_to
from client_sdk._net.server import Server, TlsFiles, context_for
from client_sdk._net.signing import Signer
from client_sdk.progress import Event, Listener
from he_agg.errors import ProtocolError, Reason

__all__ = ["AsyncTransport", "Transport", "drive"]

T = TypeVar("T")

_LEAST_ANSWER_BYTES = 2**16
"""Room for a problem document, however short the expected answer is."""

_ROOM_BYTES = 2**16
_AT_ONCE = 16
"""How many requests of one site are under way at a time, on asyncio."""

_log = logging.getLogger("client_sdk")

_NO_FILES = TlsFiles()


class _Sender:
    """Sends requests, blocking. Any thread may."""

    def __init__(self, url: str, signer: Signer, tls: TlsFiles) -> None:
        self._signer, self._server = signer, Server.of(url)
        context = context_for(self._server, tls)
        self._proxy = None if context is None else proxy_to(self._server.host)
        self._connections = Connections(self._server, context, self._proxy)

    def send(self, request: Request, listener: Listener, hold: Hold) -> Response:
        """Send one request and take its answer."""
        body = request.body
        signed_at, signed = self._signer.sign(request)
        budget = Budget(request.budget_s, request.least_bytes_per_s)
        target, headers = self._server.target(request.path), self._server.headers | signed
        with faults(self._server, request, self._proxy), self._connections.exchange(budget, hold) as exchange:
            exchange.ask(request.method, target, headers, body if isinstance(body, bytes) else b"")
            if isinstance(body, StreamBody):
                _send_pieces(exchange, body.pieces(), request, listener)
            head = exchange.head()
            _log.debug("%s %s%s: %d", request.method, self._server.name, request.path, head.status)
            kept = _Kept(request)
            wanted = request.into is not None and head.status in request.expect
            for event in exchange.body(request.into if request.into is not None and wanted else kept):
                listener(event)
            return Response(head.status, head.headers, bytes(kept.content), signed_at)

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()


def _send_pieces(
    exchange: Exchange, pieces: Iterable[bytes | memoryview], request: Request, listener: Listener
) -> None:
    sent = 0
    for piece in pieces:
        exchange.send(piece)
        if not exchange.wants_more:
            return
        sent += len(piece)
        if request.progress is not None:
            listener(request.progress(sent))


class _Kept:
    """Keeps an answer, up to what the request allows."""

    def __init__(self, request: Request) -> None:
        self.content = bytearray()
        self._request, self._room = request, memoryview(bytearray(_ROOM_BYTES))

    def room(self) -> memoryview:
        """See `Sink.room`."""
        return self._room

    def took(self, count: int) -> None:
        """See `Sink.took`."""
        self.content += self._room[:count]
        limit = max(self._request.max_bytes, _LEAST_ANSWER_BYTES)
        if len(self.content) > limit:
            asked = f"{self._request.method} {self._request.path.split('?')[0]}"
            raise ProtocolError(Reason.TOO_LARGE, f"{asked}: expected at most {limit} bytes of answer, got more")


class Transport:
    """Drives flows, blocking."""

    def __init__(self, url: str, signer: Signer, tls: TlsFiles = _NO_FILES) -> None:
        self._sender = _Sender(url, signer, tls)

    def run(self, flow: Flow[T], listener: Listener) -> T:
        """Drive a flow to its end."""
        return drive(flow, lambda effect: self._perform(effect, listener))

    def close(self) -> None:
        """Close all connections."""
        self._sender.close()

    def _perform(self, effect: Effect, listener: Listener) -> Any:
        match effect:
            case Request():
                return self._send(effect, listener)
            case Compute(work):
                return work()
            case Sleep(seconds):
                time.sleep(seconds)
            case Now():
                return time.monotonic()
            case Report(event):
                listener(event)
        return None

    def _send(self, request: Request, listener: Listener) -> Response:
        return self._sender.send(request, listener, Hold())


class AsyncTransport:
    """Drives flows on asyncio; `Request`, `Compute` and what a flow cleans up run in threads, listeners in the loop."""

    def __init__(self, url: str, signer: Signer, tls: TlsFiles = _NO_FILES) -> None:
        self._sender = _Sender(url, signer, tls)
        # Threads of its own: those of the loop are few, and a site may wait in one for half a minute.
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="he-agg-site")

    async def run(self, flow: Flow[T], listener: Listener) -> T:
        """Drive a flow to its end."""
        try:
            effect = next(flow)
            while True:
                try:
                    result = await self._perform(effect, listener)
                except Exception as error:  # it is the flow's to handle, whatever it is
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value
        except asyncio.CancelledError:
            await _in_thread(flow.close)
            raise
        finally:
            flow.close()

    async def close(self) -> None:
        """Close all connections."""
        self._sender.close()
        self._threads.shutdown(wait=False)

    async def _perform(self, effect: Effect, listener: Listener) -> Any:
        match effect:
            case Request():
                return await self._send(effect, listener)
            case Compute(work):
                return await _in_thread(work)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Now():
                return time.monotonic()
            case Report(event):
                listener(event)
        return None

    async def _send(self, request: Request, listener: Listener) -> Response:
        loop, hold = asyncio.get_running_loop(), Hold()
        send = partial(self._sender.send, request, partial(_tell, loop, listener), hold)
        answer: Response = await _finished(loop.run_in_executor(self._threads, send), hold.break_off)
        return answer


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await _finished(asyncio.get_running_loop().run_in_executor(None, copy_context().run, work))


async def _finished(step: asyncio.Future[Any], break_off: Callable[[], bool] = lambda: True) -> Any:
    """Wait for work in a thread; a cancelled task, too, if there is something that must not race with its clean-up.

    Args:
        step: no task, which would be cancelled beside this one when a loop ends, and then seem done.
    """
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        step.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody asks for it any more
        if break_off():
            while not step.done():
                with contextlib.suppress(asyncio.CancelledError):  # again: what is under way ends no sooner for it
                    await asyncio.wait([step])
        raise


def _tell(loop: asyncio.AbstractEventLoop, listener: Listener, event: Event) -> None:
    """Tell the listener in its own thread, and wait: what it raises ends the request, as it does elsewhere."""
    told: Future[None] = Future()

    def tell() -> None:
        try:
            listener(event)
            told.set_result(None)
        except BaseException as error:  # it is raised in the other thread
            told.set_exception(error)

    loop.call_soon_threadsafe(tell)
    told.result()


def drive(flow: Generator[Effect, Any, T], perform: Any) -> T:
    """Drive a flow with a function that carries out one effect."""
    try:
        effect = next(flow)
        while True:
            try:
                result = perform(effect)
            except Exception as error:  # it is the flow's to handle, whatever it is
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        flow.close()
