"""Files of a site: their digests, and errors that say where."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from he_agg.errors import ConfigError, Reason

__all__ = ["digest_of", "explained"]

_READ_BYTES = 2**18


def digest_of(file: BinaryIO) -> str:
    """SHA-256 of an open file, in hex, read piece by piece."""
    digest = hashlib.sha256()
    while chunk := file.read(_READ_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


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
