"""Buffers beside memory that may not be touched: a read or write outside them ends the process."""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np

PAGE = mmap.PAGESIZE


def guarded(size: int, at_end: bool) -> np.ndarray:
    """Bytes that end where a forbidden page begins, or begin where one ends. Poisoned, at most one page."""
    assert size <= PAGE
    if sys.platform == "win32":
        return np.full(size, 0xAA, dtype=np.uint8)
    pages = np.frombuffer(mmap.mmap(-1, 3 * PAGE), dtype=np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for page in (0, 2):
        address = ctypes.c_void_p(pages.ctypes.data + page * PAGE)
        if protect(address, ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = 2 * PAGE - size if at_end else PAGE
    pages[PAGE : 2 * PAGE] = 0xAA
    return pages[start : start + size]
