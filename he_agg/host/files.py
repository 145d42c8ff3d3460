"""Files that are whole after a crash, and files that nobody else may read: written and read in one way everywhere.

What goes wrong is told as the file system says it, or, of a file that others may read, as a `KeystoreError`; what that
means is for the caller to say, with `file_trouble` if it knows no better.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from he_agg.errors import ConfigError, HeAggError, KeystoreError, Reason
from he_agg.host.shell import quoted

__all__ = [
    "Content",
    "beside",
    "create",
    "create_once",
    "file_trouble",
    "make_directory",
    "read_private",
    "replace",
    "sync_directory",
]

_UNFINISHED_S = 60.0
"""A temporary file that is younger may be one that another process is writing."""

Content = bytes | memoryview | Callable[[BinaryIO], object]
"""All of a file; or what writes it, piece by piece."""


E = TypeVar("E", bound=HeAggError)

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

_MOST_LINKS = 8


def file_trouble(error: OSError, what: str = "", kind: type[E] = ConfigError) -> E:  # type: ignore[assignment]
    """Explain what the file system refused, such as a full disk.

    Args:
        what: what cannot be done, such as "PATH cannot be written"; the file that the error names if left out.
    """
    reason, hint = _REASONS.get(error.errno or 0, (Reason.BAD_CONFIG, ""))
    what = what or ("" if error.filename is None else str(error.filename))
    return kind(reason, f"{what}: {error.strerror or error}" if what else str(error.strerror or error), hint)


def create(path: Path, content: Content, mode: int = 0o600, durable: bool = True) -> None:
    """Write a file that does not exist yet, whole or, if that fails, not at all. Never through a symbolic link.

    Args:
        durable: whether it must survive a power cut from here on; its name does after `sync_directory`.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        # A full disk would leave an empty file, which is then taken for the real one.
        path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def beside(path: Path, content: Content, mode: int = 0o600) -> Iterator[Path]:
    """Make a file beside `path` for the length of a block; it is gone when the block ends.

    Within it, give the file its name: by a link, which fails when the name is taken, or by a rename, which replaces.
    """
    _clear_away(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        create(temporary, content, mode)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _clear_away(path: Path) -> None:
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


def replace(path: Path, content: Content, mode: int = 0o600) -> None:
    """Put a file in the place of another, or of none: after a crash it is the old one or the new, whole.

    For a file that one process writes: what a crash left unfinished beside it goes when it is next replaced.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    create(temporary, content, mode)
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Have the names in a directory on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a private directory that is not there yet, and those above it; their names are on disk afterwards."""
    missing = [above for above in (path, *path.parents) if not above.is_dir()]
    for directory in reversed(missing):
        directory.mkdir(mode=0o700 if directory == path else 0o777, exist_ok=True)
        sync_directory(directory.parent)


def read_private(path: Path, max_bytes: int, remedy: str) -> bytes:
    """Read a secret file after looking at who else may.

    Args:
        max_bytes: a longer file is refused.
        remedy: what to do if others may have read it.

    Raises:
        KeystoreError: missing, too long, owned by somebody else, open to group or others, or known by a second name;
            or a symbolic link of somebody else's. Root's links and files are nobody else's: where secrets are
            mounted, as Kubernetes does it, there are links to files of root that a group of this process may read.
    """
    named, path = path, _followed(path)
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise KeystoreError(
            Reason.FILE_MISSING,
            f"{named}: expected a secret file, got none",
            "name where it is; `he-agg site init` makes an identity, `he-agg epoch accept` a keystore",
        ) from error
    except OSError as error:
        raise KeystoreError(
            Reason.UNSAFE_PERMISSIONS, f"{path} cannot be opened as a regular file: {error.strerror}"
        ) from error
    # The descriptor's own state, not the path's: nobody can swap the file in between.
    _clear_away(path)
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        os.close(descriptor)
        raise KeystoreError(
            Reason.UNSAFE_PERMISSIONS,
            f"{path}: expected a regular file",
            "name the file itself, not a folder or a device",
        )
    with os.fdopen(descriptor, "rb") as file:
        if state.st_uid not in (os.geteuid(), 0):
            raise KeystoreError(
                Reason.UNSAFE_PERMISSIONS, f"{path}: expected it to belong to user {os.geteuid()}, got {state.st_uid}"
            )
        mode = stat.S_IMODE(state.st_mode)
        if mode & (0o077 if state.st_uid == os.geteuid() else 0o037):
            raise KeystoreError(
                Reason.UNSAFE_PERMISSIONS,
                f"{path}: expected mode 0600, got {mode:04o}: others may read or change it",
                f"chmod 600 {quoted(path)}; if anybody may have read it, {remedy}",
            )
        if state.st_nlink > 1:
            raise KeystoreError(
                Reason.UNSAFE_PERMISSIONS,
                f"{path}: expected a file of one name, got {state.st_nlink}: it stays readable where this one is gone",
                f"find the others with `find DIR -samefile {quoted(path)}` and rm them, or copy the file and rm it",
            )
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise KeystoreError(Reason.KEYSTORE_CORRUPT, f"{path}: expected at most {max_bytes} bytes, got more")
    return content


def _followed(path: Path) -> Path:
    """Return what a path leads to over symbolic links that nobody else can have made."""
    named = path
    for _ in range(_MOST_LINKS):
        try:
            state = path.lstat()
        except OSError:
            return path  # opening it says what is wrong
        if not stat.S_ISLNK(state.st_mode):
            return path
        if state.st_uid not in (os.geteuid(), 0):
            raise KeystoreError(
                Reason.UNSAFE_PERMISSIONS,
                f"{path}: expected a symbolic link of user {os.geteuid()} or root, got one of {state.st_uid}",
                "name the file itself",
            )
        path = path.parent / path.readlink()
    raise KeystoreError(Reason.UNSAFE_PERMISSIONS, f"{named}: expected at most {_MOST_LINKS} symbolic links, got more")
