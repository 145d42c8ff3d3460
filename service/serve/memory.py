"""The C library's memory: kept for the next part, instead of given back to the kernel after each.

glibc takes each block of more than a few hundred KiB from the kernel and gives it back when it is freed. Then the
kernel clears every page of every part again, and each first touch of one is a fault: several times what writing costs.
With a heap for each thread, what one has freed is of no use to another.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Names of settings in malloc.h."""

_LARGEST_BYTES = 32 * 2**20
"""Blocks up to this come from the heap; glibc allows no more on machines of 64 bits."""

_KEPT_BYTES = 2**30
"""So much that is free at the heap's end is kept."""


def keep_memory() -> None:
    """Set the allocator of this process, before it has threads. Does nothing where the C library is not glibc."""
    try:
        if not os.confstr("CS_GNU_LIBC_VERSION"):
            return
    except (AttributeError, OSError, ValueError):  # not POSIX, or another C library
        return
    mallopt = ctypes.CDLL(None).mallopt
    for name, value in ((_MMAP_THRESHOLD, _LARGEST_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES), (_ARENA_MAX, 1)):
        mallopt(name, value)
