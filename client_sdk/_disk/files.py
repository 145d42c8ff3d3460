"""Files of a site: their digests, and errors that say where."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from he_agg.errors import Reason, WireError
from he_agg.host.files import file_trouble

__all__ = ["PIECE_BYTES", "digest_of", "explained", "read_file"]

PIECE_BYTES = 2**20
"""How much of a file is sent at a time."""

_READ_BYTES = 2**18


def digest_of(file: BinaryIO) -> str:
    """Compute the SHA-256 of an open file, in hex, read piece by piece."""
    digest = hashlib.sha256()
    while chunk := file.read(_READ_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def explained(path: Path, setting: str = "spool") -> Iterator[None]:
    """Turn what the file system says into an error that names the spool, or what else a setting names."""
    try:
        yield
    except OSError as error:
        raise file_trouble(error, f"{setting} {path}") from error


def _check_length(path: Path, length: int, got: int) -> None:
    if got < length:
        raise WireError(Reason.TRUNCATED, f"{path}: expected {length} bytes, got {got}")


def read_file(path: Path, length: int) -> Iterator[memoryview]:
    """Read the promised number of bytes, piece by piece, each into the memory of the one before it."""
    room = memoryview(bytearray(min(PIECE_BYTES, length)))
    left = length
    with explained(path), path.open("rb", buffering=0) as file:
        while left:
            count = file.readinto(room[:left])
            if not count:
                _check_length(path, length, length - left)
            left -= count
            yield room[:count]
