"""What this machine can do at most, measured: what no scheme gets past. Each figure is the best of a few tries."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.rounds.links import RATES, Network, network

__all__ = ["link_bytes_per_s", "machine_limits"]

_TRIES = 5
_PIECE = 2**22
_LINK_S = 0.5


def machine_limits() -> dict[str, float]:
    """Units: bytes per second each, on one core."""
    from he_agg.ring.keystream import Keystream

    size = 2**26
    source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
    stream = Keystream(bytes(32))
    block = np.empty(2**18, np.uint8)
    piece = secrets.token_bytes(_PIECE)
    return {
        "memory_copy": _best(size, lambda: np.copyto(target, source)),
        "aes_keystream": _best(2**24, lambda: [stream.fill(block, 0, 0) for _ in range(2**24 // block.size)]),
        "sha256": _best(_PIECE, lambda: hashlib.sha256(piece)),
        "write_fsync": _fsync(piece),
        "loopback_tcp": link_bytes_per_s("loopback", "proxy"),
    }


def link_bytes_per_s(link: str, shaping: str) -> float:
    """How fast a plain socket sends through a link, one site alone. Units: bytes per second."""
    with tempfile.TemporaryDirectory() as folder, network(link, 1, shaping, Path(folder)) as net:
        size = int(RATES[link] / 8 * _LINK_S) or 2**30
        return _send(net, size)


def _send(net: Network, size: int) -> float:
    sink = [*net.server_prefix, sys.executable, "-c", _SINK, net.host, str(size)]
    with subprocess.Popen(sink, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        port = receiver.stdout.readline().strip()
        with net.urls(f"http://{net.host}:{port}", 1) as urls:
            host, far = urls[0].split("//")[1].rsplit(":", 1)
            words = [*net.site_prefix(0), sys.executable, "-c", _SOURCE, host, far, str(size)]
            subprocess.run(words, check=True)
            return size / float(receiver.stdout.readline())


# The first pieces are not timed: they fill the bucket's burst and open TCP's window.
_SINK = """
import socket, sys, time
listener = socket.create_server((sys.argv[1], 0)); print(listener.getsockname()[1], flush=True)
peer, size, got, begin = listener.accept()[0], int(sys.argv[2]), 0, 0
buffer, warm = bytearray(2**20), size // 8
while got < size + warm:
    n = peer.recv_into(buffer)
    if not n: break
    got += n
    if not begin and got >= warm: begin, first = time.perf_counter(), got
print((time.perf_counter() - begin) * size / (got - first), flush=True)
"""
_SOURCE = """
import socket, sys
peer, left, piece = socket.create_connection((sys.argv[1], int(sys.argv[2]))), int(sys.argv[3]), bytes(2**20)
left += left // 8
while left > 0: left -= peer.send(piece[:left])
"""


def _best(size: int, work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return size / best


def _fsync(piece: bytes) -> float:
    with tempfile.TemporaryDirectory(prefix="he-agg-bench-") as folder:

        def write() -> None:
            for number in range(8):
                descriptor = os.open(Path(folder, str(number)), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.write(descriptor, piece)
                os.fsync(descriptor)
                os.close(descriptor)

        return _best(8 * _PIECE, write)
