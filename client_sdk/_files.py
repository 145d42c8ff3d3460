"""Files of a site: written so that nobody else may read them, made durable, and with errors that say where."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from he_agg.errors import ConfigError, Reason

__all__ = ["digest_of", "explained", "replace_file", "sync_directory", "write_new"]

_READ_BYTES = 2**18


def write_new(path: Path, data: bytes, durable: bool = True) -> None:
    """Write a file that does not exist yet. Mode 0600; never through a symbolic link.

    Args:
        path: where.
        data: all of it.
        durable: whether it must survive a power cut from here on; its name does after `sync_directory`.

    Raises:
        OSError: as the file system says.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put a file in the place of another one, or of none: after a crash it is the old one or the new, whole.

    Args:
        path: where.
        data: all of it.
        mode: its permissions.

    Raises:
        OSError: as the file system says.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_new(temporary, data)
        temporary.chmod(mode)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def digest_of(file: BinaryIO) -> str:
    """SHA-256 of an open file, in hex, read piece by piece."""
    digest = hashlib.sha256()
    while chunk := file.read(_READ_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable.

    Raises:
        OSError: as the file system says.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(path: Path, setting: str = "spool") -> Iterator[None]:
    """Turn what the file system says into an error that names the spool, or what else a setting names.

    Raises:
        ConfigError: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        hint = (
            "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"see that `{setting}` can be written"
        )
        raise ConfigError(Reason.BAD_CONFIG, f"{setting} {path}: {error.strerror}", hint) from error
