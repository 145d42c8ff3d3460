"""Packing at 32 to 62 bits, in groups: 64 residues fill `bits` 64-bit words exactly.

Nothing travels at these widths but what the ckks codec sends, so plain loops do. They want whole groups and words on
8-byte boundaries: a shorter tail goes through a padded group, bytes elsewhere through a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from he_agg.kernels.jit import frozen, kernel

U64 = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

GROUP = 64
"""Residues in a group."""


# The factories close over the width, so that every shift and word index below is a constant to the
# compiler.


@cache
def _pack_kernel(bits: int) -> Callable[..., None]:
    @kernel
    def pack_groups(x: U64, words: U64) -> None:
        for g in range(x.size // 64):
            source, target = x[64 * g : 64 * g + 64], words[bits * g : bits * g + bits]
            pending = uint64(0)
            for j in range(64):
                shift = (j * bits) & 63
                y = source[j]
                pending |= y << uint64(shift)
                if shift + bits >= 64:
                    target[(j * bits) >> 6] = pending
                    pending = (y >> uint64(1)) >> uint64(63 - shift)  # a shift by 64 is undefined

    return pack_groups


@cache
def _unpack_kernel(bits: int) -> Callable[..., None]:
    mask = (1 << bits) - 1

    @kernel
    def unpack_groups(words: U64, x: U64) -> None:
        for g in range(x.size // 64):
            source, target = words[bits * g : bits * g + bits], x[64 * g : 64 * g + 64]
            for j in range(64):
                word, shift = (j * bits) >> 6, (j * bits) & 63
                y = source[word] >> uint64(shift)
                if shift + bits > 64:
                    y |= source[word + 1] << uint64(64 - shift)
                target[j] = y & uint64(mask)

    return unpack_groups


@cache
def _fold_kernel(bits: int) -> Callable[..., np.uint64]:
    mask = (1 << bits) - 1

    @kernel
    def fold_groups(words: U64, total: U64, q: np.uint64) -> np.uint64:
        largest = uint64(0)
        for g in range(total.size // 64):
            source, target = words[bits * g : bits * g + bits], total[64 * g : 64 * g + 64]
            for j in range(64):
                word, shift = (j * bits) >> 6, (j * bits) & 63
                y = source[word] >> uint64(shift)
                if shift + bits > 64:
                    y |= source[word + 1] << uint64(64 - shift)
                y &= uint64(mask)
                largest = max(largest, y)
                s = target[j] + y  # < 2q <= 2**63
                target[j] = min(s, s - q)  # < q
        return largest

    return fold_groups


def _aligned(packed: Bytes) -> Bytes:
    return packed if packed.ctypes.data % 8 == 0 else packed.copy()


def _padded(array: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    return np.concatenate((array, np.zeros(size - array.size, dtype=array.dtype)))


def pack(x: U64, packed: Bytes, bits: int) -> None:
    """Pack residues < 2**bits.

    Args:
        x: Residues. Shape: (n,).
        bits: Width, 32 to 62.
    """
    whole = x.size // GROUP * GROUP
    cut = whole // 8 * bits
    target = packed if packed.ctypes.data % 8 == 0 else np.empty_like(packed)
    pack_groups = _pack_kernel(bits)
    pack_groups(frozen(x[:whole]), target[:cut].view(np.uint64))
    if whole < x.size:
        tail = np.empty(bits, dtype=np.uint64)
        pack_groups(frozen(_padded(x[whole:], GROUP)), tail)
        target[cut:] = tail.view(np.uint8)[: packed.size - cut]
    if target is not packed:
        packed[:] = target


def unpack(packed: Bytes, x: U64, bits: int) -> None:
    """Unpack residues.

    Args:
        packed: Bytes whose padding bits are not looked at. Shape: (packed_bytes(n, bits),).
        x: Out, < 2**bits. Shape: (n,).
        bits: Width, 32 to 62.
    """
    whole = x.size // GROUP * GROUP
    cut = whole // 8 * bits
    source = _aligned(packed)
    unpack_groups = _unpack_kernel(bits)
    unpack_groups(frozen(source[:cut].view(np.uint64)), x[:whole])
    if whole < x.size:
        tail = np.empty(GROUP, dtype=np.uint64)
        unpack_groups(frozen(_padded(source[cut:], 8 * bits).view(np.uint64)), tail)
        x[whole:] = tail[: x.size - whole]


def fold(packed: Bytes, total: U64, bits: int, q: int) -> int:
    """Add packed residues to a running sum mod q.

    Args:
        packed: Bytes whose padding bits are not looked at. Shape: (packed_bytes(n, bits),).
        total: In and out, < q. Shape: (n,).
        bits: Width, 32 to 62.
        q: The modulus, at most 2**bits.

    Returns:
        The largest residue; when it is >= q the sum is spoilt.
    """
    whole = total.size // GROUP * GROUP
    cut = whole // 8 * bits
    source = _aligned(packed)
    fold_groups = _fold_kernel(bits)
    seen = int(fold_groups(frozen(source[:cut].view(np.uint64)), total[:whole], np.uint64(q)))
    if whole < total.size:
        tail, padded = _padded(total[whole:], GROUP), _padded(source[cut:], 8 * bits)
        used = (total.size - whole) * bits
        if used % 8:  # padding bits belong to nobody; they must not look like a residue
            padded[used // 8] &= (1 << used % 8) - 1
        seen = max(seen, int(fold_groups(frozen(padded.view(np.uint64)), tail, np.uint64(q))))
        total[whole:] = tail[: total.size - whole]
    return seen
