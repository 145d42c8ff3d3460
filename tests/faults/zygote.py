"""Starts aggregators by the hundred: one process that has everything imported forks a server for each start.

A forked server is a process of its own, with its own sockets, files and death; only the second of importing is saved.
`python -m tests.faults.zygote` reads one JSON object a line: {"start": {...}} is answered with {"pid": ...},
{"poll": pid} with {"code": exit code, negative for a signal, or null while it runs}. It ends with its stdin.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 30.0


class Zygote:
    """The forking process, as a context manager."""

    def __init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HE_AGG_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # No helper threads of libraries in a process that forks.
            env=kept | {"PYTHONWARNINGS": "error", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
        )

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)


class ForkedServer:
    """An aggregator that starts in a fraction of a second. The same address at every start."""

    def __init__(self, zygote: Zygote, data_dir: Path) -> None:
        self._zygote = zygote
        self.data_dir = data_dir
        self.log_path = data_dir.parent / f"{data_dir.name}.stderr.log"
        self._ready = data_dir.parent / f"{data_dir.name}.ready"
        self.url = ""
        self._port = 0
        self.pid = 0
        self.starts = 0

    def start(self, environment: dict[str, str] | None = None) -> int | None:
        """Start it. Returns None once it listens, or its exit code if it ended before."""
        assert not self.pid
        self._ready.unlink(missing_ok=True)
        self.starts += 1
        what = {
            "data_dir": str(self.data_dir),
            "port": self._port,
            "environment": environment or {},
            "log": str(self.log_path),
            "ready": str(self._ready),
        }
        self.pid = self._zygote.ask({"start": what})["pid"]
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError):
                line = self._ready.read_text()
                if line.endswith("\n"):
                    self.url = line.split()[-1]
                    self._port = int(self.url.rsplit(":", 1)[1])
                    return None
            code = self.ended()
            if code is not None:
                return code
            time.sleep(0.002)
        raise AssertionError(f"the aggregator did not start\n{self.log_path.read_text()[-3000:]}")

    def ended(self) -> int | None:
        """Its exit code, negative for a signal, if it has ended."""
        code: int | None = self._zygote.ask({"poll": self.pid})["code"]
        if code is not None:
            self.pid = 0
        return code

    def kill(self) -> int:
        """SIGKILL, unless it has ended already. Returns how it ended."""
        if not self.pid:
            return 0
        os.kill(self.pid, signal.SIGKILL)
        while (code := self.ended()) is None:
            time.sleep(0.001)
        return code

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """What it said on stderr over all starts; the last line of each life may be cut off."""
        lines = []
        for line in self.log_path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    def __enter__(self) -> ForkedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _serve(data_dir: str, port: int, environment: dict[str, str], log: str, ready: str) -> None:
    from service import failpoints
    from service.server import run
    from service.settings import load_settings

    for path, number in ((ready, 1), (log, 2)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.close(0)
    os.environ.update(environment)
    failpoints.arm(os.environ.get(failpoints.VARIABLE))
    run(load_settings(data_dir=data_dir, port=port))


def _main() -> None:
    import service.server  # noqa: F401 - imported before the forks
    from service.folding import warm_up

    warm_up()
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if not pid:
                code = 1
                try:
                    _serve(**question["start"])
                    code = 0
                except SystemExit as ended:
                    code = int(ended.code or 0)
                finally:
                    if code == 1:
                        sys.excepthook(*sys.exc_info())
                    os._exit(code)
            answer = {"pid": pid}
        else:
            ended, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if ended else None}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _main()
