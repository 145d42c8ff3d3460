"""Files that are whole after a crash, written in one way everywhere.

What goes wrong is told as the file system says it; what that means is for the caller to say, with `file_trouble` if it
knows no better.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from he_agg.errors import ConfigError, HeAggError, KeystoreError, Reason
from he_agg.host.direct import may_go_direct, open_new, write_all
from he_agg.host.windows import strangers

if sys.platform == "darwin":
    import fcntl

__all__ = [
    "Content",
    "beside",
    "clear_away",
    "create",
    "create_once",
    "file_trouble",
    "make_directory",
    "open_private",
    "put",
    "replace",
    "sync",
    "sync_directory",
]

_UNFINISHED_S = 60.0
"""A temporary file that is younger may be one that another process is writing."""

Content = bytes | memoryview | Callable[[BinaryIO], object]
"""All of a file; or what writes it, piece by piece."""


E = TypeVar("E", bound=HeAggError)

_ALWAYS = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOINHERIT", 0)
    | getattr(os, "O_BINARY", 0)  # or Windows writes two bytes for the end of a line
)

_MAKE_ROOM = (Reason.STORAGE_FULL, "make room and run it again")
_REASONS = {
    errno.ENOENT: (Reason.FILE_MISSING, "see that the file, or the directory that it is to be in, is there"),
    errno.ENOSPC: _MAKE_ROOM,
    errno.EFBIG: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EISDIR: (Reason.BAD_CONFIG, "name a file in that directory"),
    errno.ENOTDIR: (Reason.BAD_CONFIG, "see that what comes before the file's name is a directory"),
    errno.EROFS: (Reason.BAD_CONFIG, "name a directory that can be written to"),
    errno.EACCES: (Reason.BAD_CONFIG, "change its permissions, or name another place"),
    errno.EPERM: (Reason.BAD_CONFIG, "change its permissions, or name another place"),
}


def file_trouble(error: OSError, what: str = "", kind: type[E] = ConfigError) -> E:  # type: ignore[assignment]
    """Explain what the file system refused, such as a full disk.

    Args:
        what: what cannot be done, such as "PATH cannot be written"; the file that the error names if left out.
    """
    reason, hint = _REASONS.get(error.errno or 0, (Reason.BAD_CONFIG, ""))
    what = what or ("" if error.filename is None else str(error.filename))
    return kind(reason, f"{what}: {error.strerror or error}" if what else str(error.strerror or error), hint)


def open_private(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file as it is, never through a symbolic link; with O_CREAT make it, for this user alone."""
    return os.open(path, flags | _ALWAYS, mode)


def create(path: Path, content: Content, mode: int = 0o600, *, durable: bool = True, to_be_read: bool = True) -> None:
    """Write a file that does not exist yet, whole or, if that fails, not at all. Never through a symbolic link.

    Args:
        durable: whether it must survive a power cut from here on; its name does after `sync_directory`.
        to_be_read: whether it is worth a place in the kernel's memory.
    """
    direct = not to_be_read and not callable(content) and may_go_direct(content)
    descriptor, direct = open_new(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _ALWAYS, mode, direct=direct)
    try:
        try:
            if sys.platform == "win32" and not mode & 0o077:
                _refuse_strangers(path)  # before anything is in it
            if callable(content):
                with os.fdopen(descriptor, "wb", closefd=False) as file:
                    content(file)
            else:
                write_all(descriptor, memoryview(content), direct=direct)
            if durable:
                sync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        # A full disk would leave an empty file, which is then taken for the real one.
        path.unlink(missing_ok=True)
        raise


def _refuse_strangers(path: Path) -> None:
    """Windows has no mode for a new file: it gets what its directory hands on."""
    if others := strangers(path):
        raise KeystoreError(
            Reason.UNSAFE_PERMISSIONS,
            f"{path.parent}: {', '.join(others)} may read what is written there; nothing was",
            "name a directory in your profile, or: "
            f'icacls "{path.parent}" /inheritance:r /grant:r "%USERNAME%:(OI)(CI)F"',
        )


@contextlib.contextmanager
def beside(path: Path, content: Content, mode: int = 0o600) -> Iterator[Path]:
    """Make a file beside `path` for the length of a block; it is gone when the block ends.

    Within it, give the file its name: by a link, which fails when the name is taken, or by a rename, which replaces.
    """
    clear_away(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        create(temporary, content, mode)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def clear_away(path: Path) -> None:
    """Remove what a process that was killed has left beside a file: it may hold a secret, and nobody knows its name."""
    temporary = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\Z")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        found = path.lstat().st_ino if os.path.lexists(path) else None
        for entry in entries:
            if temporary.match(entry.name) and entry.is_file(follow_symlinks=False):
                state = entry.stat(follow_symlinks=False)
                # Under its final name already; or older than anybody takes to write it.
                if state.st_ino == found or time.time() - state.st_mtime > _UNFINISHED_S:
                    Path(entry.path).unlink()


def create_once(path: Path, content: bytes) -> None:
    """Give a new private file its name, unless another process was first. Whoever finds the file finds all of it."""
    # A link, unlike a rename, fails when the name is taken.
    with beside(path, content) as temporary, contextlib.suppress(FileExistsError):
        os.link(temporary, path)


def put(path: Path, content: Content, mode: int = 0o600, *, to_be_read: bool = True) -> None:
    """Put a file in the place of another, or of none: whoever finds the file finds all of it, also after a crash.

    Which of them is found after a crash is certain once its directory was synced. For a file that one process writes:
    what a crash left unfinished beside it goes when it is next put there.

    Args:
        to_be_read: see `create`.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        create(temporary, content, mode, to_be_read=to_be_read)
    except FileExistsError:
        temporary.unlink()
        create(temporary, content, mode, to_be_read=to_be_read)
    temporary.replace(path)


def replace(path: Path, content: Content, mode: int = 0o600) -> None:
    """Put a file in the place of another, or of none, for good. See `put`."""
    put(path, content, mode)
    sync_directory(path.parent)


def sync(descriptor: int) -> None:
    """Have what was written on disk."""
    if sys.platform == "darwin":
        # fsync there leaves it in the drive's own memory. Some file systems, such as SMB, know nothing better.
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Have the names in a directory on disk."""
    if sys.platform == "win32":
        return  # it cannot be asked to: NTFS keeps names in its journal
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a private directory that is not there yet, and those above it; their names are on disk afterwards."""
    with contextlib.suppress(FileNotFoundError):  # those above it are missing, too
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not path.is_dir():
                raise
        else:
            sync_directory(path.parent)
        return
    missing = [above for above in (path, *path.parents) if not above.is_dir()]
    for directory in reversed(missing):
        directory.mkdir(mode=0o700 if directory == path else 0o777, exist_ok=True)
        sync_directory(directory.parent)
