"""Files that nobody else may read, or change: looked at before they are believed.

On POSIX owner and mode say who may, on Windows the access control list. Root, or the administrators there, are nobody
else.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from he_agg.errors import KeystoreError, Reason
from he_agg.host.files import clear_away, open_private
from he_agg.host.shell import quoted
from he_agg.host.windows import strangers

__all__ = ["Others", "changed_by_others", "followed", "read_private"]

_MOST_LINKS = 8
_DIRECTORY_HINT = "name the file itself, or have nobody else write to that directory"


def read_private(path: Path, max_bytes: int, remedy: str) -> bytes:
    """Read a secret file after looking at who else may.

    Args:
        max_bytes: a longer file is refused.
        remedy: what to do if others may have read it.

    Raises:
        KeystoreError: missing, too long, owned by somebody else, open to group or others, known by a second name, or
            behind a symbolic link that is not `followed`. Root's files are nobody else's: where secrets are mounted, as
            Kubernetes does it, there are links to files of root that a group of this process may read.
    """
    named, path = path, followed(path)
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its other end.
        descriptor = open_private(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
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
    clear_away(path)
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        os.close(descriptor)
        raise KeystoreError(
            Reason.UNSAFE_PERMISSIONS,
            f"{path}: expected a regular file",
            "name the file itself, not a folder or a device",
        )
    with os.fdopen(descriptor, "rb") as file:
        _refuse_readers(path, state, remedy)
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


@dataclass(frozen=True)
class Others:
    """Who else may change a file."""

    what: str
    remedy: str


def changed_by_others(path: Path, state: os.stat_result) -> Others | None:
    """Say who else could have changed a file that anybody may read, and what to type against it; None if nobody."""
    if sys.platform == "win32":
        found = strangers(path, changing=True)
        remedy = f'icacls "{path}" /inheritance:r /grant:r "%USERNAME%:F"'
        return Others(f"one that {', '.join(found)} may change", remedy) if found else None
    if state.st_uid not in (_me(), 0):
        return Others(f"one of user {state.st_uid}", f"chown {_me()} {quoted(path)}")
    mode = stat.S_IMODE(state.st_mode)
    return Others(f"mode {mode:04o}", f"chmod 644 {quoted(path)}") if mode & 0o022 else None


def _refuse_readers(path: Path, state: os.stat_result, remedy: str) -> None:
    if sys.platform == "win32":
        if others := strangers(path):
            raise KeystoreError(
                Reason.UNSAFE_PERMISSIONS,
                f"{path}: expected a file of this user alone, got one that {', '.join(others)} may read or change",
                f'icacls "{path}" /inheritance:r /grant:r "%USERNAME%:F"; if anybody may have read it, {remedy}',
            )
        return
    me = _me()
    if state.st_uid not in (me, 0):
        raise KeystoreError(
            Reason.UNSAFE_PERMISSIONS, f"{path}: expected it to belong to user {me}, got {state.st_uid}"
        )
    mode = stat.S_IMODE(state.st_mode)
    if mode & (0o077 if state.st_uid == me else 0o037):
        raise KeystoreError(
            Reason.UNSAFE_PERMISSIONS,
            f"{path}: expected mode 0600, got {mode:04o}: others may read or change it",
            f"chmod 600 {quoted(path)}; if anybody may have read it, {remedy}",
        )


def followed(path: Path) -> Path:
    """Return what a path leads to over symbolic links that nobody else can have made or turned elsewhere.

    Links belong to this user or to root, and so do all directories on the way, to which nobody else may write; to a
    sticky one he may, since in it he cannot touch what is not his. Of a path that does not end in a link nothing is
    asked: whoever names it has chosen its directory.

    Raises:
        KeystoreError: somebody else could have, or, on Windows, it is a link.
    """
    if not path.is_symlink():
        return path
    if sys.platform == "win32":
        raise KeystoreError(
            Reason.UNSAFE_PERMISSIONS, f"{path} is a symbolic link; on Windows none is followed", "name the file itself"
        )
    at, names, links = Path("/"), _names(Path.cwd() / path), 0
    _check_directory(at)
    while names:
        name = names.pop()
        try:
            state = (at / name).lstat()
        except OSError:
            return at.joinpath(name, *reversed(names))  # opening it says what is wrong
        if stat.S_ISLNK(state.st_mode):
            links += 1
            _check_link(at / name, state, links, path)
            target = (at / name).readlink()
            names += _names(target)
            at = Path("/") if target.is_absolute() else at
        elif name == "..":
            at = at.parent
        else:
            at = at / name
            if stat.S_ISDIR(state.st_mode):
                _check_directory(at)
    return at


def _me() -> int:
    if sys.platform == "win32":
        return 0
    return os.geteuid()


def _names(path: Path) -> list[str]:
    """Return the names of a path, last one first."""
    return [name for name in reversed(path.parts) if name != "/"]


def _check_link(path: Path, state: os.stat_result, links: int, named: Path) -> None:
    if links > _MOST_LINKS:
        raise KeystoreError(
            Reason.UNSAFE_PERMISSIONS, f"{named}: expected at most {_MOST_LINKS} symbolic links, got more"
        )
    if state.st_uid not in (_me(), 0):
        raise KeystoreError(
            Reason.UNSAFE_PERMISSIONS,
            f"{path}: expected a symbolic link of user {_me()} or root, got one of {state.st_uid}",
            "name the file itself",
        )


def _check_directory(path: Path) -> None:
    state = path.stat()
    if state.st_uid not in (_me(), 0):
        raise KeystoreError(
            Reason.UNSAFE_PERMISSIONS,
            f"{path}: on the way of a symbolic link, expected a directory of user {_me()} or root, "
            f"got one of {state.st_uid}",
            _DIRECTORY_HINT,
        )
    if state.st_mode & 0o022 and not state.st_mode & stat.S_ISVTX:
        raise KeystoreError(
            Reason.UNSAFE_PERMISSIONS,
            f"{path}: on the way of a symbolic link, expected a directory that nobody else writes to, "
            f"got mode {stat.S_IMODE(state.st_mode):04o}",
            _DIRECTORY_HINT,
        )
