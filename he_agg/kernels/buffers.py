"""Memory for parts and sums, used again once the last array and view over it is gone.

A part of 4 MiB in fresh memory costs a thousand page faults, a third of the time that encrypting it takes.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray

__all__ = ["PAGE_BYTES", "Buffers", "aligned"]

PAGE_BYTES = 4096
"""Where memory begins, so that a disk can take it as it is: at a block of almost every file system."""

_MOST = 16
"""Free arrays kept: enough for a few threads and two limbs, and no more memory than 64 MiB of parts."""


class Buffers:
    """A pool of byte arrays. Memory comes back by itself, when nothing that could read it exists any more.

    Each loan has an owner of its own, which every array and memory view over the loan keeps alive; the owner's end
    gives the memory back. Nothing is counted or guessed, and whoever keeps a view for ever costs memory, no more.

    Args:
        most: free arrays to keep.
    """

    def __init__(self, most: int = _MOST) -> None:
        # Without a lock: memory may come back in the middle of `take`, by way of the garbage collector.
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=most)

    def take(self, size: int) -> NDArray[np.uint8]:
        """Lend an array of `size` bytes with anything in it, from the beginning of a page. Shape: (size,)."""
        owner = (ctypes.c_ubyte * size).from_buffer((memory := self._free_or_fresh(size)).data)
        # NumPy shortens chains of views down to the array that owns the memory, but never past another kind of object.
        weakref.finalize(owner, self._free.append, memory).atexit = False
        return np.ndarray(size, dtype=np.uint8, buffer=memoryview(owner))

    def _free_or_fresh(self, size: int) -> NDArray[np.uint8]:
        for _ in range(len(self._free)):
            try:
                memory = self._free.pop()
            except IndexError:  # another thread was faster
                break
            if memory.size == size:
                return memory
            self._free.appendleft(memory)
        return aligned(size)


def aligned(size: int) -> NDArray[np.uint8]:
    """Return memory that begins at a page. What is in it is anything: a bytearray is cleared first. Shape: (size,)."""
    memory = np.empty(size + PAGE_BYTES, dtype=np.uint8)
    begin = -memory.ctypes.data % PAGE_BYTES
    return memory[begin : begin + size]
