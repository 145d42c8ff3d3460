"""A shaped link where network namespaces are not allowed: one loopback port per site, a token bucket each way.

    python -m benchmarks.rounds.proxy --target 127.0.0.1:8470 --rate 100000000 --sites 3

prints `listening on PORT PORT PORT`. Bytes are taken from a sender no faster than its bucket fills, so the sender's
own socket buffer pushes back as a slow link's would. All connections of a site share its two buckets.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time

from benchmarks.rounds.serving import listen

_PIECE = 2**15
_BURST_S = 0.002


class Bucket:
    """Tokens are bits; they come in at a rate and are kept for `_BURST_S` at most.

    Args:
        rate: Units: bits per second.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._free_at = 0.0

    async def take(self, size: int) -> None:
        """Wait until so many bytes may pass."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now - _BURST_S) + 8 * size / self._rate
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bucket: Bucket) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_PIECE):
            await bucket.take(len(data))
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()


async def serve(target: tuple[str, int], rate: int, sites: int) -> None:
    """Run until cancelled."""
    servers = []
    for _ in range(sites):
        up, down = Bucket(rate), Bucket(rate)

        async def connected(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: Bucket = up, down: Bucket = down
        ) -> None:
            try:
                far_reader, far_writer = await asyncio.open_connection(*target, limit=_PIECE)
            except OSError:
                writer.close()
                return
            await asyncio.gather(_pump(reader, far_writer, up), _pump(far_reader, writer, down))
            for each in (writer, far_writer):
                each.close()

        listener = listen("127.0.0.1")
        servers.append(await asyncio.start_server(connected, sock=listener, limit=_PIECE))
    print("listening on", *(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--rate", type=int, required=True)
    parser.add_argument("--sites", type=int, required=True)
    arguments = parser.parse_args()
    host, port = arguments.target.rsplit(":", 1)
    asyncio.run(serve((host, int(port)), arguments.rate, arguments.sites))


if __name__ == "__main__":
    main()
