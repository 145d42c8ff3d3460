"""Buffers beside memory that may not be touched: a read or write outside them ends the process."""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np

PAGE = mmap.PAGESIZE


def guarded(size: int, at_end: bool) -> np.ndarray:
    """Bytes that end where a forbidden page begins, or begin where one ends. Poisoned."""
    whole = -(-size // PAGE) * PAGE or PAGE
    if sys.platform == "win32":
        return np.full(size, 0xAA, dtype=np.uint8)
    pages = np.frombuffer(mmap.mmap(-1, whole + 2 * PAGE), dtype=np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for start in (0, PAGE + whole):
        if protect(ctypes.c_void_p(pages.ctypes.data + start), ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = PAGE + whole - size if at_end else PAGE
    pages[PAGE : PAGE + whole] = 0xAA
    return pages[start : start + size]


def guarded_copy(of: np.ndarray, at_end: bool) -> np.ndarray:
    """The same numbers in such bytes."""
    copy = guarded(of.nbytes, at_end).view(of.dtype)
    copy[:] = of
    return copy
