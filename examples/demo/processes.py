"""The processes of the demo: the aggregator and the hospitals, started as a user would and never left behind."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from he_agg.errors import ConfigError, ProtocolError, Reason

__all__ = ["Aggregator", "Hospitals"]

_START_S = 60.0
_STOP_S = 10.0
_TAIL_LINES = 8


class Aggregator:
    """`he-agg serve` on a free loopback port.

    Args:
        data_dir: its database and parts.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._log = data_dir.with_name("aggregator.log")
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def command(self, *words: str) -> None:
        """Run an operator's command on the aggregator's store.

        Raises:
            ConfigError: it failed.
        """
        arguments = [sys.executable, "-m", "he_agg", *words, "--data-dir", str(self._data_dir)]
        run = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise ConfigError(Reason.BAD_CONFIG, f"`he-agg {' '.join(words[:2])}` failed: {run.stderr.strip()}")

    def __enter__(self) -> Aggregator:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "he_agg", "serve", "--port", "0", "--data-dir", str(self._data_dir)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        line = _first_line(self._process)
        if not line.startswith("listening on "):
            self.__exit__()
            raise ConfigError(Reason.UNREACHABLE, f"the aggregator did not start: {self.tail()}")
        self.url = line.removeprefix("listening on ").strip()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            _stop(self._process)

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text().splitlines()[-_TAIL_LINES:])

    def events(self) -> list[dict[str, Any]]:
        """Its log lines, those that are JSON objects."""
        found = []
        for line in self._log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
        return found


class Hospitals:
    """One process per hospital.

    Args:
        directories: one per hospital.
    """

    def __init__(self, directories: list[Path]) -> None:
        self._directories = directories
        self._processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def __enter__(self) -> Hospitals:
        for directory in self._directories:
            with (directory / "stderr.log").open("w") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "examples.demo.hospital", str(directory)],
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            self._processes.append(process)
            reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
            reader.start()
            self._readers.append(reader)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            _stop(process)
        for reader in self._readers:
            reader.join()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with contextlib.suppress(ValueError):
                self._events.put(json.loads(line))

    def next_event(self) -> dict[str, Any] | None:
        """What a hospital said next; None when all are done.

        Raises:
            ProtocolError: a hospital's process failed.
        """
        while True:
            with contextlib.suppress(queue.Empty):
                return self._events.get(timeout=0.2)
            codes = [process.poll() for process in self._processes]
            for directory, code in zip(self._directories, codes, strict=True):
                if code not in (None, 0):
                    tail = (directory / "stderr.log").read_text().strip().splitlines()[-_TAIL_LINES:]
                    raise ProtocolError(Reason.INTERNAL, f"{directory.name} stopped: " + "\n".join(tail))
            if all(code == 0 for code in codes):
                for reader in self._readers:
                    reader.join()
                with contextlib.suppress(queue.Empty):
                    return self._events.get_nowait()
                return None


def _first_line(process: subprocess.Popen[str]) -> str:
    """The first line of its stdout, or nothing when it ends, or does not speak in time, before that."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    stream = process.stdout
    if stream is None:
        return ""
    threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True).start()
    try:
        return lines.get(timeout=_START_S)
    except queue.Empty:
        return ""


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        deadline = time.monotonic() + _STOP_S
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is None:
            process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
