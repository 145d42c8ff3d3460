"""The check of packed residues that come from somebody else, before they are folded or opened."""

from __future__ import annotations

import numpy as np

from he_agg.ring.bitpack import Bytes, fold, packed_bytes, residue_dtype

_STRETCH = 1 << 15


def is_canonical(packed: bytes | bytearray | memoryview | Bytes, count: int, bits: int, q: int) -> bool:
    """Tell whether bytes are the one packed form of `count` residues below q.

    For any bytes whatsoever: the right length, every residue below q, padding bits zero.

    Args:
        packed: The bytes to judge.
        count: How many residues there should be.
        bits: Width of a residue.
        q: The modulus.

    Returns:
        Whether they are.

    Raises:
        ValueError: If the width or the modulus make no sense (a mistake of the caller, not of the bytes).
    """
    data = np.frombuffer(packed, dtype=np.uint8)
    if data.size != packed_bytes(count, bits):
        return False
    padding = 8 * data.size - count * bits
    if padding and data[-1] >> (8 - padding):
        return False
    scratch = np.zeros(min(count, _STRETCH), dtype=residue_dtype(bits))
    for start in range(0, count, _STRETCH):  # the sum is of no interest, but the fold is the fastest reader
        size = min(_STRETCH, count - start)
        part = data[start // 8 * bits : packed_bytes(start + size, bits)]
        if fold(part, scratch[:size], bits, q) >= q:
            return False
    return True
