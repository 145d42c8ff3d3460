"""The least that can be done with an upload over the same HTTP stack: bodies go to files, with an fsync each.

No digests, no checks, no rows, no names: what no aggregator can be faster than that takes bodies as uvicorn has them.
Used by load.py: `python -m benchmarks.streaming_limit DIRECTORY` prints `listening on http://...`.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from benchmarks.rounds.serving import config_of


def create_app(directory: Path) -> FastAPI:
    """The application.

    Args:
        directory: where files go.
    """
    app = FastAPI()
    numbers = itertools.count()

    @app.put("/{path:path}")
    async def put(request: Request, path: str) -> Response:  # noqa: ARG001 - any address will do
        descriptor = os.open(directory / f"{next(numbers)}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            async for chunk in request.stream():
                os.write(descriptor, chunk)
            await run_in_threadpool(os.fsync, descriptor)
        finally:
            os.close(descriptor)
        return Response(status_code=201)

    return app


def main() -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config_of(create_app(Path(sys.argv[1])))).run(sockets=[listener])


if __name__ == "__main__":
    main()
