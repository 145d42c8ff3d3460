"""Packed residues that may come from somebody else: pack, unpack, and the sum, with a look at every residue.

Bit-exact: a residue of a 40-bit prime takes 40 bits. Residue `i` occupies bits ``[i*b, (i+1)*b)`` of the byte string,
counted from the least significant bit of byte 0; the bits after the last residue, up to the end of its byte, are zero.
The kernels are in ring/packing.py; what trusts its input calls them directly.
"""

from __future__ import annotations

import numpy as np

from he_agg.kernels import packing
from he_agg.kernels.packing import MAX_BITS, Residues, packed_bytes, residue_dtype

__all__ = ["MAX_BITS", "Residues", "fold", "new_sum", "pack", "packed_bytes", "padding_is_zero", "unpack"]


def new_sum(count: int, bits: int) -> Residues:
    """Zeros to fold onto: 32-bit words for residues of at most 31 bits, 64-bit words above. Shape: (count,)."""
    return np.zeros(count, dtype=residue_dtype(bits))


def pack(residues: Residues, bits: int) -> bytes:
    """Pack residues.

    Args:
        residues: each below 2^bits. Shape: (n,).
        bits: width of one residue, 2..62.

    Returns:
        `packed_bytes(n, bits)` bytes.
    """
    return packing.pack(np.ascontiguousarray(residues, dtype=residue_dtype(bits)), bits).tobytes()


def unpack(packed: bytes | memoryview, count: int, bits: int, modulus: int) -> tuple[Residues, int]:
    """Unpack residues and look for one that is none.

    Args:
        packed: exactly `packed_bytes(count, bits)` bytes.
        count: how many residues.
        bits: width of one residue.
        modulus: q.

    Returns:
        The values (Shape: (count,)) and the index of the first one that is not below q, or -1.
    """
    values = packing.unpack(packed, count, bits)
    return values, _first_above(values, modulus)


def fold(total: Residues, packed: bytes | memoryview, bits: int, modulus: int) -> int:
    """Add packed residues onto a running sum, mod q, in place.

    Args:
        total: the sum so far, from `new_sum`; each value < q, and stays so. Shape: (n,).
        packed: exactly `packed_bytes(n, bits)` bytes.
        bits: width of one residue.
        modulus: q, below 2^62.

    Returns:
        The index of the first packed residue that is not below q, or -1. When it is not -1, `total` is spoilt.
    """
    if packing.fold(packed, total, bits, modulus) < modulus:
        return -1
    return unpack(packed, total.size, bits, modulus)[1]


def padding_is_zero(packed: bytes | memoryview, count: int, bits: int) -> bool:
    """Whether the bits after the last residue are zero, so that equal residues have equal bytes."""
    used = (count * bits) % 8
    return used == 0 or packed[-1] >> used == 0


def _first_above(values: Residues, modulus: int) -> int:
    if values.size == 0 or int(values.max()) < modulus:
        return -1
    return int(np.argmax(values >= modulus))
