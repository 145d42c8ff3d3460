"""Parts as files: write beside, fsync, rename, fsync the directory. A file under its final name is whole and durable.

::

    <data_dir>/rounds/<round id>/submissions/<submission id>/<number>.part
    <data_dir>/rounds/<round id>/sum/<number>.part
    <data_dir>/rounds/.../.<number>.<random>.tmp          only while being written; removed at start
    <data_dir>/parts.id                                   joins the directory to a database that is somewhere else
"""

# ruff: noqa: D102 - base.py says it

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from anyio.to_thread import run_sync

from he_agg.errors import WireError
from he_agg.ids import RoundId
from service.failpoints import failpoint
from service.store.failures import StoreBusyError, StoreFullError
from service.store.parts.base import SUM, PartKey, PartLostError, PartStore, Space
from service.store.parts.files import read_piece, sync_directory, write

__all__ = ["DirectoryParts"]

_MOST_DURABLE = 4096
"""How many directories are remembered as durable: about as many submissions are open at a time."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The last two: a round is being removed while somebody writes a part of it.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOENT, errno.ENOTEMPTY)
# A block that cannot be read is as lost as a file that is not there. Too many open files are neither.
_LOST = (errno.ENOENT, errno.EIO)


class DirectoryParts(PartStore):
    """Files below one directory, which several servers may share."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "rounds"
        self._number_path = data_dir / "parts.id"
        self._durable: set[Path] = set()

    def __str__(self) -> str:
        return str(self._root.parent)

    def path(self, key: PartKey) -> Path:
        """Return where a part is."""
        return self._directory(key.round_id, key.owner) / f"{key.number}.part"

    def put_all(self, parts: Sequence[tuple[PartKey, bytes | memoryview]], *, to_be_read: bool = False) -> None:
        with _translated():
            for key, data in parts:
                path = self.path(key)
                self._in_directory(path.parent, partial(write, path, data, to_be_read=to_be_read))
            for directory in dict.fromkeys(self.path(key).parent for key, _ in parts):
                sync_directory(directory)
            failpoint("file.directory_synced")

    def read(self, key: PartKey) -> bytes:
        with _translated(key):
            return self.path(key).read_bytes()

    async def stream(self, key: PartKey, size: int) -> AsyncIterator[memoryview]:
        offset = 0
        with _translated(key):
            file = await run_sync(partial(self.path(key).open, "rb", buffering=0))
            with file:
                while piece := await read_piece(file.fileno(), offset):
                    offset += len(piece)
                    yield piece
        if offset != size:
            raise PartLostError(key)

    def size(self, key: PartKey) -> int | None:
        # Opened, since a network's file system may remember an old answer.
        try:
            with _translated(key), self.path(key).open("rb") as file:
                return os.fstat(file.fileno()).st_size
        except PartLostError:
            return None

    def delete(self, key: PartKey) -> None:
        path = self.path(key)
        with _translated():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are in it; who writes just now makes it again
            path.parent.rmdir()
            self._durable.discard(path.parent)

    def purge_submission(self, round_id: RoundId, submission_id: str) -> None:
        # The directory stays: somebody may be writing there.
        directory = self._directory(round_id, submission_id)
        with _translated():
            found = list(directory.glob("*.part"))
            for path in found:
                path.unlink(missing_ok=True)
            if found:
                sync_directory(directory)

    def purge_submissions(self, round_id: RoundId) -> None:
        self._remove(self._root / str(round_id) / "submissions")

    def purge_sum(self, round_id: RoundId) -> None:
        self._remove(self._directory(round_id, SUM))
        with contextlib.suppress(OSError):  # submissions that are kept for audit
            (self._root / str(round_id)).rmdir()

    def purge_round(self, round_id: RoundId) -> None:
        self._remove(self._root / str(round_id))

    def purge_leftovers(self, older_than_s: float = 0.0) -> int:
        removed = 0
        for path in self._root.rglob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # another replica starts, too
                if not older_than_s or time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()
                    removed += 1
        return removed

    def rounds(self) -> Iterator[RoundId]:
        for directory in self._root.glob("*"):
            with contextlib.suppress(WireError):
                yield RoundId.parse(directory.name)

    def space(self) -> Space | None:
        usage = shutil.disk_usage(self._root.parent)
        return Space(usage.free, usage.total)

    def check(self) -> None:
        probe = self._root / f".probe.{secrets.token_hex(8)}.tmp"
        with _translated():
            self._make_durable(self._root)
            try:
                probe.write_bytes(b"\0")
            finally:
                probe.unlink(missing_ok=True)

    def number(self) -> int | None:
        try:
            text = self._number_path.read_text()
        except FileNotFoundError:
            return None
        return int(text) if text.strip().isdigit() else -1

    def take_number(self, number: int) -> None:
        with _translated():
            write(self._number_path, f"{number}\n".encode())
            sync_directory(self._number_path.parent)

    def _directory(self, round_id: RoundId, owner: str) -> Path:
        directory = self._root / str(round_id)
        return directory / owner if owner == SUM else directory / "submissions" / owner

    def _in_directory(self, directory: Path, act: Callable[[], object]) -> None:
        try:
            self._make_durable(directory)
            act()
        except FileNotFoundError:
            # Its round was removed, by us or by another replica. Whoever puts this is told so by the rows.
            self._durable.difference_update((directory, *directory.parents))
            self._make_durable(directory)
            act()

    def _make_durable(self, directory: Path) -> None:
        """Make a directory, durably. What this process has not synced itself may be in the kernel's memory only."""
        if directory in self._durable:
            return
        levels = [directory]
        while levels[-1] != self._root:
            levels.append(levels[-1].parent)
        for level in reversed(levels):
            if level not in self._durable:
                level.mkdir(mode=0o700, exist_ok=True)
                failpoint("directory.made")
                sync_directory(level.parent)
                failpoint("directory.synced")
        if len(self._durable) >= _MOST_DURABLE:
            self._durable.clear()
        self._durable.update(levels)

    def _remove(self, directory: Path) -> None:
        with _translated():
            if directory.exists():
                failpoint("removal.began")
                with contextlib.suppress(FileNotFoundError):  # another replica was faster
                    shutil.rmtree(directory)
                failpoint("removal.done")
                sync_directory(directory.parent)
                failpoint("removal.synced")


@contextlib.contextmanager
def _translated(lost: PartKey | None = None) -> Iterator[None]:
    """Raise what the operating system says as a store does. `lost` is the part that is gone if a file is."""
    try:
        yield
    except OSError as error:
        if lost is not None and error.errno in _LOST:
            raise PartLostError(lost) from error
        if error.errno in _FULL:
            raise StoreFullError from error
        if error.errno in _PASSING:
            raise StoreBusyError from error
        raise
