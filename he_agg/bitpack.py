"""Bit-exact packing: a residue of a 40-bit prime takes 40 bits, and the sum of packed residues.

Residue `i` occupies bits ``[i*b, (i+1)*b)`` of the byte string, counted from the least significant bit of byte 0.
The bits after the last residue, up to the end of its byte, are zero.

The kernels see the bytes as little-endian 64-bit words: a residue of at most 62 bits lies in one word or two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["MAX_BITS", "fold", "pack", "packed_bytes", "padding_is_zero", "unpack"]

MAX_BITS = 62
"""Widest residue: two of them add in 64 bits without a carry, and one spans at most two words."""

Words = NDArray[np.uint64]


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` residues of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(residues: Words, bits: int) -> bytes:
    """Pack residues below ``2^bits``.

    Args:
        residues: the values. Shape: (n,), uint64, each < 2^bits.
        bits: width of one residue, 2..62.

    Returns:
        `packed_bytes(n, bits)` bytes.
    """
    words = np.zeros((residues.size * bits + 63) // 64, dtype="<u8")
    _pack(np.ascontiguousarray(residues), np.uint64(bits), words)
    return words.view(np.uint8)[: packed_bytes(residues.size, bits)].tobytes()


def unpack(packed: bytes | memoryview, count: int, bits: int, modulus: int) -> tuple[Words, int]:
    """Unpack residues and look for one that is none.

    Args:
        packed: exactly `packed_bytes(count, bits)` bytes.
        count: how many residues.
        bits: width of one residue.
        modulus: q.

    Returns:
        The values (Shape: (count,), uint64) and the index of the first one that is not below q, or -1.
    """
    out = np.empty(count, dtype=np.uint64)
    bad = _unpack(_words(packed), np.uint64(bits), np.uint64(modulus), out)
    return out, int(bad)


def fold(total: Words, packed: bytes | memoryview, bits: int, modulus: int) -> int:
    """Add packed residues onto a running sum, mod q, in place.

    Args:
        total: the sum so far, each value < q. Shape: (n,), uint64. Each stays < q.
        packed: exactly `packed_bytes(n, bits)` bytes.
        bits: width of one residue.
        modulus: q, below 2^62.

    Returns:
        The index of the first packed residue that is not below q, or -1. When it is not -1, `total` is spoilt.
    """
    return int(_fold(total, _words(packed), np.uint64(bits), np.uint64(modulus)))


def padding_is_zero(packed: bytes | memoryview, count: int, bits: int) -> bool:
    """Whether the bits after the last residue are zero, so that equal residues have equal bytes."""
    used = (count * bits) % 8
    return used == 0 or packed[-1] >> used == 0


def _words(packed: bytes | memoryview) -> Words:
    """The bytes as words. Copies only when the last word is not whole."""
    raw = np.frombuffer(packed, dtype=np.uint8)
    if raw.size % 8:
        padded = np.zeros(raw.size + 8 - raw.size % 8, dtype=np.uint8)
        padded[: raw.size] = raw
        raw = padded
    return raw.view("<u8")


_kernel: Any = njit(cache=True, nogil=True, boundscheck=False)


@_kernel  # type: ignore[untyped-decorator]
def _pack(residues: Words, bits: np.uint64, words: Words) -> None:
    position = np.uint64(0)
    for i in range(residues.size):
        word = position >> np.uint64(6)
        shift = position & np.uint64(63)
        words[word] |= residues[i] << shift
        if shift + bits > np.uint64(64):
            words[word + np.uint64(1)] |= residues[i] >> (np.uint64(64) - shift)
        position += bits


@_kernel  # type: ignore[untyped-decorator]
def _unpack(words: Words, bits: np.uint64, q: np.uint64, out: Words) -> int:
    mask = (np.uint64(1) << bits) - np.uint64(1)
    position = np.uint64(0)
    bad = -1
    for i in range(out.size):
        word = position >> np.uint64(6)
        shift = position & np.uint64(63)
        x = words[word] >> shift
        if shift + bits > np.uint64(64):
            x |= words[word + np.uint64(1)] << (np.uint64(64) - shift)
        x &= mask
        if x >= q and bad < 0:
            bad = i
        out[i] = x
        position += bits
    return bad


@_kernel  # type: ignore[untyped-decorator]
def _fold(total: Words, words: Words, bits: np.uint64, q: np.uint64) -> int:
    mask = (np.uint64(1) << bits) - np.uint64(1)
    position = np.uint64(0)
    bad = -1
    for i in range(total.size):
        word = position >> np.uint64(6)
        shift = position & np.uint64(63)
        x = words[word] >> shift
        if shift + bits > np.uint64(64):
            x |= words[word + np.uint64(1)] << (np.uint64(64) - shift)
        x &= mask
        if x >= q and bad < 0:
            bad = i
        s = total[i] + x  # < 2q < 2^63
        total[i] = min(s, s - q)  # s - q wraps to a huge number when s < q
        position += bits
    return bad
