"""Both drivers on one request: what the tests of sockets and of proxies share."""

from __future__ import annotations

import asyncio

from client_sdk._effects import Request
from client_sdk._net.server import TlsFiles
from client_sdk._net.signing import Signer
from client_sdk._net.transport import AsyncTransport, Transport
from tests.support.trust import identity_of

SIGNER = Signer("a", identity_of("a").signing_key, "test")
GET = Request("GET", "/v1/thing?wait=1", frozenset({200}))


def run_sync(url, flow, listener=lambda event: None, **options):
    transport = Transport(url, SIGNER, TlsFiles(**options))
    try:
        return transport.run(flow, listener)
    finally:
        transport.close()


def run_async(url, flow, listener=lambda event: None, **options):
    async def main():
        transport = AsyncTransport(url, SIGNER, TlsFiles(**options))
        try:
            return await transport.run(flow, listener)
        finally:
            await transport.close()

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
