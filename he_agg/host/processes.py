"""Processes on this machine: started as a user would start them, spoken to by lines, and never left behind.

The one launcher of demo, examples, benchmarks and tests. A server is ready when it says so on stdout
(`listening on URL`); nobody sleeps and hopes.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from he_agg.errors import ConfigError, ProtocolError, Reason, TransportError

__all__ = ["HE_AGG", "START_S", "AggregatorProcess", "Process", "lines_of", "run_he_agg"]

START_S = 120.0
STOP_S = 30.0
_COMMAND_S = 300.0
_TAIL_LINES = 12
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has one way to end a process, and it warns nobody
HE_AGG = (sys.executable, "-P", "-m", "he_agg")
"""With -P no file of the working directory hides a package."""


class Spawned(Protocol):
    """The part of `subprocess.Popen` that is needed here."""

    pid: int

    def poll(self) -> int | None:
        """Exit code; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal."""


Spawn = Callable[..., Spawned]
"""Starts a process: `subprocess.Popen`, or what takes the same arguments."""


class Process:
    """A process with a pipe to its stdin, one from its stdout, and a log file for its stderr.

    `with` starts it, and stops it at the end. It may be started again: the log goes on.

    Args:
        environment: variables beyond those of this process, whose HE_AGG_* it does not get.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        spawn: Spawn = subprocess.Popen,
    ) -> None:
        self.command = list(command)
        self.log_path = log_path
        self.environment = dict(environment or {})
        self.code: int | None = None
        """How its last life ended, negative for a signal."""
        self._spawn = spawn
        self._process: Spawned | None = None
        self._stdin = self._stdout = -1
        self._read = b""

    def start(self) -> Self:
        """Start it.

        Raises:
            ConfigError: on Windows, which cannot wait for several pipes at once.
        """
        if sys.platform == "win32":
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"{self.name} cannot be started on Windows: aggregators, and what starts them, need Linux or macOS",
                "sites run on Windows; give the aggregator another machine, or WSL",
            )
        self.kill()
        stdin, self._stdin = os.pipe()
        self._stdout, stdout = os.pipe()
        self._read, self.code = b"", None
        with self.log_path.open("ab") as log:
            try:
                self._process = self._spawn(
                    self.command, stdin=stdin, stdout=stdout, stderr=log, env=_variables(self.environment)
                )
            finally:
                os.close(stdin)
                os.close(stdout)
        return self

    @property
    def pid(self) -> int:
        """Its number; 0 if it does not run."""
        return 0 if self._process is None else self._process.pid

    @property
    def name(self) -> str:
        """What it is, for messages."""
        return " ".join(word for word in self.command if not word.startswith(("/", "-m", "-P")))[:100]

    def say(self, what: dict[str, Any]) -> None:
        """Send one line of JSON."""
        os.write(self._stdin, json.dumps(what).encode() + b"\n")

    def line(self, timeout_s: float = START_S) -> str:
        """Read its next line."""
        end = time.monotonic() + timeout_s
        while b"\n" not in self._read:
            left = end - time.monotonic()
            if left <= 0 or not _readable([self], left):
                raise self._silent(f"said nothing in {timeout_s:.0f} s")
            if not self._receive():
                raise self._silent("ended")
        line, _, self._read = self._read.partition(b"\n")
        return line.decode().strip()

    def lines(self) -> Iterator[str]:
        """Read lines until it ends, however that is."""
        while self._receive():
            *lines, self._read = self._read.split(b"\n")
            yield from (line.decode() for line in lines)

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """Read its next line, of JSON."""
        found: dict[str, Any] = json.loads(self.line(timeout_s))
        return found

    def listening(self) -> str:
        """Wait until it serves. Returns what it says after `listening on`."""
        line = self.line()
        if not line.startswith("listening on "):
            raise self._silent(f"did not start, but said {line!r}")
        return line.removeprefix("listening on ")

    @property
    def log(self) -> str:
        """What it has written to stderr, in all its lives."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """The same, read as JSON objects; a line that is none, such as one cut off by a kill, is {"text": line}."""
        return [_object(line) for line in self.log.splitlines()]

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self.code if self._process is None or self._process.poll() is None else self._ended()

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait until it ends by itself. Returns the exit code."""
        if self._process is not None:
            self._process.wait(timeout_s)
        return self._ended()

    def stop(self) -> int:
        """Ask it to end, and kill it if it does not. Returns the exit code."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.wait()
        return self.kill()

    def kill(self) -> int:
        """Kill it, without a warning. Returns the exit code."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(_KILL)
        return self._ended()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fileno(self) -> int:
        """Return its stdout, for selectors."""
        return self._stdout

    def _receive(self) -> bytes:
        data = os.read(self._stdout, 2**16)
        self._read += data
        return data

    def _ended(self) -> int:
        process, self._process = self._process, None
        if process is not None:
            self.code = process.wait(STOP_S)
            os.close(self._stdin)
            os.close(self._stdout)
        return self.code or 0

    def _silent(self, what: str) -> TransportError:
        tail = "\n".join(self.log.splitlines()[-_TAIL_LINES:])
        return TransportError(Reason.UNREACHABLE, f"{self.name} {what}\n{tail}".rstrip())


class AggregatorProcess(Process):
    """`he-agg serve` on a data directory. When `start` returns, it listens at `url`, after a restart the same one.

    Args:
        data_dir: where it keeps everything; its log is beside it.
        environment: settings, such as {"HE_AGG_RECHECK_S": "0.1"}.
    """

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        spawn: Spawn = subprocess.Popen,
    ) -> None:
        self.data_dir = data_dir
        self.url = ""
        command = [*prefix, *HE_AGG, "serve", "--data-dir", str(data_dir), "--port", "0", *options]
        super().__init__(command, data_dir.with_name(f"{data_dir.name}.log"), environment, spawn)

    def start(self) -> Self:
        """Start it, and wait until it listens."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        super().start()
        try:
            self.url = self.listening()
        except TransportError:
            self.kill()
            raise
        self.command[self.command.index("--port") + 1] = self.url.rpartition(":")[2]
        return self

    def operate(self, *words: str | Path) -> str:
        """Run an operator's command on its store. Returns what it prints."""
        return run_he_agg(*words, "--data-dir", self.data_dir, spawn=self._spawn).stdout


def run_he_agg(
    *words: str | Path,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    check: bool = True,
    spawn: Spawn = subprocess.Popen,
) -> subprocess.CompletedProcess[str]:
    """Run one `he-agg` command to its end."""
    command = [*HE_AGG, *map(str, words)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = spawn(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=directory, env=_variables(environment or {})
        )
        code = process.wait(_COMMAND_S)
        out.seek(0)
        err.seek(0)
        run = subprocess.CompletedProcess(command, code, out.read(), err.read())
    if check and code:
        where = "" if directory is None else f" in {directory}"
        typed = " ".join(map(str, words[:2]))
        raise ConfigError(Reason.BAD_CONFIG, f"`he-agg {typed}` failed{where}: {run.stderr.strip()}")
    return run


def lines_of(processes: Sequence[Process]) -> Iterator[str]:
    """Read lines of several processes as they come, until all have ended."""
    running = list(processes)
    while running:
        for process in _readable(running, None):
            if process._receive():
                *lines, process._read = process._read.split(b"\n")
                for line in lines:
                    yield line.decode()
            else:
                running.remove(process)
                if process.wait():
                    raise ProtocolError(Reason.INTERNAL, process._silent(f"failed with code {process.code}").message)


def _readable(processes: Sequence[Process], timeout_s: float | None) -> list[Process]:
    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(process, selectors.EVENT_READ, process)
        return [key.data for key, _ in selector.select(timeout_s)]


def _object(line: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    return {"text": line}


def _variables(more: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of this process, without settings of he-agg, and more."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HE_AGG_")} | dict(more)
