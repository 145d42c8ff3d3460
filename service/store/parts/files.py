"""Files of parts: written durably, and where they are long past the page cache; read while others are served.

A long part is written once and, as a rule, never read: a submission's was added up in the memory in which it arrived,
and a sum's is sent from the memory in which it was made. See `he_agg/host/direct.py`.
"""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

import numpy as np
from anyio.to_thread import run_sync

from he_agg.host.direct import may_go_direct, open_new, write_all
from he_agg.kernels.buffers import aligned
from service.failpoints import failpoint
from service.store.failures import die

__all__ = ["new_buffer", "read_piece", "sync_directory", "write"]

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)

_PIECE_BYTES = 2**20
"""Read at a time: whoever reads slowly holds as much of each part."""

_AT_ONCE: int | None = getattr(os, "RWF_NOWAIT", None)
"""How Linux is told to read only what needs no waiting for a disk."""


def new_buffer(length: int) -> memoryview:
    """Return memory from which `write` can write directly. What is in it is anything."""
    return aligned(length).data


def write(path: Path, data: bytes | memoryview, *, to_be_read: bool = True) -> None:
    """Write a file beside its place, and move it there once it is durable. Its directory is the caller's to sync.

    Args:
        to_be_read: whether it is worth a place in the kernel's memory.
    """
    temporary = path.parent / f".{path.stem}.{secrets.token_hex(8)}.tmp"
    try:
        descriptor, direct = open_new(temporary, _NEW, 0o600, direct=not to_be_read and may_go_direct(data))
        try:
            failpoint("file.opened")
            write_all(descriptor, memoryview(data), direct=direct)
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


def sync_directory(directory: Path) -> None:
    """Make durable which files are in a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


async def read_piece(descriptor: int, offset: int) -> memoryview:
    """Read the next piece of a file: here, as long as the kernel has it in memory, or else in a thread."""
    room = np.empty(_PIECE_BYTES, np.uint8).data
    if _AT_ONCE is not None:
        try:
            return room[: os.preadv(descriptor, [room], offset, _AT_ONCE)]
        except OSError as error:
            # Not in memory, or a file system that never says so.
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
    return room[: await run_sync(os.preadv, descriptor, [room], offset)]


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        die(f"fsync failed: {errno.errorcode.get(error.errno or 0, 'unknown')}")
