"""Bit-exact packing of residues, and the fold: the one operation of the aggregator.

Format: residue i of b bits occupies bits [i*b, (i+1)*b) of the byte string, bit k being bit k % 8 of byte k
// 8 (little-endian throughout); the bits after the last residue are zero.

Residues are uint32 when b <= 31 and uint64 above; sums of two then never wrap. The arithmetic is in
`packing_lanes.py` up to 31 bits and in `packing_groups.py` above; here arguments are checked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from he_agg.kernels import packing_groups, packing_lanes
from he_agg.kernels.jit import frozen
from he_agg.kernels.packing_lanes import MAX_LANE_BITS

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
    return np.uint32 if bits <= MAX_LANE_BITS else np.uint64


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes `count` residues of `bits` bits take."""
    return (count * bits + 7) // 8


def _array(data: bytes | bytearray | memoryview | Bytes, count: int, bits: int) -> Bytes:
    array = np.frombuffer(data, dtype=np.uint8)
    if array.size != packed_bytes(count, bits):
        raise ValueError(f"{count} residues of {bits} bits take {packed_bytes(count, bits)} bytes, got {array.size}")
    return frozen(array)


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
    if bits <= MAX_LANE_BITS:
        packing_lanes.pack_kernel(bits)(frozen(residues), out)
    else:
        packing_groups.pack(residues, out, bits)
    return out


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
    source = _array(packed, count, bits)
    if bits <= MAX_LANE_BITS:
        packing_lanes.unpack_kernel(bits)(source, out)
    else:
        packing_groups.unpack(source, out, bits)
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
    source = _array(packed, total.size, bits)
    if bits <= MAX_LANE_BITS:
        return int(packing_lanes.fold_kernel(bits)(source, total, np.uint32(q)))
    return packing_groups.fold(source, total, bits, q)
