"""Starts processes that are heavy to import, by the hundred: one that has everything imported forks for each start.

A forked process is one of its own, with its own sockets, files and death; only the second of importing is saved.
`Zygote.spawn` takes what `subprocess.Popen` takes, for commands `python -P -m MODULE ...`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Forked", "Zygote"]

_MESSAGE_BYTES = 2**17


class Zygote:
    """The forking process, as a context manager.

    Args:
        modules: what it imports; with `:NAME` behind it, a function of the module that it calls as well.
    """

    def __init__(self, *modules: str) -> None:
        self._lock = threading.Lock()
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.zygote", str(far.fileno()), *modules],
                pass_fds=[far.fileno()],
                # No helper threads of libraries in a process that forks.
                env=os.environ | {"PYTHONWARNINGS": "error", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                cwd=Path(__file__).parents[2],
            )

    def spawn(
        self,
        command: Sequence[str],
        *,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        env: Mapping[str, str],
        cwd: Path | None = None,
    ) -> Forked:
        """Fork, and run `python -P -m MODULE ...` there."""
        assert list(command[:3]) == [sys.executable, "-P", "-m"], command
        with Path(os.devnull).open() as nothing:
            files = [nothing if stdin == subprocess.DEVNULL else stdin, stdout, stderr]
            numbers = [file if isinstance(file, int) else file.fileno() for file in files]
            what = {"command": list(command[3:]), "environment": dict(env), "directory": str(cwd or Path.cwd())}
            return Forked(self, self.ask(what, numbers)["pid"])

    def ask(self, question: dict[str, Any], files: Sequence[int] = ()) -> dict[str, Any]:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(question).encode()], files)
            return json.loads(self._socket.recv(_MESSAGE_BYTES))

    def close(self) -> None:
        self._socket.close()
        self._process.wait(30)

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Forked:
    """A forked process, with the part of `subprocess.Popen` that is needed."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote = zygote
        self._lock = threading.Lock()
        self._code: int | None = None
        self.pid = pid

    def poll(self) -> int | None:
        with self._lock:
            if self._code is None:
                self._code = self._zygote.ask({"poll": self.pid})["code"]
            return self._code

    def send_signal(self, sig: int) -> None:
        # Until it is polled its number is taken, so this reaches nobody else.
        with self._lock:
            if self._code is None:
                os.kill(self.pid, sig)

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout or float("inf"))
        if sys.platform == "linux":  # asking again and again costs two processes a fifth of their time
            with contextlib.suppress(ProcessLookupError), os.fdopen(os.pidfd_open(self.pid)) as process:
                select.select([process], [], [], timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(0.002)
        return code


def _child(files: list[int], command: list[str], environment: dict[str, str], directory: str) -> None:
    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        if failpoints := sys.modules.get("service.failpoints"):
            failpoints.arm(os.environ.get(failpoints.VARIABLE))
        sys.argv = command
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with whoever started it
    near = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        module, _, function = name.partition(":")
        imported = importlib.import_module(module)
        if function:
            getattr(imported, function)()
    gc.collect()
    gc.freeze()  # what is here by now stays: no child goes through it again
    while True:
        data, files, _, _ = socket.recv_fds(near, _MESSAGE_BYTES, 3)
        if not data:
            return
        question = json.loads(data)
        if "command" in question:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if not pid:
                near.close()
                _child(files, **question)
            for file in files:
                os.close(file)
            answer: dict[str, int | None] = {"pid": pid}
        else:
            ended, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if ended else None}
        near.send(json.dumps(answer).encode())


if __name__ == "__main__":
    _main()
