"""A process with clocks: runs a module as `python -m` would, and tells what it has spent, as often as it is asked.

    python -m benchmarks.accounting.process KIND SOCKET -- python [options] -m MODULE [arguments]

Whoever connects to SOCKET gets the totals so far, JSON.
"""

from __future__ import annotations

import importlib
import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from benchmarks.accounting.activities import install
from benchmarks.accounting.clocks import CLOCKS

__all__ = ["ask"]

_CALLERS = {
    "aggregator": ("service.serve.server", "he_agg.host.commands", "uvicorn.lifespan.on"),
    "site": ("client_sdk", "benchmarks.rounds.site", "benchmarks.rounds.clients"),
}


def ask(path: Path) -> dict[str, Any]:
    """Ask a process for its totals."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        data = b""
        while piece := line.recv(2**16):
            data += piece
    totals: dict[str, Any] = json.loads(data)
    return totals


def _answer(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        while True:
            line, _ = listener.accept()
            with line:
                line.sendall(json.dumps(CLOCKS.totals()).encode())

    threading.Thread(target=serve, name="accounting", daemon=True).start()


def main() -> None:
    """Run the module until it ends."""
    kind, path, _, *command = sys.argv[1:]
    at = command.index("-m")
    module, sys.argv = command[at + 1], command[at + 1 :]
    for name in _CALLERS[kind]:
        importlib.import_module(name)
    install(kind)
    _answer(path)
    found = importlib.import_module(module)
    sys.exit((found if hasattr(found, "main") else importlib.import_module(f"{module}.__main__")).main())


if __name__ == "__main__":
    main()
