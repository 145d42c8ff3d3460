"""The passes over one batch: multiply by the key, pack values into coefficients, round, open, split into values.

A batch is `BATCH` coefficients, index = coefficient of the polynomial * LANES + lane; all arrays are scratch that the
caller owns, so kernels can run in several threads at once. Nothing branches on, or indexes by, a value.

A coefficient carries several values as the digits of one integer m = k_0 + k_1*B + k_2*B^2 + ...; of the n values of a
batch, coefficient i of c = ceil(n / digits) carries those at i, c + i, 2c + i, ..., and zeros where there are none. So
every loop runs over contiguous stretches, and what is sent is as short as the values allow.

Integers are held in float64, all of them below 2**53 in magnitude and therefore exact: sums, products with a digit's
base, and remainders too. The only inexact products are those by the two ratios of moduli; what they add to what is
rounded there is bounded in plan/hybrid_parameters.py. Two limbs and one take the same loops: a second modulus of 1, and
a factor of 0, stand for none.
"""

from __future__ import annotations

import numpy as np
from numba import float64, int32, int64, uint32
from numpy.typing import NDArray

from he_agg.kernels.jit import fused_kernel, kernel
from he_agg.kernels.lanes import widest_vectors
from he_agg.ring.ntt_lanes import inverse_product
from he_agg.ring.primes import BATCH
from he_agg.ring.uniform import replace_rejected

U32 = NDArray[np.uint32]
F64 = NDArray[np.float64]
Signed = NDArray[np.signedinteger]

CHUNK = 1024
"""Coefficients worked on at a time: what the passes hand to each other, 16 KiB, stays in the first-level cache."""


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
    replace_rejected(words, BATCH, limit)
    inverse_product(words[:BATCH], key, key_quotients, roots, quotients, q, soon)


@fused_kernel
def _pack_digits(
    values: Signed, start: int, stride: int, digits: int, base: float, bound: np.uint32, m: F64
) -> np.uint32:
    """Pack the values of coefficients start, start + 1, ... into m, highest digit first.

    Returns:
        The largest value + bound; above 2 * bound if and only if some value is out of bounds.
    """
    widest_vectors()
    worst = uint32(0)
    for i in range(m.size):
        m[i] = 0.0
    for digit in range(digits - 1, -1, -1):
        first = min(digit * stride + start, values.size)
        plane = values[first : min(first + m.size, values.size)]  # where values end, m is still zero
        for i in range(plane.size):
            worst = max(worst, uint32(uint32(plane[i]) + bound))
            m[i] = m[i] * base + float64(plane[i])
    return worst


@fused_kernel
def _join(x: U32, y: U32, p: np.uint32, q: np.uint32, of_x: float, of_y: float, of_pq: float, z: F64) -> None:
    """Join residues of two limbs whose key carried 1/q mod p and 1/p mod q: z = x*q + y*p mod pq, |z| <= pq/2.

    Args:
        x: Residues mod p, < 2p.
        y: Residues mod q, < 2q.
        of_x, of_y: q and p; 1 and 0 where there is no second limb.
        of_pq: The modulus, below 2**53.
    """
    widest_vectors()
    half_p, half_q, per_pq = p >> uint32(1), q >> uint32(1), 1.0 / of_pq
    for i in range(z.size):
        low, high = min(x[i], uint32(x[i] - p)), min(y[i], uint32(y[i] - q))  # < p, < q
        low = uint32(low - p) if low > half_p else low  # compiled to a select, not a jump
        high = uint32(high - q) if high > half_q else high
        joined = float64(int32(low)) * of_x + float64(int32(high)) * of_y  # within pq
        z[i] = joined - np.rint(joined * per_pq) * of_pq


@fused_kernel
def _reduce(h: F64, p: float, out: U32) -> None:
    """Reduce integers of any sign, below 2**49 in magnitude, mod p."""
    widest_vectors()
    per_p, whole = (1.0 - 2.0**-50) / p, uint32(np.int32(p))
    for i in range(h.size):
        rest = h[i] - np.floor(h[i] * per_p) * p  # exact, and in [0, 2p): the quotient is right or one too small
        low = uint32(int32(rest))
        out[i] = min(low, uint32(low - whole))


@fused_kernel
def add_and_round(
    values: NDArray[np.int32],
    count: int,
    noise: NDArray[np.int8],
    x: U32,
    y: U32,
    digits: int,
    base: float,
    bound: np.uint32,
    delta: float,
    p: np.uint32,
    q: np.uint32,
    of_x: float,
    of_y: float,
    of_pq: float,
    ratio: float,
    r: float,
    s: float,
) -> np.uint32:
    """Add noise + delta * digits to a*s and round to the moduli that are sent, in place of x and y.

    Args:
        values: Signed values of a batch, read-only. Shape: (n,), n <= digits * BATCH.
        count: Coefficients in use: ceil(n / digits).
        noise: Signed noise of the batch. Shape: (BATCH,).
        x: In: residues of a*s mod p, as for `_join`. Out: what is sent mod r. Shape: (BATCH,).
        y: In: mod q. Out: mod s, if there is one.
        digits: Values in a coefficient.
        base: B, how many values a digit of a sum may have.
        bound: Largest magnitude allowed, below 2**24.
        delta: D, the step between plaintexts.
        p, q, of_x, of_y, of_pq: As for `_join`.
        ratio: r * s / (p * q).
        r, s: The moduli that are sent; s = 1 for none.

    Returns:
        The largest value + bound; above 2 * bound if and only if some value is out of bounds.
    """
    widest_vectors()
    m, z = np.empty(CHUNK), np.empty(CHUNK)
    worst, half = uint32(0), of_pq * 0.5
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        here, product, errors = m[: stop - start], z[: stop - start], noise[start:stop]
        worst = max(worst, _pack_digits(values, start, count, digits, base, bound, here))
        _join(x[start:stop], y[start:stop], p, q, of_x, of_y, of_pq, product)
        for i in range(here.size):
            # |D*m + e| < pq/2, and so is the product: c is exact. It is wrapped before it is rounded, for the error of
            # the next product depends on c. Whether c or c + pq stands for its class depends on m: it must not show.
            c = here[i] * delta + float64(errors[i]) + product[i]
            c -= (float64(c > half) - float64(c < -half)) * of_pq
            here[i] = np.rint(c * ratio)
        _reduce(here, r, x[start:stop])
        if s > 1.0:
            _reduce(here, s, y[start:stop])
    m.fill(0.0)
    z.fill(0.0)
    return worst


@fused_kernel
def _join_sums(x: U32, y: U32, p: float, q: float, inverse: float, z: F64) -> np.uint32:
    """Join sums mod p and mod q (Garner), with pq <= 2**50: |z| <= pq/2 + p.

    Args:
        x: Residues < p.
        y: Residues < q. With q = 1 anything: it does not count.
        inverse: 1/p mod q; 0 with q = 1.

    Returns:
        The largest residue of x: if it is >= p these are not residues, and the output is worthless.
    """
    widest_vectors()
    largest = uint32(0)
    half, per_q = p * 0.5, 1.0 / q
    for i in range(z.size):
        largest = max(largest, x[i])
        low, high = float64(int32(x[i])), float64(int32(y[i]))
        steps = (high - low) * inverse  # exact: below 2**26 * 2**25
        steps -= np.rint(steps * per_q) * q
        z[i] = (low - p if (low > half) & (q == 1.0) else low) + p * steps
    return largest


@kernel
def _largest(x: U32) -> np.uint32:
    largest = uint32(0)
    for i in range(x.size):
        largest = max(largest, x[i])
    return largest


@fused_kernel
def _round(y: F64, delta: float) -> tuple[np.int32, np.int64]:
    """Round integers to multiples of delta, in place.

    Returns:
        The largest distance to the grid; and the sum of the squares.
    """
    widest_vectors()
    per_step = 1.0 / delta
    worst, squares = int32(0), int64(0)
    for i in range(y.size):
        m = np.rint(y[i] * per_step)  # may be one off where y is half-way between two multiples
        rest = y[i] - m * delta
        correction = np.rint(rest * per_step)
        y[i] = m + correction
        distance = int32(rest - correction * delta)
        worst = max(worst, int32(abs(distance)))
        squares += int64(distance) * int64(distance)
    return worst, squares


@fused_kernel
def _split_digits(m: F64, start: int, stride: int, digits: int, base: float, out: Signed) -> np.int64:
    """Split integers into balanced digits, in place; what is too large for them all goes into the last.

    The quotients are right: base is odd, so m / base is at least 1 / (2 * base) away from half-way between two
    integers, and the product in float64 is off by less, m being below 2**50.

    Returns:
        The largest magnitude of a digit.
    """
    widest_vectors()
    per_base = 1.0 / base
    largest = out.dtype.type(0)
    for digit in range(digits):
        first = min(digit * stride + start, out.size)
        plane = out[first : min(first + m.size, out.size)]
        if digit < digits - 1:
            for i in range(plane.size):
                higher = np.rint(m[i] * per_base)
                plane[i] = m[i] - higher * base
                m[i] = higher
        else:
            for i in range(plane.size):
                plane[i] = m[i]
        for i in range(plane.size):
            largest = max(largest, out.dtype.type(abs(plane[i])))
    return int64(largest)


@fused_kernel
def open_and_split(
    total: U32,
    more: U32,
    x: U32,
    y: U32,
    digits: int,
    base: float,
    delta: float,
    p: np.uint32,
    q: np.uint32,
    of_x: float,
    of_y: float,
    of_pq: float,
    r: float,
    s: float,
    inverse: float,
    ratio: float,
    out: Signed,
) -> tuple[np.uint32, np.uint32, np.int32, np.int64, np.int64]:
    """Remove the key from a sum of what was sent, round to the grid and split into values.

    Args:
        total: The sum mod r, < r. Shape: (count,).
        more: The sum mod s, < s; anything if there is none. Shape: (count,).
        x: Residues of a*S mod p, as for `_join`. Shape: (BATCH,).
        y: The same mod q.
        digits, base, delta, p, q, of_x, of_y, of_pq: As for `add_and_round`.
        r, s: The moduli that are sent; s = 1 for none.
        inverse: 1/r mod s.
        ratio: p * q / (r * s).
        out: The sums of values, of the batch's length. Shape: (n,), count = ceil(n / digits).

    Returns:
        The largest residue of each sum: if one is >= its modulus these are not residues and the rest is worthless.
        Then the largest distance to the grid, the sum of their squares, and the largest magnitude of a value.
    """
    widest_vectors()
    product, sums = np.empty(CHUNK), np.empty(CHUNK)
    per_pq = 1.0 / of_pq
    seen, worst, squares, largest = uint32(0), int32(0), int64(0), int64(0)
    for start in range(0, total.size, CHUNK):
        stop = min(start + CHUNK, total.size)
        z, h = product[: stop - start], sums[: stop - start]
        _join(x[start:stop], y[start:stop], p, q, of_x, of_y, of_pq, z)
        seen = max(seen, _join_sums(total[start:stop], more[start:stop], r, s, inverse, h))
        for i in range(h.size):
            rest = np.rint(h[i] * ratio) - z[i]  # within pq and a little, and exact
            h[i] = rest - np.rint(rest * per_pq) * of_pq
        distance, square_sum = _round(h, delta)
        worst, squares = max(worst, distance), squares + square_sum
        largest = max(largest, _split_digits(h, start, total.size, digits, base, out))
    product.fill(0.0)
    sums.fill(0.0)
    return seen, _largest(more), worst, squares, largest
