"""Packing at 30 bits, the width that every submission travels in: 16 residues fill 15 words exactly.

Word j of a group is (x[j] >> 2j) | (x[j+1] << 30-2j), and residue j is (word[j-1] >> 32-2j | word[j] <<
2j): two contiguous loads, two shifts by a table. Written so, over one group at a time, LLVM turns a group
into a few vector instructions; the general form of `packing.py` is scalar and takes two to three times as
long.

The tables come as arguments, because a loop whose length the compiler knows is unrolled before it is
vectorised, and then stays scalar. Groups whose neighbours lie outside the array go through a scalar form.
"""

from __future__ import annotations

import numpy as np
from numba import uint32
from numpy.typing import NDArray

from he_agg.ring._jit import kernel

U32 = NDArray[np.uint32]

MASK = np.uint32((1 << 30) - 1)

TILE = 2048
"""Residues handled between two passes, 8 KiB: stays in the L1 cache. A multiple of 16."""


def _table(values: list[int]) -> U32:
    table = np.array(values, dtype=np.uint32)
    table.setflags(write=False)
    return table


PACK_RIGHT = _table([2 * j for j in range(15)] + [0])
PACK_LEFT = _table([30 - 2 * j for j in range(15)] + [0])
UNPACK_RIGHT = _table([31] + [32 - 2 * j for j in range(1, 16)])
UNPACK_LEFT = _table([2 * j for j in range(16)])
UNPACK_KEEP = _table([0] + [0xFFFFFFFF] * 15)
"""Drops the word before a group, which a shift by 32 would have to do and cannot."""


@kernel
def pack30(x: U32, words: U32, right: U32, left: U32) -> None:
    """Pack residues < 2**30.

    Args:
        x: Residues. Shape: (16 * groups,).
        words: Out. Shape: (15 * groups,).
        right: `PACK_RIGHT`.
        left: `PACK_LEFT`.
    """
    width = right.size
    groups = x.size // 16
    for g in range(groups - 1):
        a, b = x[16 * g : 16 * g + width], x[16 * g + 1 : 16 * g + 1 + width]
        out = words[15 * g : 15 * g + width]
        for j in range(width):  # the 16th word is rubbish in the next group's place, which comes after
            out[j] = (a[j] >> right[j]) | (b[j] << left[j])
    g = groups - 1
    for j in range(15):
        words[15 * g + j] = (x[16 * g + j] >> right[j]) | (x[16 * g + j + 1] << left[j])


@kernel
def _scalar(words: U32, g: int, out: U32, right: U32, left: U32) -> None:
    """Unpack one group without looking beyond it."""
    out[0] = words[15 * g] & MASK
    for j in range(1, 15):
        out[j] = ((words[15 * g + j - 1] >> right[j]) | (words[15 * g + j] << left[j])) & MASK
    out[15] = words[15 * g + 14] >> right[15]


@kernel
def unpack30(words: U32, start: int, x: U32, right: U32, left: U32, keep: U32) -> None:
    """Unpack residues start, start + 1, ... into x.

    Only the very first and last group of `words` lack a neighbour and go through the scalar form, so a caller
    that wants tiles passes all words and a start, not a slice.

    Args:
        words: All packed residues, read-only. Shape: (15 * all groups,).
        start: Index of the first residue wanted, a multiple of 16.
        x: Out, all < 2**30. Shape: (16 * groups,).
        right: `UNPACK_RIGHT`.
        left: `UNPACK_LEFT`.
        keep: `UNPACK_KEEP`.
    """
    width = right.size
    first = start // 16
    stop = first + x.size // 16
    begin = max(first, 1)
    end = min(stop, words.size // 15 - 1)
    for g in range(begin, end):
        a, b = words[15 * g - 1 : 15 * g - 1 + width], words[15 * g : 15 * g + width]
        out = x[16 * (g - first) : 16 * (g - first) + width]
        for j in range(width):
            out[j] = uint32((((a[j] & keep[j]) >> right[j]) | (b[j] << left[j])) & MASK)
    for g in range(first, begin):
        _scalar(words, g, x[:width], right, left)
    for g in range(max(end, begin), stop):
        _scalar(words, g, x[16 * (g - first) : 16 * (g - first) + width], right, left)


@kernel
def fold30(words: U32, total: U32, q: np.uint32, right: U32, left: U32, keep: U32) -> np.uint32:
    """Add packed residues to a running sum mod q, tile by tile in the L1 cache.

    Args:
        words: Packed residues, read-only; must be < q, or the sum is wrong (see Returns). Shape: (15 *
            groups,).
        total: In and out, < q. Shape: (16 * groups,).
        q: The modulus, below 2**30.
        right: `UNPACK_RIGHT`.
        left: `UNPACK_LEFT`.
        keep: `UNPACK_KEEP`.

    Returns:
        The largest residue; when it is >= q the sum is spoilt.
    """
    scratch = np.empty(TILE, dtype=np.uint32)
    largest = uint32(0)
    for start in range(0, total.size, TILE):
        out = total[start : start + TILE]
        tile = scratch[: out.size]
        unpack30(words, start, tile, right, left, keep)
        for i in range(out.size):
            y = tile[i]
            largest = max(largest, y)
            s = uint32(out[i] + y)  # < 2q
            out[i] = min(s, uint32(s - q))  # < q
    return largest
