"""The passes over one batch: multiply by the key, add the message, remove the key, round to the grid.

All arrays hold one batch (`BATCH_VALUES` long, value index = coefficient * LANES + lane) and are scratch
that the caller owns, so kernels can run in several threads at once. Nothing branches on, or indexes by, a
value.
"""

from __future__ import annotations

import numpy as np
from numba import float64, int32, int64, uint32, uint64
from numpy.typing import NDArray

from he_agg.kernels.jit import kernel
from he_agg.ring.ntt import mul_lazy
from he_agg.ring.ntt_lanes import inverse_product
from he_agg.ring.primes import BATCH_VALUES
from he_agg.ring.uniform import replace_rejected

U32 = NDArray[np.uint32]


@kernel
def add_message(
    x: U32,
    values: NDArray[np.int32],
    noise: NDArray[np.int8],
    delta: np.uint32,
    delta_quotient: np.uint32,
    bound: np.uint32,
    lift: np.uint32,
    q: np.uint32,
) -> np.uint32:
    """Add noise + delta * value to residues, in place: [0, 2q) -> [0, q).

    Args:
        x: Residues. Shape: (n,).
        values: Signed values, |value| <= bound, read-only. Shape: (n,).
        noise: Signed noise, |noise| <= 21 < q. Shape: (n,).
        delta: The step D mod q.
        delta_quotient: Its Shoup quotient.
        bound: Largest magnitude allowed, below 2**24.
        lift: A multiple of q, bound <= lift < 2**31, added to make values positive.

    Returns:
        The largest value + bound; above 2 * bound if and only if some value is out of bounds.
    """
    q2 = uint32(2 * q)
    worst = uint32(0)
    for i in range(x.size):
        k = uint32(values[i])
        worst = max(worst, uint32(k + bound))
        t = uint32(x[i] + mul_lazy(uint32(k + lift), delta, delta_quotient, q))  # < 4q
        t = min(t, uint32(t - q2))  # < 2q
        t = uint32(t + uint32(int32(q) + int32(noise[i])))  # < 3q + 22
        t = min(t, uint32(t - q2))  # < 2q
        x[i] = min(t, uint32(t - q))  # < q
    return worst


@kernel
def key_product(
    words: U32,
    soon: U32,
    limit: np.uint32,
    key: U32,
    key_quotients: U32,
    roots: U32,
    quotients: U32,
    q: np.uint32,
) -> None:
    """Turn the keystream words of a batch into INTT(a * NTT(key)), in place: any uint32 -> [0, 2q).

    Args:
        words: In: the words of a. Out: the product, then the reserve. Shape: (STREAM_WORDS,).
        soon: What is read next, as for `inverse_product`, read-only. Shape: (N * LANES,).
        limit: `word_limit(q)`.
        key: NTT(key)/N from `transform_key`. Shape: (N,).
        key_quotients: Its Shoup quotients. Shape: (N,).
    """
    replace_rejected(words, BATCH_VALUES, limit)
    inverse_product(words[:BATCH_VALUES], key, key_quotients, roots, quotients, q, soon)


@kernel
def remove_product(x: U32, total: U32, q: np.uint32) -> np.uint32:
    """Compute total - x mod q, which is D*K + E, in place of x: [0, 2q) -> [0, q).

    Args:
        x: INTT(a * NTT(S)), < 2q. Shape: (n,).
        total: The sum of ciphertexts, < q. Shape: (n,).

    Returns:
        The largest residue of total; if it is >= q these are not residues and the output is worthless.
    """
    q2 = uint32(2 * q)
    largest = uint32(0)
    for i in range(x.size):
        largest = max(largest, total[i])
        t = uint32(total[i] + q2 - x[i])  # in (0, 3q)
        t = min(t, uint32(t - q2))  # < 2q
        x[i] = min(t, uint32(t - q))  # < q
    return largest


@kernel
def round_one(x: U32, delta: np.int32, q: np.uint32, out: NDArray[np.int64]) -> tuple[np.int32, np.int64]:
    """Round residues of one limb to the nearest multiple of delta.

    The quotient is taken in float64, where |x| < 2**29 is exact and the error is below 2**-22 of a step; the
    remainder is exact in int32, and is what the grid distance is measured with.

    Args:
        x: Residues D*K + E mod q, < q. Shape: (n,).
        out: K. Shape: (n,).

    Returns:
        The largest |E|: distance to the grid, about delta / 2 at most; and the sum of the squares.
    """
    half = uint32(q >> uint32(1))
    per_step = 1.0 / float64(delta)
    worst = int32(0)
    squares = int64(0)
    for i in range(x.size):
        y = x[i]
        signed = int32(y - q) if y > half else int32(y)  # compiled to a select, not a jump
        k = int32(np.rint(float64(signed) * per_step))
        rest = int32(signed - int32(k * delta))
        worst = max(worst, int32(abs(rest)))  # an integer maximum vectorises, a float64 one does not
        squares += int64(rest) * int64(rest)
        out[i] = int64(k)
    return worst, squares


@kernel
def round_two(
    x: U32,
    y: U32,
    p_inverse: np.uint32,
    p_inverse_quotient: np.uint32,
    p: np.uint32,
    q: np.uint32,
    lift: np.uint32,
    delta: np.int64,
    out: NDArray[np.int64],
) -> tuple[np.int64, np.int64]:
    """Join residues of two limbs (Garner) and round to the nearest multiple of delta.

    z = x + p * ((y - x)/p mod q) < pq < 2**60, exact in uint64. The quotient z/delta is taken in float64,
    whose relative error of 2**-51 is below 2**-15 of a step for |K| < 2**36; the remainder is exact again.

    Args:
        x: Residues mod p, < p. Shape: (n,).
        y: Residues mod q, < q. Shape: (n,).
        p_inverse: 1/p mod q.
        p_inverse_quotient: Its Shoup quotient mod q.
        lift: A multiple of q, p <= lift < 2**31.
        out: K. Shape: (n,).

    Returns:
        The largest |E|: distance to the grid; and the sum of the squares.
    """
    product = uint64(p) * uint64(q)
    half = product >> uint64(1)
    per_step = 1.0 / float64(delta)
    worst = int64(0)
    squares = int64(0)
    for i in range(x.size):
        d = uint32(y[i] + lift - x[i])  # in (0, 2**32), as y < q < 2**30 and x < p
        h = mul_lazy(d, p_inverse, p_inverse_quotient, q)  # < 2q
        h = min(h, uint32(h - q))  # < q
        z = uint64(x[i]) + uint64(p) * uint64(h)  # < pq
        signed = int64(z) - (int64(product) if z > half else int64(0))
        k = int64(np.rint(float64(signed) * per_step))
        rest = signed - k * delta
        worst = max(worst, abs(rest))
        low = int64(int32(rest))  # beyond 32 bits `worst` says enough, and this is one instruction
        squares += low * low
        out[i] = k
    return worst, squares
