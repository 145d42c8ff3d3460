"""The kernel of the MAC against the plain loop that its module's documentation states."""

from __future__ import annotations

import numpy as np
import pytest

from he_agg.kernels.bitpack import pack
from he_agg.kernels.jit import frozen
from he_agg.kernels.mac_rows import MAX_BETA, MAX_GAMMA, MAX_TAGS, ROW, drained, interleaved, new_out, rows_kernel


def plain(x, gamma, beta):
    """One residue at a time, in Python integers."""
    total = [0] * len(gamma[0])
    for row, factors in zip(x, beta, strict=True):
        for tag, factor in enumerate(factors):
            total[tag] += factor * sum(residue * gamma[column][tag] for column, residue in enumerate(row))
    return total


@pytest.mark.parametrize("largest", [True, False], ids=["largest", "random"])
@pytest.mark.parametrize("tags", [1, MAX_TAGS])
@pytest.mark.parametrize("bits", [2, 15, 16, 31, 32])
def test_rows_add_up_as_the_plain_loop_says(bits, tags, largest, rng):
    """At 32 bits residues are not packed, and below 2**31."""
    rows, limit = 2, 1 << min(bits, 31)

    def numbers(below, *shape):
        return np.full(shape, below - 1, np.uint64) if largest else rng.integers(0, below, shape, dtype=np.uint64)

    x, gamma, beta = numbers(limit, rows, ROW), numbers(MAX_GAMMA, ROW, tags), numbers(MAX_BETA, rows, tags)
    flat = x.reshape(-1)
    packed, out = flat.astype(np.uint32).view(np.uint8) if bits == 32 else pack(flat, bits), new_out(tags)
    rows_kernel(bits, tags)(frozen(packed), frozen(interleaved(gamma)), frozen(beta.reshape(-1)), out, rows)
    assert drained(out, tags) == plain(x.tolist(), gamma.tolist(), beta.tolist())
