"""Bit-exact packing of residues, and the fold: the one operation of the aggregator.

Format: residue i of b bits occupies bits [i*b, (i+1)*b) of the byte string, bit k being bit k % 8 of byte k
// 8 (little-endian throughout); the bits after the last residue are zero. 64 residues fill b 64-bit words
exactly, so kernels work on groups of 64 and a shorter tail goes through a padded group.

Residues are uint32 when b <= 31 and uint64 above; sums of two then never wrap.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from he_agg.ring import packing30 as p30
from he_agg.ring._jit import frozen, kernel

GROUP = 64
"""Residues in a group."""

MIN_BITS, MAX_BITS = 2, 62
"""Widths that can be packed: with 62 bits the sum of two residues still fits 64."""

Residues = NDArray[np.unsignedinteger]
Bytes = NDArray[np.uint8]


def residue_dtype(bits: int) -> type[np.uint32] | type[np.uint64]:
    """Return the type of unpacked residues of a width; the one place that checks the width.

    Raises:
        ValueError: If the width is not within [2, 62].
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"residues have {MIN_BITS} to {MAX_BITS} bits, got {bits}")
    return np.uint32 if bits <= 31 else np.uint64


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes `count` residues of `bits` bits take."""
    return (count * bits + 7) // 8


# The factories close over the width, so that every shift and word index below is a constant to the
# compiler. The residue type is left open: Numba makes the uint32 or uint64 version that the width asks for.


@cache
def _pack_kernel(bits: int) -> Callable[..., None]:
    @kernel
    def pack_groups(x: Residues, words: NDArray[np.uint64]) -> None:
        for g in range(x.size // 64):
            source, target = x[64 * g : 64 * g + 64], words[bits * g : bits * g + bits]
            pending = uint64(0)
            for j in range(64):
                shift = (j * bits) & 63
                y = uint64(source[j])
                pending |= y << uint64(shift)
                if shift + bits >= 64:
                    target[(j * bits) >> 6] = pending
                    pending = (y >> uint64(1)) >> uint64(63 - shift)  # a shift by 64 is undefined

    return pack_groups


@cache
def _unpack_kernel(bits: int) -> Callable[..., None]:
    mask = (1 << bits) - 1

    @kernel
    def unpack_groups(words: NDArray[np.uint64], x: Residues) -> None:
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
    def fold_groups(words: NDArray[np.uint64], total: Residues, q: np.uint64) -> np.uint64:
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
                s = uint64(target[j]) + y  # < 2q <= 2**63
                target[j] = min(s, s - q)  # < q
        return largest

    return fold_groups


def _pack(x: NDArray[Any], out: Bytes, bits: int) -> None:
    if bits == 30:
        p30.pack30(frozen(x), out.view(np.uint32), p30.PACK_RIGHT, p30.PACK_LEFT)
    else:
        _pack_kernel(bits)(frozen(x), out.view(np.uint64))


def _unpack(packed: Bytes, x: NDArray[Any], bits: int) -> None:
    if bits == 30:
        tables = (p30.UNPACK_RIGHT, p30.UNPACK_LEFT, p30.UNPACK_KEEP)
        p30.unpack30(frozen(packed.view(np.uint32)), 0, x, *tables)
    else:
        _unpack_kernel(bits)(frozen(packed.view(np.uint64)), x)


def _fold(packed: Bytes, total: NDArray[Any], bits: int, q: int) -> int:
    if bits == 30:
        tables = (p30.UNPACK_RIGHT, p30.UNPACK_LEFT, p30.UNPACK_KEEP)
        return int(p30.fold30(frozen(packed.view(np.uint32)), total, np.uint32(q), *tables))
    return int(_fold_kernel(bits)(frozen(packed.view(np.uint64)), total, np.uint64(q)))


def _aligned(data: bytes | bytearray | memoryview | Bytes, count: int, bits: int) -> Bytes:
    """Return packed bytes as an array on an 8-byte boundary, copied only if they are not on one already."""
    array = np.frombuffer(data, dtype=np.uint8)
    if array.size != packed_bytes(count, bits):
        raise ValueError(f"{count} residues of {bits} bits take {packed_bytes(count, bits)} bytes, got {array.size}")
    return array if array.ctypes.data % 8 == 0 else array.copy()


def _typed(residues: Residues, bits: int) -> None:
    expected = residue_dtype(bits)
    ok = residues.dtype == expected and residues.ndim == 1
    if not ok or not residues.flags.c_contiguous:
        got = f"{residues.dtype} of shape {residues.shape}"
        raise ValueError(f"residues of {bits} bits are one contiguous array of {expected.__name__}, got {got}")


def pack(residues: Residues, bits: int, out: Bytes | None = None) -> Bytes:
    """Pack residues.

    Args:
        residues: Values < 2**bits; larger ones would spill into their neighbours and are not looked for.
            uint32 for bits <= 31, uint64 above. Shape: (count,).
        bits: Width of a residue.
        out: Where to write. Shape: (packed_bytes(count, bits),).

    Returns:
        The packed bytes: `out` if given.

    Raises:
        ValueError: If type, shape or width are not as described.
    """
    _typed(residues, bits)
    size = packed_bytes(residues.size, bits)
    if out is None:
        out = np.empty(size, dtype=np.uint8)
    elif out.shape != (size,) or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"packing needs {size} contiguous bytes, got {out.dtype} of shape {out.shape}")
    target = out if out.ctypes.data % 8 == 0 else np.empty(size, dtype=np.uint8)
    whole = residues.size // GROUP * GROUP
    cut = whole // 8 * bits
    if whole:
        _pack(residues[:whole], target[:cut], bits)
    if whole < residues.size:
        padded, tail = np.zeros(GROUP, dtype=residues.dtype), np.empty(8 * bits, dtype=np.uint8)
        padded[: residues.size - whole] = residues[whole:]
        _pack(padded, tail, bits)
        target[cut:] = tail[: size - cut]
    if target is not out:
        out[:] = target
    return out


def _tail(packed: Bytes, cut: int, bits: int) -> Bytes:
    padded = np.zeros(8 * bits, dtype=np.uint8)
    padded[: packed.size - cut] = packed[cut:]
    return padded


def unpack(
    packed: bytes | bytearray | memoryview | Bytes, count: int, bits: int, out: Residues | None = None
) -> Residues:
    """Unpack residues.

    Args:
        packed: Exactly packed_bytes(count, bits) bytes; the padding bits are not looked at.
        count: How many residues.
        bits: Width of a residue.
        out: Where to write. Shape: (count,).

    Returns:
        The residues, all < 2**bits: `out` if given. Shape: (count,).

    Raises:
        ValueError: If type, shape, length or width are not as described.
    """
    if out is None:
        out = np.empty(count, dtype=residue_dtype(bits))
    _typed(out, bits)
    if out.size != count:
        raise ValueError(f"unpacking {count} residues needs as many places, got {out.size}")
    source = _aligned(packed, count, bits)
    whole = count // GROUP * GROUP
    cut = whole // 8 * bits
    if whole:
        _unpack(source[:cut], out[:whole], bits)
    if whole < count:
        tail = np.empty(GROUP, dtype=out.dtype)
        _unpack(_tail(source, cut, bits), tail, bits)
        out[whole:] = tail[: count - whole]
    return out


def fold(packed: bytes | bytearray | memoryview | Bytes, total: Residues, bits: int, q: int) -> int:
    """Add packed residues to a running sum mod q: unpack and add in one pass.

    Args:
        packed: Exactly packed_bytes(total.size, bits) bytes.
        total: The sum, < q, changed in place. uint32 for bits <= 31, uint64 above. Shape: (count,).
        bits: Width of a residue.
        q: The modulus, q <= 2**bits.

    Returns:
        The largest residue of `packed`. If it is not below q the sum is spoilt: refuse such bytes with
        `largest` before they get here, or throw the sum away.

    Raises:
        ValueError: If type, shape, length or width are not as described.
    """
    _typed(total, bits)
    if not 0 < q <= 1 << bits:
        raise ValueError(f"residues of {bits} bits need a modulus of at most 2**{bits}, got {q}")
    source = _aligned(packed, total.size, bits)
    whole = total.size // GROUP * GROUP
    cut = whole // 8 * bits
    seen = _fold(source[:cut], total[:whole], bits, q) if whole else 0
    if whole < total.size:
        tail = np.zeros(GROUP, dtype=total.dtype)
        tail[: total.size - whole] = total[whole:]
        padded = _tail(source, cut, bits)
        used = (total.size - whole) * bits
        if used % 8:  # padding bits belong to nobody; they must not look like a residue
            padded[used // 8] &= (1 << used % 8) - 1
        seen = max(seen, _fold(padded, tail, bits, q))
        total[whole:] = tail[: total.size - whole]
    return seen
