"""A file that lines are added to: whole after a crash, and for several processes of a site at once.

What a crash left of a line is cut off by whoever adds the next; nobody was told that it was there.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path

from client_sdk._disk.files import explained
from he_agg import canonical
from he_agg.errors import ConfigError, Reason, WireError
from he_agg.host.direct import write_all
from he_agg.host.files import open_private, sync, sync_directory
from he_agg.host.locks import held

__all__ = ["Lines"]

_MAX_LINE = 1000


class Lines:
    """Canonical JSON objects, one a line, read once each.

    Args:
        take: reads each line's fields to their end, in order, those of other processes included. Raises `WireError`
            for a line that cannot be.
        lost: what a site without this file could not tell; the error for a damaged one says it.
        reason: that error's.
        hint: what to do about it, if not to restore a backup.
    """

    def __init__(
        self, path: Path, take: Callable[[canonical.Fields], None], lost: str, reason: Reason, hint: str = ""
    ) -> None:
        self._path, self._take, self._reason = path, take, reason
        self._hint = hint or f"restore the file from your backup; without it this site could not tell {lost}"
        self._lock = threading.Lock()
        self._whole = 0  # bytes of the file that were read: whole lines
        self._count = 0

    def read(self) -> None:
        """Take what was added since the last time. Nothing is ever changed: a file of the same length is the same."""
        with self._lock, explained(self._path), contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size != self._whole:
                with self._path.open("rb", buffering=0) as file:
                    self._read(file)

    @contextlib.contextmanager
    def adding(self) -> Iterator[Callable[[Mapping[str, canonical.Json]], None]]:
        """Take what was added, and let nobody else add for the length of a block. What it adds is durable at once."""
        with self._lock, explained(self._path), self._open() as file, held(file.fileno()):
            if _length(file) != self._whole:
                self._read(file)

            def add(line: Mapping[str, canonical.Json]) -> None:
                first, data = self._whole == 0, canonical.encode(dict(line)) + b"\n"
                if _length(file) != self._whole:
                    file.truncate(self._whole)  # what a crash left
                file.seek(self._whole)
                write_all(file.fileno(), memoryview(data), direct=False)
                sync(file.fileno())
                if first:
                    sync_directory(self._path.parent)
                self._take_lines(data)

            yield add

    def _open(self) -> FileIO:
        return FileIO(open_private(self._path, os.O_RDWR | os.O_CREAT), "r+")

    def _read(self, file: FileIO) -> None:
        file.seek(self._whole)
        data = file.readall()
        self._take_lines(data[: data.rfind(b"\n") + 1])

    def _take_lines(self, data: bytes) -> None:
        for line in data.splitlines():
            try:
                self._take(canonical.Fields(canonical.parse(line, _MAX_LINE), "line"))
            except WireError as error:
                raise ConfigError(
                    self._reason,
                    f"{self._path}, line {self._count + 1}, is damaged: {error.message}",
                    self._hint,
                ) from error
            self._count += 1
            self._whole += len(line) + 1


def _length(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size
