"""Stock TenSEAL CKKS on the server's side, as NVFlare's HE filters use it: whole vectors in, added with the public
context, the whole sum out. Ciphertexts of one update travel as one body, each behind its length.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from benchmarks.rounds.serving import add_server_options, serve

__all__ = ["join", "split"]


def join(pieces: list[bytes]) -> bytes:
    """One body out of many ciphertexts."""
    return b"".join(part for piece in pieces for part in (struct.pack("<I", len(piece)), piece))


def split(body: bytes) -> Iterator[bytes]:
    """The ciphertexts of a body."""
    at = 0
    while at < len(body):
        (length,) = struct.unpack_from("<I", body, at)
        yield body[at + 4 : at + 4 + length]
        at += 4 + length


class Round:
    """One round's sum."""

    def __init__(self) -> None:
        self.total: list[Any] | None = None
        self.answer = b""
        self.count = 0
        self.one = asyncio.Lock()
        self.done = asyncio.Event()


def create_app(sites: int, context_file: Path) -> FastAPI:
    """The application.

    Args:
        sites: how many updates make a round.
        context_file: the public context, without the secret key.
    """
    warnings.simplefilter("ignore")
    import tenseal as ts

    app = FastAPI()
    context = ts.context_from(context_file.read_bytes())
    rounds: dict[int, Round] = {}

    def round_of(number: int) -> Round:
        if number not in rounds:
            rounds.clear()
            rounds[number] = Round()
        return rounds[number]

    def add(found: Round, body: bytes) -> None:
        vectors = (ts.ckks_vector_from(context, piece) for piece in split(body))
        if found.total is None:
            found.total = list(vectors)
            return
        for i, vector in enumerate(vectors):
            found.total[i] += vector

    @app.put("/rounds/{number}/updates/{site}")
    async def put(request: Request, number: int, site: int, weight: int) -> Response:  # noqa: ARG001 - same address
        found = round_of(number)
        body = await request.body()
        async with found.one:
            await run_in_threadpool(add, found, body)
            found.count += 1
            if found.count == sites:
                found.answer = await run_in_threadpool(lambda: join([v.serialize() for v in found.total or []]))
                found.total = None
                found.done.set()
        return Response(status_code=201)

    @app.get("/rounds/{number}/mean")
    async def mean(number: int) -> Response:
        found = round_of(number)
        await found.done.wait()
        return Response(found.answer, media_type="application/octet-stream")

    return app


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_server_options(parser)
    parser.add_argument("--context", type=Path, required=True)
    arguments = parser.parse_args()
    serve(create_app(arguments.sites, arguments.context), arguments)


if __name__ == "__main__":
    main()
