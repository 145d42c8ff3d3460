"""Starts processes that are heavy to import, by the hundred: one that has everything imported forks for each start.

A forked process is one of its own, with its own sockets, files and death; only the second of importing is saved.
`python -m tests.support.zygote MODULE ...` imports the modules, then reads one JSON object a line: {"start": {...}} is
answered with {"pid": ...}, {"poll": pid} with {"code": exit code, negative for a signal, or null while it runs}. It
ends with its stdin.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Forked", "Zygote"]


class Zygote:
    """The forking process, as a context manager.

    Args:
        modules: what it imports. One with a function `warm_up` has it called.
    """

    def __init__(self, *modules: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HE_AGG_")}
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.zygote", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # No helper threads of libraries in a process that forks.
            env=kept | {"PYTHONWARNINGS": "error", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
        )

    def start(
        self,
        function: str,
        arguments: Sequence[str],
        stdout: Path,
        stderr: Path,
        environment: dict[str, str] | None = None,
    ) -> Forked:
        """Fork, and call a function there.

        Args:
            function: as "module:name".
            arguments: for it.
            stdout: file that takes what it prints, behind what is in it already.
            stderr: the same.
            environment: more variables.
        """
        what = {"function": function, "arguments": list(arguments), "environment": environment or {}}
        return Forked(self, self.ask({"start": what | {"outputs": [str(stdout), str(stderr)]}})["pid"])

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=30)

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Forked:
    """A forked process, with the part of `subprocess.Popen` that tests need."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote = zygote
        self._lock = threading.Lock()
        self._code: int | None = None
        self.pid = pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal, if it has ended."""
        with self._lock:
            if self._code is None:
                self._code = self._zygote.ask({"poll": self.pid})["code"]
            return self._code

    def send_signal(self, number: int) -> None:
        # Until it is polled its number is taken, so this reaches nobody else.
        with self._lock:
            if self._code is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.002)
        return code


def serve(*arguments: str) -> None:
    """`he-agg serve` with these arguments."""
    from he_agg.host.commands import main
    from service import failpoints

    failpoints.arm(os.environ.get(failpoints.VARIABLE))
    main(["serve", *arguments])


def _run(function: str, arguments: list[str], environment: dict[str, str], outputs: list[str]) -> None:
    for number, path in enumerate(outputs, 1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.close(0)
    os.environ.update(environment)
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)(*arguments)


def _child(what: dict[str, Any]) -> None:
    code = 1
    try:
        _run(**what)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _main() -> None:
    for name in sys.argv[1:]:
        getattr(importlib.import_module(name), "warm_up", lambda: None)()
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if not pid:
                _child(question["start"])
            answer = {"pid": pid}
        else:
            ended, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if ended else None}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _main()
