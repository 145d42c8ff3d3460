"""Write long files past the kernel's memory, where nobody will read them soon.

To copy a file into that memory and to clear it again costs several times what handing it to the disk does. It takes
memory that begins at a block; the rest of a file that is no whole block, and file systems that refuse, get copies.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np

from he_agg.kernels.buffers import PAGE_BYTES

if sys.platform != "win32":
    import fcntl

__all__ = ["LONG_BYTES", "may_go_direct", "open_new", "write_all"]

LONG_BYTES = 2 * 2**20
"""From here on a file is written directly: shorter ones are waited for longer than copying them takes."""

_DIRECT: int = getattr(os, "O_DIRECT", 0)


def may_go_direct(data: bytes | memoryview) -> bool:
    """Say whether it is worth while, and possible, to write this directly."""
    return len(data) >= LONG_BYTES and np.frombuffer(data, np.uint8).ctypes.data % PAGE_BYTES == 0


def open_new(path: Path, flags: int, mode: int, *, direct: bool) -> tuple[int, bool]:
    """Create a file, for direct writes if that is wanted and the file system knows them.

    Args:
        flags: among them `O_CREAT` and `O_EXCL`.

    Returns:
        The descriptor, and whether it writes directly.
    """
    if direct and _DIRECT:
        try:
            return os.open(path, flags | _DIRECT, mode), True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            path.unlink(missing_ok=True)  # the refusal comes after it was created
    return os.open(path, flags, mode), False


def write_all(descriptor: int, data: memoryview, *, direct: bool) -> None:
    """Write all of it. If `direct`, it was said of the descriptor by `open_new`, and of the data by `may_go_direct`."""
    while data:
        blocks = len(data) - len(data) % PAGE_BYTES if direct else len(data)
        if blocks:
            try:
                data = data[os.write(descriptor, data[:blocks]) :]
                continue
            except OSError as error:
                if not direct or error.errno != errno.EINVAL:
                    raise
        # What is shorter than a block, or lies where this file system's own blocks do not begin.
        _stop_direct(descriptor)
        direct = False


def _stop_direct(descriptor: int) -> None:
    if sys.platform != "win32":
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~_DIRECT)
