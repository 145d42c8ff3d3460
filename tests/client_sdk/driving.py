"""Both drivers on one request: what the tests of sockets and of proxies share."""

from __future__ import annotations

import asyncio

from client_sdk._effects import Request
from client_sdk._net import transport
from client_sdk._net.server import TlsFiles
from client_sdk._net.signing import Signer
from client_sdk._net.transport import AsyncTransport, Transport
from tests.support.flows import World
from tests.support.trust import identity_of

SIGNER = Signer("a", identity_of("a").signing_key, "test")
GET = Request("GET", "/v1/thing?wait=1", frozenset({200}))


def run_sync(url, flow, listener=lambda event: None, **options):
    driver = Transport(url, SIGNER, TlsFiles(**options))
    try:
        return driver.run(flow, listener)
    finally:
        driver.close()


def run_async(url, flow, listener=lambda event: None, **options):
    async def main():
        driver = AsyncTransport(url, SIGNER, TlsFiles(**options))
        try:
            return await driver.run(flow, listener)
        finally:
            await driver.close()

    return asyncio.run(main())


class Pieces:
    """A sink that keeps what it takes, piece by piece."""

    def __init__(self, then=lambda pieces: None, room_bytes=2**20) -> None:
        self.pieces: list[bytes] = []
        self._then, self._room = then, memoryview(bytearray(room_bytes))

    def room(self):
        return self._room

    def took(self, count):
        self.pieces.append(bytes(self._room[:count]))
        return self._then(self.pieces)


def asking(request):
    return (yield request)


class InMemory(AsyncTransport):
    """The driver of `AsyncSite`, threads and all, with an aggregator in memory."""

    def __init__(self, world: World) -> None:
        super().__init__("http://127.0.0.1:1", world.signer)
        self._sender = _Sender(world)


class _Line:
    """Nothing that could be broken off."""

    def shut(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Sender(transport._Sender):
    def __init__(self, world: World) -> None:
        self._world = world

    def send(self, request, listener, hold):
        hold.take(_Line())
        try:
            return self._world.perform(request)
        finally:
            hold.release()

    def close(self) -> None:
        pass


async def turns() -> None:
    """Let the event loop do all that it can do by itself."""
    for _ in range(20):
        await asyncio.sleep(0)


def cancel_all(task: asyncio.Task) -> None:
    """Cancel all tasks but this one, as an event loop does when it ends, after Ctrl-C for instance."""
    for one in asyncio.all_tasks() - {asyncio.current_task()}:
        one.cancel()


CANCELS = [asyncio.Task.cancel, cancel_all]
