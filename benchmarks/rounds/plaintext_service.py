"""The opponent: plaintext float32 FedAvg over FastAPI, as fast as this stack lets it be.

What makes it fast: one loop, no thread hops; a body is added onto the sum while it arrives, in pieces that stay in the
cache, and is never held or stored; the mean is sent from memory without a copy; uvicorn is set as he-agg sets it.

What it does not do, and he-agg does: it stores nothing, so a restart loses the round; it knows nobody, so anybody may
send; a body that breaks off spoils the round, which then fails (it was added already); no digests, no record of who
was in the mean, no late sites, no retries, one round at a time. `--store DIR` makes it keep and sync each body, and
add only whole ones: what durability alone costs, measured beside it.

    python -m benchmarks.rounds.plaintext_service --sites 3 --values 1000    prints `listening on http://...`
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from benchmarks.rounds.serving import add_server_options, serve

_SEND_BYTES = 2**20
_ADD_VALUES = 2**14


class Round:
    """One round's sum."""

    def __init__(self, values: int) -> None:
        self.total = np.zeros(values, np.float32)
        self.weight = 0
        self.sites: set[int] = set()
        self.complete: set[int] = set()
        self.broken = False
        self.one = asyncio.Lock()
        self.done = asyncio.Event()


class Adder:
    """Adds a stream of bytes, times a weight, onto a sum. Pieces may end anywhere, within a number too."""

    def __init__(self, total: Any, weight: int) -> None:
        self._total, self._weight = total, np.float32(weight)
        self._scratch = np.empty(_ADD_VALUES, np.float32)
        self._rest = b""
        self._at = 0

    def add(self, chunk: bytes) -> None:
        if self._rest:
            need = 4 - len(self._rest)
            if len(chunk) < need:
                self._rest += chunk
                return
            self._one(np.frombuffer(self._rest + chunk[:need], np.float32))
            view = memoryview(chunk)[need:]
        else:
            view = memoryview(chunk)
        whole = len(view) & ~3
        self._rest = bytes(view[whole:])
        if whole:
            self._one(np.frombuffer(view[:whole], np.float32))

    def _one(self, numbers: Any) -> None:
        if self._at + numbers.size > self._total.size:
            raise HTTPException(413)
        for start in range(0, numbers.size, _ADD_VALUES):
            piece = numbers[start : start + _ADD_VALUES]
            scaled = np.multiply(piece, self._weight, out=self._scratch[: piece.size])
            target = self._total[self._at : self._at + piece.size]
            np.add(target, scaled, out=target)
            self._at += piece.size

    @property
    def is_whole(self) -> bool:
        return self._at == self._total.size and not self._rest


def create_app(sites: int, values: int, store: Path | None) -> FastAPI:
    """The application.

    Args:
        sites: how many updates make a round.
        values: how many numbers an update has.
        store: where bodies are kept and synced before they count; None keeps none.
    """
    app = FastAPI()
    rounds: dict[int, Round] = {}

    def round_of(number: int) -> Round:
        if number not in rounds:
            for old in [n for n in rounds if n < number - 1]:
                del rounds[old]
            rounds[number] = Round(values)
        return rounds[number]

    @app.put("/rounds/{number}/updates/{site}")
    async def put(request: Request, number: int, site: int, weight: int) -> Response:
        found = round_of(number)
        if request.headers.get("content-length") != str(4 * values):
            raise HTTPException(400, "expected all values, float32")
        if site in found.sites:
            raise HTTPException(409, "a site sends one update")
        found.sites.add(site)
        adder = Adder(found.total, weight)
        try:
            if store is None:
                async for chunk in request.stream():
                    adder.add(chunk)
            else:
                path = store / f"{number}.{site}"
                await _keep(request, path)
                async with found.one:  # NumPy lets other threads go on while it adds
                    await run_in_threadpool(_add_file, adder, path)
        finally:
            found.broken = found.broken or not adder.is_whole
        found.weight += weight
        found.complete.add(site)
        if len(found.complete) == sites:
            found.total /= np.float32(found.weight)
            if store is not None:
                await run_in_threadpool(_sync, store / f"{number}.mean", found.total)
                for old in store.glob(f"{number}.[0-9]*"):
                    old.unlink()
            found.done.set()
        return Response(status_code=201)

    @app.get("/rounds/{number}/mean")
    async def mean(number: int) -> Response:
        found = round_of(number)
        await found.done.wait()
        if found.broken:
            raise HTTPException(409, "an update broke off")
        data = found.total.data.cast("B")

        async def pieces() -> AsyncIterator[memoryview]:
            for start in range(0, len(data), _SEND_BYTES):
                yield data[start : start + _SEND_BYTES]

        headers = {"content-length": str(len(data)), "content-type": "application/octet-stream"}
        return StreamingResponse(pieces(), headers=headers)

    return app


async def _keep(request: Request, path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        async for chunk in request.stream():
            os.write(descriptor, chunk)
        await run_in_threadpool(os.fsync, descriptor)
    finally:
        os.close(descriptor)


def _add_file(adder: Adder, path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(2**18):
            adder.add(chunk)


def _sync(path: Path, total: Any) -> None:
    with path.open("wb") as file:
        file.write(memoryview(total).cast("B"))
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_server_options(parser)
    parser.add_argument("--store", type=Path)
    arguments = parser.parse_args()
    serve(create_app(arguments.sites, arguments.values, arguments.store), arguments)


if __name__ == "__main__":
    main()
