"""Real aggregators and `he-agg` commands for tests, forked from a process that has imported the server already.

server = start_server(tmp_path / "data")
httpx.get(server.url + "/healthz")
server.kill()        # SIGKILL
server.start()       # the same data, the same address
"""

from __future__ import annotations

import atexit
import ssl
import subprocess
from functools import cache
from pathlib import Path

from he_agg.host.processes import AggregatorProcess, run_he_agg
from tests.support.zygote import Zygote

__all__ = ["NO_TLS", "QUICK", "ServerProcess", "he_agg", "server_zygote", "start_server"]

QUICK = {"HE_AGG_RECHECK_S": "0.05", "HE_AGG_LINGER_S": "0.5"}
"""Settings of an aggregator that does not keep tests waiting."""

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of plain http: each would read otherwise what the machine trusts, for 50 ms."""

_STRICT = {"PYTHONWARNINGS": "error"}


@cache
def server_zygote() -> Zygote:
    """One for all tests of a process, when the first of them asks."""
    zygote = Zygote(
        "service.serve.cli",
        "service.serve.server",
        "service.serve.working",
        # As the parent of several serving processes does: Numba takes half a second to get ready in each.
        "service.work.folding:warm_up",
        "service.operator.aggregator",
        "service.operator.federation",
        # What a server would import when it has started.
        "service.monitor.dashboard.app",
        "sqlalchemy.dialects.sqlite",
        "sqlite3.dbapi2",
        "fastapi.telemetry._runtime",
        "anyio._backends._asyncio",
        "uvicorn.lifespan.on",
        "uvicorn.loops.uvloop",
    )
    atexit.register(zygote.close)
    return zygote


class ServerProcess(AggregatorProcess):
    """An aggregator that a test may kill, and that is killed at the end.

    Args:
        data_dir: where it keeps everything.
        environment: settings.
        fresh: start it as an operator does, from the first instruction of Python.
    """

    def __init__(self, data_dir: Path, environment: dict[str, str] | None = None, *, fresh: bool = False) -> None:
        spawn = subprocess.Popen if fresh else server_zygote().spawn
        super().__init__(data_dir, environment=_STRICT | (environment or {}), spawn=spawn)

    def __enter__(self) -> ServerProcess:
        return self if self.pid else self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def start_server(data_dir: Path, environment: dict[str, str] | None = None, *, fresh: bool = False) -> ServerProcess:
    """Start an aggregator on a data directory; as a context manager it is killed at the end."""
    return ServerProcess(data_dir, environment, fresh=fresh).start()


def he_agg(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one `he-agg` command to its end."""
    return run_he_agg(*arguments, environment=_STRICT, check=check, spawn=server_zygote().spawn)
