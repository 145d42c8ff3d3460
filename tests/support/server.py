"""The real aggregator as a process of its own, to start, kill and start again.

    server = start_server(tmp_path / "data")
    httpx.get(server.url + "/healthz")
    server.kill()        # SIGKILL
    server.restart()     # the same data, the same address

What the process says on stderr is collected in `server.log_path`, over all restarts. All but those started `fresh` are
forked from a process that has imported the server already.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.zygote import Forked, Zygote

__all__ = ["SERVER_MODULES", "ServerProcess", "he_agg", "start_server"]

SERVER_MODULES = ("service.serve.cli", "service.serve.server", "service.work.folding")
"""What an aggregator imports."""

_COMMAND = [sys.executable, "-c", "from he_agg.host.commands import main; main()"]
START_TIMEOUT_S = 60.0


@cache
def _zygote() -> Zygote:
    """One for all tests of a process, when the first of them asks."""
    zygote = Zygote(*SERVER_MODULES)
    atexit.register(zygote.close)
    return zygote


def _environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    # HE_AGG_* of the developer's shell must not reach the tests.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HE_AGG_")}
    return kept | {"PYTHONWARNINGS": "error"} | (extra or {})


def he_agg(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one `he-agg` command to its end."""
    command = [*_COMMAND, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=_environment(), check=False)
    if check and result.returncode:
        raise AssertionError(f"he-agg {' '.join(map(str, arguments))} -> {result.returncode}\n{result.stderr}")
    return result


class ServerProcess:
    """One aggregator. Use `start_server`, or as a context manager, which kills it at the end."""

    def __init__(
        self, data_dir: Path, port: int = 0, environment: dict[str, str] | None = None, *, fresh: bool = False
    ) -> None:
        self.data_dir = Path(data_dir)
        self.log_path = self.data_dir.parent / f"{self.data_dir.name}.stderr.log"
        self.url = ""
        self._stdout = self.data_dir.parent / f"{self.data_dir.name}.stdout"
        self._read = 0
        self._port = port
        self._environment = environment
        self._fresh = fresh
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        assert self._process is None, "it runs already"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._stdout.unlink(missing_ok=True)
        self._read = 0
        arguments = ["--port", str(self._port), "--data-dir", str(self.data_dir)]
        if self._fresh:
            with self._stdout.open("ab") as out, self.log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    [*_COMMAND, "serve", *arguments], stdout=out, stderr=log, env=_environment(self._environment)
                )
        else:
            self._process = _zygote().start(
                "tests.support.zygote:serve", arguments, self._stdout, self.log_path, self._environment
            )
        line = self.next_line()
        if not line.startswith("listening on "):
            self.kill()
            raise AssertionError(f"the aggregator did not start: {line!r}\n{self.log}")
        self.url = line.split()[-1]
        self._port = int(self.url.rsplit(":", 1)[1])

    def kill(self) -> None:
        """SIGKILL: no warning, no last words."""
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM, and wait. Returns the exit code."""
        return self._end(signal.SIGTERM)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait until it ends by itself. Returns the exit code."""
        assert self._process is not None
        self._process.wait(timeout_s)
        return self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start it again on the same data and the same address, killing it first if it still runs."""
        self.kill()
        self.start()

    def next_line(self) -> str:
        """The next line that it prints on stdout; empty if it ends or takes too long."""
        assert self._process is not None
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            ended = self._process.poll() is not None
            printed = self._stdout.read_bytes()[self._read :] if self._stdout.exists() else b""
            line, newline, _ = printed.partition(b"\n")
            if newline:
                self._read += len(line) + 1
                return line.decode().strip()
            if ended:
                break
            time.sleep(0.005)
        return ""

    @property
    def log(self) -> str:
        """Everything it ever said on stderr."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """The same, parsed: every line must be a JSON object."""
        return [json.loads(line) for line in self.log.splitlines()]

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _end(self, number: int) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
            raise


def start_server(
    data_dir: Path, port: int = 0, environment: dict[str, str] | None = None, *, fresh: bool = False
) -> ServerProcess:
    """Start an aggregator on a data directory.

    Args:
        data_dir: where it keeps everything; made if missing.
        port: 0 takes a free one, which restarts then keep.
        environment: settings, such as {"HE_AGG_RECHECK_S": "0.1"}.
        fresh: start `he-agg serve` as an operator does, from the first instruction of Python.
    """
    return ServerProcess(data_dir, port, environment, fresh=fresh)
