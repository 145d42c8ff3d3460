"""Part files: write beside, fsync, rename, fsync the directory. A file under its final name is whole and durable.

::

    <data_dir>/rounds/<round id>/submissions/<submission id>/<number>.part
    <data_dir>/rounds/<round id>/submissions/<submission id>/<number>.ahead    a part of a sum, while the round is open
    <data_dir>/rounds/<round id>/sum/<number>.part
    <data_dir>/rounds/.../.<number>.<random>.tmp          only while being written; removed at start
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from he_agg.ids import RoundId
from service.failpoints import failpoint

__all__ = ["Blobs", "die"]

EXIT_DISK_FAILED = 74
"""EX_IOERR of sysexits.h: a supervisor that restarts the process does the right thing."""

_MOST_DURABLE = 64
"""How many directories are remembered as durable; about as many federations have rounds open at a time."""


def die(what: str) -> NoReturn:
    """End the process at once, because what is on the disk is not known any more.

    After a failed fsync the kernel may mark pages clean that were never written: trying again would succeed and
    lie. The next process reads what is really there.
    """
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f'{{"level": "CRITICAL", "message": "{what}; the process ends"}}\n'.encode())
    os._exit(EXIT_DISK_FAILED)


class Blobs:
    """Files below one directory. Numbers and ids have been checked before they get here."""

    def __init__(self, root: Path) -> None:
        self._root = root / "rounds"
        self._durable: set[Path] = set()
        self._make(self._root)

    def part_path(self, round_id: RoundId, submission_id: str, number: int) -> Path:
        """Return where a part of a submission is."""
        return self._submissions(round_id) / submission_id / f"{number}.part"

    def sum_path(self, round_id: RoundId, number: int) -> Path:
        """Return where a part of a sum is."""
        return self._root / str(round_id) / "sum" / f"{number}.part"

    def make_parent(self, path: Path) -> None:
        """Make the directory of a file, durably."""
        directory = path.parent
        if directory.parent in self._durable:
            with contextlib.suppress(FileNotFoundError):  # removed since, with its round
                self._make_level(directory)
                return
        self._make(directory)
        # Of the rounds that are open: others need no directories.
        self._durable = {directory.parent, *list(self._durable)[:_MOST_DURABLE]}

    def remove_parent(self, path: Path) -> None:
        """Remove the directory of a file if nothing is in it: nobody will put anything there."""
        with contextlib.suppress(OSError):
            path.parent.rmdir()

    def put(self, path: Path, data: bytes | memoryview) -> None:
        """Make a file, durably and at once: at any moment it is absent or whole. Its directory must exist.

        Raises:
            OSError: it could not be written, for example for lack of space; nothing is left behind.
        """
        self.put_all([(path, data)])

    def put_all(self, files: Sequence[tuple[Path, bytes | memoryview]]) -> None:
        """Write files of one directory, one after another; those before one that fails may be there.

        Raises:
            OSError: one of them could not be written.
        """
        for path, data in files:
            self._write(path, data)
        _sync_directory(files[0][0].parent)
        failpoint("file.directory_synced")

    def _write(self, path: Path, data: bytes | memoryview) -> None:
        temporary = path.parent / f".{path.stem}.{secrets.token_hex(8)}.tmp"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                failpoint("file.opened")
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                failpoint("file.written")
                _sync(descriptor)
                failpoint("file.synced")
            finally:
                os.close(descriptor)
            temporary.replace(path)
            failpoint("file.renamed")
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def move(self, made: Path, path: Path) -> None:
        """Give a file that is durable already its final name, durably.

        Raises:
            OSError: it is not there any more.
        """
        made.replace(path)
        failpoint("file.renamed")
        _sync_directory(path.parent)
        failpoint("file.directory_synced")

    def remove(self, path: Path) -> None:
        """Remove a file that no row names."""
        path.unlink(missing_ok=True)

    def remove_submissions(self, round_id: RoundId) -> None:
        """Remove all single submissions of a round. The sum stays."""
        self._remove(self._submissions(round_id))

    def remove_round(self, round_id: RoundId) -> None:
        """Remove everything of a round that failed."""
        self._remove(self._root / str(round_id))

    def remove_sum(self, round_id: RoundId) -> None:
        """Remove the sum of a round that is not kept any longer."""
        self._remove(self._root / str(round_id) / "sum")

    def remove_parts(self, round_id: RoundId, submission_id: str) -> None:
        """Remove all parts of one submission. The directory stays, since more may come."""
        directory = self._submissions(round_id) / submission_id
        found = list(directory.glob("*.part"))
        for path in found:
            path.unlink(missing_ok=True)
        if found:
            _sync_directory(directory)

    def is_there(self, path: Path, size: int) -> bool:
        """Tell whether a file of this size is there. Opens it, since a network file system may remember wrongly."""
        try:
            with path.open("rb") as file:
                return os.fstat(file.fileno()).st_size == size
        except FileNotFoundError:
            return False

    def free_bytes(self) -> int:
        """Return the space that is left for us on the disk. Units: bytes."""
        return shutil.disk_usage(self._root).free

    def remove_temporary(self, older_than_s: float = 0.0) -> int:
        """Remove what a killed process was writing, or had made ahead.

        Call it only while nobody writes, or with an age that says so.

        Args:
            older_than_s: leave younger files alone. Units: seconds.
        """
        removed = 0
        # Parts of sums that were made ahead are known to the process that made them only.
        for path in [*self._root.rglob(".*.tmp"), *self._root.rglob("*.ahead")]:
            with contextlib.suppress(FileNotFoundError):  # another replica starts, too
                if not older_than_s or time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()
                    removed += 1
        return removed

    def check_writable(self) -> None:
        """Write and remove a small file.

        Raises:
            OSError: that is not possible.
        """
        probe = self._root / f".probe.{secrets.token_hex(8)}.tmp"
        try:
            probe.write_bytes(b"\0")
        finally:
            probe.unlink(missing_ok=True)

    def _submissions(self, round_id: RoundId) -> Path:
        return self._root / str(round_id) / "submissions"

    def _remove(self, directory: Path) -> None:
        if directory.exists():
            failpoint("removal.began")
            with contextlib.suppress(FileNotFoundError):  # another replica was faster
                shutil.rmtree(directory)
            failpoint("removal.done")
            _sync_directory(directory.parent)
            failpoint("removal.synced")

    def _make(self, directory: Path) -> None:
        # Each level is synced even when it exists: another thread may have made it and not have got to its sync.
        for level in reversed([directory, *directory.parents]):
            if level == self._root or self._root in level.parents:
                self._make_level(level)

    def _make_level(self, level: Path) -> None:
        level.mkdir(mode=0o700, exist_ok=True)
        failpoint("directory.made")
        _sync_directory(level.parent)
        failpoint("directory.synced")


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        die(f"fsync failed: {errno.errorcode.get(error.errno or 0, 'unknown')}")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)
