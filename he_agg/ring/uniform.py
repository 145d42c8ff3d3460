"""The common polynomials a: exactly uniform residues from 32-bit keystream words.

A 32-bit word w is accepted when it lies below the largest multiple of q that fits 32 bits, and then *is* the
residue w mod q: that range holds each residue equally often, so accepted words are exactly uniform mod q,
given uniform keystream. No reduction follows, because Shoup's product takes any 32-bit factor. A word is
rejected with probability (2**32 mod q)/2**32: 4.6e-5 for the largest prime of 30 bits (1.5 of the 32,768 words
of a batch), at most 2.5e-3 for any prime in use (80 words). The r-th rejected word is replaced by the r-th
accepted word of a reserve of 256 words that follows in the stream. Were the reserve to run out (below 2**-150
per batch), the word is halved, which only has to be the same for everybody.

The words of a are public, hence branching on them is no leak. Against the high half of w*q with a 64-bit w
(bias below 2**-34 per residue) this costs half the keystream and has no bias to account for.

Order: words are little-endian; word i of a batch is transform index i // LANES of lane i % LANES. The
values are taken in the transform domain directly: the transform of a uniform polynomial is uniform.
"""

from __future__ import annotations

import numpy as np
from numba import uint32
from numpy.typing import NDArray

from he_agg.kernels.jit import kernel
from he_agg.ring.primes import BATCH

RESERVE_WORDS = 256
"""Spare words behind each batch."""

STREAM_WORDS = BATCH + RESERVE_WORDS
"""Words drawn for a batch and limb."""


_LOOKED_AT = 128
"""Words that are looked at together, in vectors; one by one only if one of them is rejected."""


def word_limit(q: int) -> int:
    """Return the largest multiple of q below 2**32."""
    return (1 << 32) // q * q


@kernel
def replace_rejected(words: NDArray[np.uint32], count: int, limit: np.uint32) -> int:
    """Replace words >= limit among the first `count` by accepted ones from the rest, in place.

    Args:
        words: Any words in, the first `count` < limit out. Shape: (count + reserve,).
        limit: The first word that is not accepted: `word_limit`.

    Returns:
        How many of the first `count` words were rejected.
    """
    rejected, spare = 0, count
    for start in range(0, count, _LOOKED_AT):
        some = words[start : min(start + _LOOKED_AT, count)]
        largest = uint32(0)
        for i in range(some.size):  # a maximum of 32-bit words vectorises better than a count
            largest = max(largest, some[i])
        if largest < limit:
            continue
        for i in range(some.size):
            if some[i] >= limit:
                rejected += 1
                while spare < words.size and words[spare] >= limit:
                    spare += 1
                some[i] = words[spare] if spare < words.size else some[i] >> uint32(1)
                spare += 1
    return rejected
