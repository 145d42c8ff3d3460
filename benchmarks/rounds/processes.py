"""Processes of a run: started, spoken to by lines, measured from outside, and never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.proc import cpu_s, memory_bytes

__all__ = ["Process", "listening"]

_START_S = 120.0
_STOP_S = 10.0
ENVIRONMENT = {"NUMPY_MADVISE_HUGEPAGE": "0"}
"""For every process of every scheme. NumPy asks for huge pages, and on virtual machines with `defrag` at `madvise` the
kernel may stop a process for two milliseconds to find each of them: seconds of noise, for no gain in a round."""


class Process:
    """One process. Use it in a `with` statement.

    Args:
        command: what runs.
        environment: variables beyond those of this process; its HE_AGG_* are not passed on.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HE_AGG_")}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `stop`
        self._command = command
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            bufsize=0,
            env=kept | ENVIRONMENT | (environment or {}),
        )
        self._buffer = b""

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def say(self, what: dict[str, Any]) -> None:
        """Send one JSON line."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(what).encode() + b"\n")

    def line(self, timeout_s: float) -> str:
        """Its next line on stdout.

        Raises:
            RuntimeError: it ended, or said nothing in time.
        """
        assert self._popen.stdout is not None
        end = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._popen.stdout], [], [], left)[0]:
                raise RuntimeError(f"{self.name}: nothing in {timeout_s:.0f} s\n{self.tail()}")
            data = os.read(self._popen.stdout.fileno(), 2**16)
            if not data:
                raise RuntimeError(f"{self.name} ended\n{self.tail()}")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode()

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """Its next JSON line."""
        found: dict[str, Any] = json.loads(self.line(timeout_s))
        return found

    @property
    def name(self) -> str:
        """What it is, for messages."""
        return " ".join(word for word in self._command if not word.startswith("/"))[:100]

    def log(self) -> str:
        """Everything it wrote to stderr so far."""
        self.errors.seek(0)
        return self.errors.read()

    def tail(self) -> str:
        """The end of that."""
        return "\n".join(self.log().splitlines()[-12:])

    def peak_rss_bytes(self) -> int:
        """The most memory it ever held. Units: bytes."""
        return memory_bytes("VmHWM", self._popen.pid)

    def cpu_s(self) -> float:
        """Processor time so far. Units: seconds."""
        return cpu_s(self._popen.pid)

    def stop(self) -> None:
        """Ask it to end, and see that it does."""
        if self._popen.poll() is None:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_STOP_S)
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout, self.errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def listening(process: Process) -> str:
    """What a server says after `listening on`."""
    line = process.line(_START_S)
    if not line.startswith("listening on "):
        raise RuntimeError(f"{process.name} did not start: {line}\n{process.tail()}")
    return line.removeprefix("listening on ").strip()
