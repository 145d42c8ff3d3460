"""Files of parts: written durably, and where they are long past the page cache; read while others are served.

A long part is written once and, as a rule, never read: its sum was made from the memory in which it arrived. To copy
it into the kernel's memory and to clear that again costs several times what handing it to the disk does.
"""

from __future__ import annotations

import errno
import os
import secrets
import sys
from pathlib import Path

import numpy as np
from anyio.to_thread import run_sync

from service.failpoints import failpoint
from service.store.failures import die

if sys.platform != "win32":  # where an aggregator says in a sentence that it does not run
    import fcntl

__all__ = ["new_buffer", "read_piece", "sync_directory", "write"]

_BLOCK_BYTES = 4096
"""Where memory and offsets of direct writes begin and end. A file system that wants more says so, and gets copies."""

_LONG_BYTES = 2 * 2**20
"""From here on a file is written directly: shorter ones are waited for longer than copying them takes."""

_PIECE_BYTES = 2**20
"""Read at a time: whoever reads slowly holds as much of each part."""

_DIRECT: int = getattr(os, "O_DIRECT", 0)
_AT_ONCE: int | None = getattr(os, "RWF_NOWAIT", None)
"""How Linux is told to read only what needs no waiting for a disk."""


def new_buffer(length: int) -> memoryview:
    """Return memory from which `write` can write directly. What is in it is anything: a bytearray is cleared first."""
    memory = np.empty(length + _BLOCK_BYTES, np.uint8)
    begin = -memory.ctypes.data % _BLOCK_BYTES
    return memory[begin : begin + length].data


def write(path: Path, data: bytes | memoryview, *, to_be_read: bool = True) -> None:
    """Write a file beside its place, and move it there once it is durable. Its directory is the caller's to sync.

    Args:
        to_be_read: whether it is worth a place in the kernel's memory.
    """
    temporary = path.parent / f".{path.stem}.{secrets.token_hex(8)}.tmp"
    direct = not to_be_read and len(data) >= _LONG_BYTES and _begins_at_block(data)
    try:
        descriptor, direct = _create(temporary, direct=direct)
        try:
            failpoint("file.opened")
            _write_all(descriptor, memoryview(data), direct=direct)
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


def _begins_at_block(data: bytes | memoryview) -> bool:
    return np.frombuffer(data, np.uint8).ctypes.data % _BLOCK_BYTES == 0


def _create(path: Path, *, direct: bool) -> tuple[int, bool]:
    """Create a file, for direct writes if that is wanted and the file system knows them."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    if direct and _DIRECT:
        try:
            return os.open(path, flags | _DIRECT, 0o600), True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            path.unlink(missing_ok=True)  # the refusal comes after it was created
    return os.open(path, flags, 0o600), False


def _write_all(descriptor: int, data: memoryview, *, direct: bool) -> None:
    while data:
        blocks = len(data) - len(data) % _BLOCK_BYTES if direct else len(data)
        if blocks:
            try:
                data = data[os.write(descriptor, data[:blocks]) :]
                continue
            except OSError as error:
                if not direct or error.errno != errno.EINVAL:
                    raise
        # What is shorter than a block, or lies where this file system's own blocks do not begin.
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~_DIRECT)
        direct = False


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        die(f"fsync failed: {errno.errorcode.get(error.errno or 0, 'unknown')}")
