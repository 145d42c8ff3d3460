"""A file that lines are added to: whole after a crash, and for several processes of a site at once.

What a crash left of a line is cut off by whoever adds the next; nobody was told that it was there.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from client_sdk._disk.files import explained
from he_agg import canonical
from he_agg.errors import ConfigError, Reason, WireError
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
        """Take what was added since the last time."""
        with self._lock, explained(self._path), contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            self._read(file)

    @contextlib.contextmanager
    def adding(self) -> Iterator[Callable[[Mapping[str, canonical.Json]], None]]:
        """Take what was added, and let nobody else add for the length of a block. What it adds is durable at once."""
        with self._lock, explained(self._path), self._open() as file, held(file.fileno()):
            self._read(file)

            def add(line: Mapping[str, canonical.Json]) -> None:
                first = self._whole == 0
                file.truncate(self._whole)
                file.seek(self._whole)
                file.write(canonical.encode(dict(line)) + b"\n")
                file.flush()
                sync(file.fileno())
                if first:
                    sync_directory(self._path.parent)
                self._read(file)

            yield add

    def _open(self) -> BinaryIO:
        return os.fdopen(open_private(self._path, os.O_RDWR | os.O_CREAT), "r+b")

    def _read(self, file: BinaryIO) -> None:
        file.seek(self._whole)
        data = file.read()
        for line in data[: data.rfind(b"\n") + 1].splitlines():
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
