"""Carries out effects, blocking or on asyncio.

What it guarantees to every request: it is signed anew each time it is sent, and goes where `server.py` lets it; it ends
in time, whatever drips (`connections.py`); no answer is read beyond its bound; redirects are not followed, cookies
neither kept nor sent, compressed answers not expanded: httpcore knows none of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from typing import Any, TypeVar

import httpcore

from client_sdk._disk.files import PIECE_BYTES, check_files, read_files
from client_sdk._effects import (
    Compute,
    Effect,
    FileBody,
    Flow,
    Now,
    Report,
    Request,
    Response,
    Sleep,
)
from client_sdk._net.connections import AsyncBackend, Backend, Budget, within
from client_sdk._net.faults import faults
from client_sdk._net.server import Server, TlsFiles, options_for
from client_sdk._net.signing import Signer
from client_sdk.progress import Event, Listener
from he_agg.errors import ProtocolError, Reason

__all__ = ["AsyncTransport", "Transport", "drive"]

T = TypeVar("T")

_LEAST_ANSWER_BYTES = 2**16
"""Room for a problem document, however short the expected answer is."""


_NO_FILES = TlsFiles()


class Transport:
    """Drives flows, blocking."""

    def __init__(self, url: str, signer: Signer, tls: TlsFiles = _NO_FILES) -> None:
        self._signer, self._server = signer, Server.of(url)
        options = options_for(self._server, tls)
        self._proxy: httpcore.Proxy | None = options["proxy"]
        self._pool = httpcore.ConnectionPool(network_backend=Backend(), **options)

    def run(self, flow: Flow[T], listener: Listener) -> T:
        """Drive a flow to its end."""
        return drive(flow, lambda effect: self._perform(effect, listener))

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

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
        if isinstance(request.body, FileBody):
            check_files(request.body)
            return self._exchange(request, _chunks(request.body, _reporting(request, listener)), listener)
        return self._exchange(request, request.body, listener)

    def _exchange(self, request: Request, content: bytes | Iterator[bytes] | None, listener: Listener) -> Response:
        signed_at, asked = self._server.asked(self._signer, request, content)
        budget = Budget(request.budget_s, request.least_bytes_per_s)
        with faults(self._server, request, self._proxy), within(budget), self._pool.stream(**asked) as answer:
            budget.heads, body = False, bytearray()
            take = _taker(request, answer, body)
            for chunk in answer.iter_stream():
                _report(take(chunk), listener)
            return _response(answer, body, signed_at)


class AsyncTransport:
    """Drives flows on asyncio; `Compute` runs in a thread."""

    def __init__(self, url: str, signer: Signer, tls: TlsFiles = _NO_FILES) -> None:
        self._signer, self._server = signer, Server.of(url)
        options = options_for(self._server, tls)
        self._proxy: httpcore.Proxy | None = options["proxy"]
        self._pool = httpcore.AsyncConnectionPool(network_backend=AsyncBackend(), **options)

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
        finally:
            flow.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

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
        if isinstance(request.body, FileBody):
            await asyncio.to_thread(check_files, request.body)
            chunks = _chunks_in_thread(request.body, _reporting(request, listener))
            return await self._exchange(request, chunks, listener)
        return await self._exchange(request, request.body, listener)

    async def _exchange(
        self, request: Request, content: bytes | AsyncIterator[bytes] | None, listener: Listener
    ) -> Response:
        signed_at, asked = self._server.asked(self._signer, request, content)
        budget = Budget(request.budget_s, request.least_bytes_per_s)
        with faults(self._server, request, self._proxy), within(budget):
            async with self._pool.stream(**asked) as answer:
                budget.heads, body = False, bytearray()
                take = _taker(request, answer, body)
                async for chunk in _in_pieces(answer.aiter_stream()):
                    _report(await _in_thread(partial(take, chunk)), listener)
                return _response(answer, body, signed_at)


async def _in_pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Gather chunks, so that a thread is asked for once a piece."""
    piece = bytearray()
    async for chunk in chunks:
        piece += chunk
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


async def _in_thread(work: Callable[[], T]) -> T:
    # A cancelled task waits for the step under way: the flow's clean-up must not race with it.
    step = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        await asyncio.wait([step])
        raise


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


def _chunks(body: FileBody, report: Callable[[int], None]) -> Iterator[bytes]:
    sent = 0
    for chunk in read_files(body):
        yield chunk
        sent += len(chunk)
        report(sent)


async def _chunks_in_thread(body: FileBody, report: Callable[[int], None]) -> AsyncIterator[bytes]:
    chunks, sent = read_files(body), 0
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
        sent += len(chunk)
        report(sent)


def _reporting(request: Request, listener: Listener) -> Callable[[int], None]:
    progress = request.progress
    return (lambda _: None) if progress is None else (lambda sent: listener(progress(sent)))


def _taker(request: Request, answer: httpcore.Response, body: bytearray) -> Callable[[bytes], Event | None]:
    """Choose where an answer goes: an expected one where the request says, any other into a body."""
    if request.into is not None and answer.status in request.expect:
        return request.into

    def keep(chunk: bytes) -> None:
        body.extend(chunk)
        _bounded(body, request)

    return keep


def _report(event: Event | None, listener: Listener) -> None:
    if event is not None:
        listener(event)


def _bounded(body: bytearray, request: Request) -> None:
    limit = max(request.max_bytes, _LEAST_ANSWER_BYTES)
    if len(body) > limit:
        raise ProtocolError(
            Reason.TOO_LARGE,
            f"{request.method} {request.path.split('?')[0]}: expected at most {limit} bytes of answer, got more",
        )


def _response(answer: httpcore.Response, body: bytearray, signed_at: float) -> Response:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
    return Response(answer.status, headers, bytes(body), signed_at)
