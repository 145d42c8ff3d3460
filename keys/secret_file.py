"""Secret files on disk: who may read them, and how they are written so that a crash leaves the old one or the new.

Written 0600 to a temporary name, fsynced, linked to the final name without overwriting, directory fsynced. Refused on
load when group or others may touch it, when somebody else owns it, or when it has a second name; a symbolic link is
followed if it is this user's or root's, and a file of root may be readable to a group of this process.
"""

from __future__ import annotations

import os
from pathlib import Path

from he_agg.errors import KeystoreError, Reason
from he_agg.host.files import beside, file_trouble, sync_directory
from he_agg.host.private import read_private

__all__ = ["read_secret", "read_secret_text", "replace_secret", "write_secret", "write_secret_text"]

MAX_SECRET_BYTES = 64 * 2**20


def write_secret(path: Path, content: bytes) -> None:
    """Write a secret file that does not exist yet."""
    try:
        with beside(path, content) as temporary:
            # A link, unlike a rename, fails when the name is taken: a key is never overwritten.
            os.link(temporary, path)
        sync_directory(path.parent)
    except FileExistsError as error:
        raise KeystoreError(
            Reason.FILE_EXISTS, f"{path} exists; it is never overwritten", "move it away first, or give another name"
        ) from error
    except OSError as error:
        raise file_trouble(error, f"{path} cannot be written", KeystoreError) from error


def replace_secret(path: Path, content: bytes, keep: Path | None) -> None:
    """Write a secret file in the place of another, which stays under a new name.

    At every moment there is a whole file at `path`, the old one or the new one.

    Args:
        keep: the old one's new name, in the same directory; None lets it go.
    """
    if path.is_symlink():
        # A file in the place of the link would leave the old secret behind it.
        raise KeystoreError(
            Reason.UNSAFE_PERMISSIONS, f"{path} is a symbolic link; nothing takes its place", "name the file itself"
        )
    try:
        with beside(path, content) as temporary:
            if keep is not None:
                _copy(path, keep)
            temporary.replace(path)
        sync_directory(path.parent)
    except FileExistsError as error:
        raise KeystoreError(
            Reason.FILE_EXISTS,
            f"{keep} exists; it is never overwritten, and {path} stays as it was",
            f"move {keep} away first",
        ) from error
    except OSError as error:
        raise file_trouble(error, f"{path} cannot be written", KeystoreError) from error


def _copy(path: Path, keep: Path) -> None:
    # A second name would be quicker, but a file that has two is refused.
    content = read_secret(path)
    try:
        with beside(keep, content) as temporary:
            os.link(temporary, keep)
    except FileExistsError:
        # Of an earlier run that was cut off before its last step, unless it is another file.
        if read_secret(keep) != content:
            raise
    sync_directory(path.parent)


def read_secret(path: Path, max_bytes: int = MAX_SECRET_BYTES) -> bytes:
    """Read a secret file after looking at who else may.

    Args:
        max_bytes: a longer file is refused.

    Raises:
        KeystoreError: missing, a symbolic link, too long, owned by somebody else, or open to group or others.
    """
    return read_private(path, max_bytes, "make a new one")


def write_secret_text(path: str | Path, text: str) -> None:
    """Write a one-line secret, such as a token."""
    write_secret(Path(path), text.encode() + b"\n")


def read_secret_text(path: str | Path) -> str:
    """Read a one-line secret, such as a token."""
    content = read_secret(Path(path), 4096)
    try:
        text = content.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise KeystoreError(Reason.KEYSTORE_CORRUPT, f"{path}: expected one line of text") from error
    if not text or not text.isprintable():
        raise KeystoreError(Reason.KEYSTORE_CORRUPT, f"{path}: expected one line of text")
    return text
