"""Packed residues and their sum, which is all that the aggregator computes: one API for every width.

Format: residue i of b bits occupies bits [i*b, (i+1)*b) of the byte string, bit k being bit k % 8 of byte k // 8
(little-endian throughout); the bits after the last residue, up to the end of its byte, are zero.

Residues are uint32 when b <= 31 and uint64 above; sums of two then never wrap. The loops are in `packing_lanes.py` up
to 31 bits and in `packing_groups.py` above; here arguments are checked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from he_agg.kernels import packing_groups, packing_lanes
from he_agg.kernels.jit import frozen
from he_agg.kernels.packing_lanes import MAX_LANE_BITS

__all__ = [
    "MAX_BITS",
    "MIN_BITS",
    "Bytes",
    "Packed",
    "Residues",
    "first_not_below",
    "fold",
    "new_sum",
    "pack",
    "packed_bytes",
    "padding_is_zero",
    "residue_dtype",
    "unpack",
]

MIN_BITS, MAX_BITS = 2, 62
"""Widths that can be packed: with 62 bits the sum of two residues still fits 64."""

Residues = NDArray[np.unsignedinteger]
Bytes = NDArray[np.uint8]
Packed = bytes | bytearray | memoryview | Bytes


def residue_dtype(bits: int) -> type[np.uint32] | type[np.uint64]:
    """Return the type of unpacked residues of a width; the one place that checks the width.

    Raises:
        ValueError: If the width is not within [2, 62].
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"residues have {MIN_BITS} to {MAX_BITS} bits, got {bits}")
    return np.uint32 if bits <= MAX_LANE_BITS else np.uint64


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes `count` residues of `bits` bits take."""
    return (count * bits + 7) // 8


def new_sum(count: int, bits: int) -> Residues:
    """Return zeros to fold onto. Shape: (count,)."""
    return np.zeros(count, dtype=residue_dtype(bits))


def pack(residues: Residues, bits: int, out: Bytes | None = None) -> Bytes:
    """Pack residues.

    Args:
        residues: Values < 2**bits; larger ones would spill into their neighbours and are not looked for. Copied
            first unless they are contiguous and of `residue_dtype`. Shape: (count,).
        out: Where to write. Shape: (packed_bytes(count, bits),).

    Returns:
        The packed bytes: `out` if given.
    """
    residues = np.ascontiguousarray(residues, dtype=residue_dtype(bits))
    if residues.ndim != 1:
        raise ValueError(f"packing takes one row of residues, got shape {residues.shape}")
    size = packed_bytes(residues.size, bits)
    if out is None:
        out = np.empty(size, dtype=np.uint8)
    elif out.shape != (size,) or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"packing needs {size} contiguous bytes, got {out.dtype} of shape {out.shape}")
    if bits <= MAX_LANE_BITS:
        packing_lanes.pack_kernel(bits)(frozen(residues), out)
    else:
        packing_groups.pack(residues, out, bits)
    return out


def unpack(packed: Packed, count: int, bits: int, out: Residues | None = None) -> Residues:
    """Unpack residues.

    Args:
        packed: Exactly packed_bytes(count, bits) bytes; the padding bits are not looked at.
        out: Where to write. Shape: (count,).

    Returns:
        The residues, all < 2**bits: `out` if given. Shape: (count,).
    """
    if out is None:
        out = np.empty(count, dtype=residue_dtype(bits))
    _check_residues(out, bits)
    if out.size != count:
        raise ValueError(f"unpacking {count} residues needs as many places, got {out.size}")
    source = _as_array(packed, count, bits)
    if bits <= MAX_LANE_BITS:
        packing_lanes.unpack_kernel(bits)(source, out)
    else:
        packing_groups.unpack(source, out, bits)
    return out


def fold(total: Residues, packed: Packed, bits: int, modulus: int) -> int:
    """Add packed residues onto a running sum, mod q, in place: unpack and add in one pass.

    Args:
        total: The sum so far, from `new_sum`; each value < q, and stays so. Shape: (count,).
        packed: Exactly packed_bytes(count, bits) bytes; the padding bits are not looked at.
        modulus: q, at most 2**bits.

    Returns:
        The index of the first packed residue that is not below q, or -1. When it is not -1, `total` is spoilt.
    """
    _check_residues(total, bits)
    if not 0 < modulus <= 1 << bits:
        raise ValueError(f"residues of {bits} bits need a modulus of at most 2**{bits}, got {modulus}")
    source = _as_array(packed, total.size, bits)
    if bits <= MAX_LANE_BITS:
        largest = int(packing_lanes.fold_kernel(bits)(source, total, np.uint32(modulus)))
    else:
        largest = packing_groups.fold(source, total, bits, modulus)
    return -1 if largest < modulus else first_not_below(unpack(source, total.size, bits), modulus)


def first_not_below(residues: Residues, modulus: int) -> int:
    """Return the index of the first residue that is not below q, or -1."""
    if residues.size == 0 or int(residues.max()) < modulus:
        return -1
    return int(np.argmax(residues >= modulus))


def padding_is_zero(packed: bytes | memoryview, count: int, bits: int) -> bool:
    """Return whether the bits after the last residue are zero, so that equal residues have equal bytes."""
    used = (count * bits) % 8
    return used == 0 or packed[-1] >> used == 0


def _as_array(packed: Packed, count: int, bits: int) -> Bytes:
    array = np.frombuffer(packed, dtype=np.uint8)
    if array.size != packed_bytes(count, bits):
        raise ValueError(f"{count} residues of {bits} bits take {packed_bytes(count, bits)} bytes, got {array.size}")
    return frozen(array)


def _check_residues(residues: Residues, bits: int) -> None:
    expected = residue_dtype(bits)
    if residues.dtype != expected or residues.ndim != 1 or not residues.flags.c_contiguous:
        got = f"{residues.dtype} of shape {residues.shape}"
        raise ValueError(f"residues of {bits} bits are one contiguous array of {expected.__name__}, got {got}")
