"""Remember which records this site has seen: index and digest of each, and what the next is checked by, in a file.

One line a record, added and fsynced when the record was verified; nothing is ever changed. So whoever shows this site
another history later, or takes a record back, is found out. A last line that a crash cut short counts as not written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from client_sdk._disk.files import explained
from he_agg import canonical
from he_agg.documents.record import NO_RECORD
from he_agg.errors import ConfigError, Reason, WireError
from he_agg.host.files import sync_directory

__all__ = ["Chain", "Link"]

_MAX_LINE = 1000


@dataclass(frozen=True)
class Link:
    """What is kept of a verified record.

    Attributes:
        digest: of the record.
        counted: what the draw after it depends on, see `he_agg.documents.draw`.
        roster_version: of the roster that it names; 0 if that is from before this site's first.
    """

    digest: str = NO_RECORD
    counted: str = NO_RECORD
    roster_version: int = 0


class Chain:
    """The verified records of one federation, from the first. Several processes of a site may use the file at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: list[Link] = []
        self._whole = 0  # bytes of the file that were read: whole lines

    def __repr__(self) -> str:
        return f"Chain({str(self._path)!r})"

    def __len__(self) -> int:
        """Count the verified records."""
        return len(self._links())

    def head(self, index: int | None = None) -> str:
        """Return the digest of a record.

        Args:
            index: which, from 1; the newest if None, and `NO_RECORD` for 0.

        Raises:
            IndexError: that record was not verified yet.
        """
        return self.link(len(self) if index is None else index).digest

    def link(self, index: int) -> Link:
        """Return what is kept of a record.

        Args:
            index: which, from 1; for 0 what comes before the first.

        Raises:
            IndexError: that record was not verified yet.
        """
        return self._links()[index - 1] if index else Link()

    def append(self, index: int, link: Link) -> None:
        """Note a verified record; one that is noted already is fine.

        Raises:
            WireError: another record is noted at this index, or those before it are missing.
        """
        with self._lock, explained(self._path), self._open() as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            self._read(file)
            if index <= len(self._seen):
                known = self._seen[index - 1].digest
                if known != link.digest:
                    raise WireError(Reason.CHAIN_MISMATCH, f"record {index}: expected {known}, got {link.digest}")
                return
            if index != len(self._seen) + 1:
                raise WireError(Reason.CHAIN_MISMATCH, f"expected record {len(self._seen) + 1}, got record {index}")
            file.truncate(self._whole)  # what a crash left of a line
            file.seek(self._whole)
            line = {"index": index, "digest": link.digest, "counted": link.counted, "roster": link.roster_version}
            file.write(canonical.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            if index == 1:
                sync_directory(self._path.parent)

    def _links(self) -> list[Link]:
        with self._lock, explained(self._path), contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            self._read(file)
        return self._seen

    def _open(self) -> BinaryIO:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "r+b")

    def _read(self, file: BinaryIO) -> None:
        """Read what was added since the last time."""
        file.seek(self._whole)
        data = file.read()
        end = data.rfind(b"\n") + 1
        for line in data[:end].splitlines():
            number = len(self._seen) + 1
            try:
                fields = canonical.Fields(canonical.parse(line, _MAX_LINE), "line")
                fields.integer("index", number, number)
                link = Link(fields.hex("digest", 32), fields.hex("counted", 32), fields.integer("roster", 0, 10**9))
                fields.end()
            except WireError as error:
                raise ConfigError(
                    Reason.CHAIN_MISMATCH,
                    f"{self._path}, line {number}, is damaged: {error.message}",
                    "restore the file from your backup; without it this site could not tell if the aggregator has "
                    "changed records that it had seen",
                ) from error
            self._seen.append(link)
            self._whole += len(line) + 1
