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

from he_agg.kernels.jit import kernel
from he_agg.ring.ntt import mul_lazy
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


@kernel
def _pack_digits(
    values: Signed, start: int, stride: int, digits: int, base: float, bound: np.uint32, m: F64
) -> np.uint32:
    """Pack the values of coefficients start, start + 1, ... into m, highest digit first.

    Returns:
        The largest value + bound; above 2 * bound if and only if some value is out of bounds.
    """
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


@kernel
def _join(
    x: U32, y: U32, p: np.uint32, q: np.uint32, inverse: np.uint32, quotient: np.uint32, lift: np.uint32, z: F64
) -> None:
    """Join residues of two limbs (Garner): z = x mod p, = y mod q, |z| < pq/2.

    Args:
        x: Residues mod p, < 2p.
        y: Residues mod q, < 2q. With q = 1 anything: it does not count.
        inverse: 1/p mod q; 0 with q = 1.
        quotient: Its Shoup quotient mod q.
        lift: A multiple of q, p <= lift < 2**31.
    """
    of_p, of_pq = float64(p), float64(p) * float64(q)
    half = of_pq * 0.5
    for i in range(z.size):
        low = min(x[i], uint32(x[i] - p))  # < p
        high = mul_lazy(uint32(y[i] + lift - low), inverse, quotient, q)  # < 2q
        high = min(high, uint32(high - q))  # < q
        joined = float64(int32(low)) + of_p * float64(int32(high))
        z[i] = joined - of_pq if joined > half else joined  # compiled to a select, not a jump


@kernel
def _reduce(h: F64, p: float, out: U32) -> None:
    """Reduce integers of any sign, below 2**50 in magnitude, mod p."""
    per_p = 1.0 / p
    for i in range(h.size):
        rest = h[i] - np.floor(h[i] * per_p) * p  # exact; the quotient may be one off
        rest = rest + p if rest < 0.0 else rest
        rest = rest - p if rest >= p else rest
        out[i] = uint32(int32(rest))


@kernel
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
    inverse: np.uint32,
    quotient: np.uint32,
    lift: np.uint32,
    ratio: float,
    r: float,
    s: float,
) -> np.uint32:
    """Add noise + delta * digits to a*s and round to the moduli that are sent, in place of x and y.

    Args:
        values: Signed values of a batch, read-only. Shape: (n,), n <= digits * BATCH.
        count: Coefficients in use: ceil(n / digits).
        noise: Signed noise of the batch. Shape: (BATCH,).
        x: In: residues of a*s mod p, < 2p. Out: what is sent mod r. Shape: (BATCH,).
        y: In: mod q, < 2q. Out: mod s, if there is one.
        digits: Values in a coefficient.
        base: B, between whose multiples a sum's digit lies.
        bound: Largest magnitude allowed, below 2**24.
        delta: D, the step between plaintexts.
        p, q, inverse, quotient, lift: As for `_join`.
        ratio: r * s / (p * q).
        r, s: The moduli that are sent; s = 1 for none.

    Returns:
        The largest value + bound; above 2 * bound if and only if some value is out of bounds.
    """
    m, z = np.empty(CHUNK), np.empty(CHUNK)
    worst = uint32(0)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        here, product, errors = m[: stop - start], z[: stop - start], noise[start:stop]
        worst = max(worst, _pack_digits(values, start, count, digits, base, bound, here))
        _join(x[start:stop], y[start:stop], p, q, inverse, quotient, lift, product)
        for i in range(here.size):  # |D*m + e| < pq/2, and so is the product: their sum is exact, and need not wrap
            here[i] = np.rint((here[i] * delta + float64(errors[i]) + product[i]) * ratio)
        _reduce(here, r, x[start:stop])
        if s > 1.0:
            _reduce(here, s, y[start:stop])
    m.fill(0.0)
    z.fill(0.0)
    return worst


@kernel
def _largest(x: U32) -> np.uint32:
    largest = uint32(0)
    for i in range(x.size):
        largest = max(largest, x[i])
    return largest


@kernel
def _round(y: F64, delta: float) -> tuple[np.int32, np.int64]:
    """Round integers to multiples of delta, in place.

    Returns:
        The largest distance to the grid; and the sum of the squares.
    """
    per_step = 1.0 / delta
    worst, squares = int32(0), int64(0)
    for i in range(y.size):
        m = np.rint(y[i] * per_step)
        rest = y[i] - m * delta  # exact; the quotient may be one off
        up, down = rest > 0.5 * delta, rest < -0.5 * delta
        m = m + 1.0 if up else (m - 1.0 if down else m)
        rest = rest - delta if up else (rest + delta if down else rest)
        distance = int32(rest)
        worst = max(worst, int32(abs(distance)))
        squares += int64(distance) * int64(distance)
        y[i] = m
    return worst, squares


@kernel
def _split_digits(m: F64, start: int, stride: int, digits: int, base: float, out: Signed) -> int:
    """Split integers into balanced digits, in place; what is too large for them all goes into the last.

    Returns:
        The largest magnitude of a digit.
    """
    half = (base - 1.0) * 0.5
    raised, per_base = 0.0, 1.0 / base
    for _ in range(digits):
        raised = raised * base + half
    for i in range(m.size):
        m[i] += raised  # now all digits are to be found in [0, B)
    largest = int64(0)
    for digit in range(digits):
        first = min(digit * stride + start, out.size)
        plane = out[first : min(first + m.size, out.size)]
        last = digit == digits - 1
        for i in range(plane.size):
            higher = np.floor(m[i] * per_base)
            rest = m[i] - higher * base  # exact; the quotient may be one off
            higher = higher - 1.0 if rest < 0.0 else (higher + 1.0 if rest >= base else higher)
            rest = rest + base if rest < 0.0 else (rest - base if rest >= base else rest)
            k = int64((m[i] if last else rest) - half)
            largest = max(largest, abs(k))
            m[i] = higher
            plane[i] = k
    return largest


@kernel
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
    inverse: np.uint32,
    quotient: np.uint32,
    lift: np.uint32,
    r: np.uint32,
    s: np.uint32,
    sent_inverse: np.uint32,
    sent_quotient: np.uint32,
    sent_lift: np.uint32,
    ratio: float,
    out: Signed,
) -> tuple[np.uint32, np.uint32, np.int32, np.int64, np.int64]:
    """Remove the key from a sum of what was sent, round to the grid and split into values.

    Args:
        total: The sum mod r, < r. Shape: (count,).
        more: The sum mod s, < s; anything if there is none. Shape: (count,).
        x: Residues of a*S mod p, < 2p. Shape: (BATCH,).
        y: The same mod q.
        digits, base, delta, p, q, inverse, quotient, lift: As for `add_and_round`.
        r, s, sent_inverse, sent_quotient, sent_lift: The same of the moduli that are sent.
        ratio: p * q / (r * s).
        out: The sums of values, of the batch's length. Shape: (n,), count = ceil(n / digits).

    Returns:
        The largest residue of each sum: if one is >= its modulus these are not residues and the rest is worthless.
        Then the largest distance to the grid, the sum of their squares, and the largest magnitude of a value.
    """
    product, sums = np.empty(CHUNK), np.empty(CHUNK)
    of_pq = float64(p) * float64(q)
    half = of_pq * 0.5
    worst, squares, largest = int32(0), int64(0), int64(0)
    for start in range(0, total.size, CHUNK):
        stop = min(start + CHUNK, total.size)
        z, h = product[: stop - start], sums[: stop - start]
        _join(x[start:stop], y[start:stop], p, q, inverse, quotient, lift, z)
        _join(total[start:stop], more[start:stop], r, s, sent_inverse, sent_quotient, sent_lift, h)
        for i in range(h.size):
            rest = np.rint(h[i] * ratio) - z[i]  # within pq + 2, and exact
            rest = rest - of_pq if rest > half else rest
            h[i] = rest + of_pq if rest < -half else rest
        distance, square_sum = _round(h, delta)
        worst, squares = max(worst, distance), squares + square_sum
        largest = max(largest, _split_digits(h, start, total.size, digits, base, out))
    product.fill(0.0)
    sums.fill(0.0)
    return _largest(total), _largest(more), worst, squares, largest
