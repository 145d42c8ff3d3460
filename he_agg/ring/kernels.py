"""The fused passes over one batch: encrypt a limb, open a limb, round to the plaintext grid.

All arrays hold one batch (`BATCH_VALUES` long, value index = coefficient * LANES + lane) and are scratch
that the caller owns, so kernels can run in several threads at once. Nothing branches on, or indexes by, a
value.
"""

from __future__ import annotations

import numpy as np
from numba import float64, int32, int64, uint32, uint64
from numpy.typing import NDArray

from he_agg.ring._jit import kernel
from he_agg.ring.bitpack30 import TILE, pack30, unpack30
from he_agg.ring.ntt import inverse_lazy, mul_lazy, multiply_lanes
from he_agg.ring.uniform import accepted, replace_rejected

U32 = NDArray[np.uint32]


@kernel
def add_message(
    x: U32,
    values: NDArray[np.int32],
    noise: NDArray[np.int8],
    delta: np.uint32,
    delta_quotient: np.uint32,
    bound: np.uint32,
    q: np.uint32,
) -> np.uint32:
    """Add noise + delta * value to residues, in place: [0, 2q) -> [0, q).

    Args:
        x: Residues. Shape: (n,).
        values: Signed values, |value| <= bound, read-only. Shape: (n,).
        noise: Signed noise, |noise| <= 21. Shape: (n,).
        delta: The step D mod q.
        delta_quotient: Its Shoup quotient.
        bound: Largest magnitude allowed, < 2**24.
        q: The modulus.

    Returns:
        The largest value + bound; above 2 * bound if and only if some value is out of bounds.
    """
    q2 = uint32(2 * q)
    lift = uint32((bound + q - uint32(1)) // q * q)  # the least multiple of q that makes every value positive
    worst = uint32(0)
    for i in range(x.size):
        k = uint32(values[i])
        worst = max(worst, uint32(k + bound))
        k = uint32(k + lift)  # < 2 * bound + q < 2**31, and any 32-bit factor will do
        t = uint32(x[i] + mul_lazy(k, delta, delta_quotient, q))  # < 4q
        t = min(t, uint32(t - q2))  # < 2q
        t = uint32(t + uint32(int32(q) + int32(noise[i])))  # < 3q + 22
        t = min(t, uint32(t - q2))  # < 2q
        x[i] = min(t, uint32(t - q))  # < q
    return worst


@kernel
def mask(words: U32, key: U32, key_quotients: U32, roots: U32, quotients: U32, lanes: int, q: np.uint32) -> None:
    """Turn a batch's keystream words into a*s, the mask that hides the plaintext: INTT(a * NTT(s)).

    Args:
        words: In: the keystream words of a, any uint32. Out: a*s, < 2q, then the reserve.
            Shape: (STREAM_WORDS,).
        key: NTT(s)/N from `transform_key`. Shape: (N,).
        key_quotients: Its Shoup quotients. Shape: (N,).
        roots: `Modulus.inverse`.
        quotients: `Modulus.inverse_quotients`.
        lanes: `LANES`; an argument because a constant would be unrolled instead of vectorised.
        q: The modulus.
    """
    count = key.size * lanes
    replace_rejected(words, count, accepted(q))
    x = words[:count]
    multiply_lanes(x, key, key_quotients, lanes, q)  # < 2q, whatever the 32-bit factor
    inverse_lazy(x, roots, quotients, lanes, q)  # < 2q


@kernel
def encrypt_limb(
    words: U32,
    key: U32,
    key_quotients: U32,
    roots: U32,
    quotients: U32,
    lanes: int,
    q: np.uint32,
    values: NDArray[np.int32],
    noise: NDArray[np.int8],
    delta: np.uint32,
    delta_quotient: np.uint32,
    bound: np.uint32,
) -> np.uint32:
    """Turn a batch's common polynomials into ciphertext: c = INTT(a * NTT(s)) + e + D*k mod q.

    Args:
        words: In: the keystream words of a, any uint32. Out: c, < q, then the reserve.
            Shape: (STREAM_WORDS,).
        key: As for `mask`.
        key_quotients: As for `mask`.
        roots: As for `mask`.
        quotients: As for `mask`.
        lanes: As for `mask`.
        q: The modulus.
        values: As for `add_message`. Shape: (BATCH_VALUES,).
        noise: As for `add_message`. Shape: (BATCH_VALUES,).
        delta: As for `add_message`.
        delta_quotient: As for `add_message`.
        bound: As for `add_message`.

    Returns:
        As `add_message`; if it exceeds 2 * bound the output is worthless and must not be sent.
    """
    mask(words, key, key_quotients, roots, quotients, lanes, q)
    return add_message(words[: key.size * lanes], values, noise, delta, delta_quotient, bound, q)


@kernel
def encrypt_limb30(
    words: U32,
    key: U32,
    key_quotients: U32,
    roots: U32,
    quotients: U32,
    lanes: int,
    q: np.uint32,
    values: NDArray[np.int32],
    noise: NDArray[np.int8],
    delta: np.uint32,
    delta_quotient: np.uint32,
    bound: np.uint32,
    packed: U32,
    pack_right: U32,
    pack_left: U32,
) -> np.uint32:
    """Do as `encrypt_limb` and pack at 30 bits while the residues are in the nearest cache.

    Args:
        words: As for `encrypt_limb`.
        key: As for `mask`.
        key_quotients: As for `mask`.
        roots: As for `mask`.
        quotients: As for `mask`.
        lanes: As for `mask`.
        q: The modulus.
        values: As for `add_message`. Shape: (BATCH_VALUES,).
        noise: As for `add_message`. Shape: (BATCH_VALUES,).
        delta: As for `add_message`.
        delta_quotient: As for `add_message`.
        bound: As for `add_message`.
        packed: Out: c at 30 bits. Shape: (BATCH_VALUES * 15 / 16,).
        pack_right: `PACK_RIGHT`.
        pack_left: `PACK_LEFT`.

    Returns:
        As `add_message`; if it exceeds 2 * bound the output is worthless and must not be sent.
    """
    mask(words, key, key_quotients, roots, quotients, lanes, q)
    x = words[: key.size * lanes]
    worst = uint32(0)
    for start in range(0, x.size, TILE):
        stop = start + TILE
        tile = x[start:stop]
        seen = add_message(tile, values[start:stop], noise[start:stop], delta, delta_quotient, bound, q)  # < q
        worst = max(worst, seen)
        pack30(tile, packed[start // 16 * 15 : stop // 16 * 15], pack_right, pack_left)
    return worst


@kernel
def open_limb(
    words: U32,
    key: U32,
    key_quotients: U32,
    roots: U32,
    quotients: U32,
    lanes: int,
    q: np.uint32,
    total: U32,
) -> np.uint32:
    """Remove the key from the sum of a batch: x = C - INTT(a * NTT(S)) mod q = D*K + E mod q.

    Args:
        words: In: the keystream words of a, any uint32. Out: D*K + E mod q, < q, then the reserve.
            Shape: (STREAM_WORDS,).
        key: NTT(S)/N from `transform_key`. Shape: (N,).
        key_quotients: As for `mask`.
        roots: As for `mask`.
        quotients: As for `mask`.
        lanes: As for `mask`.
        q: The modulus.
        total: C, read-only. Shape: (BATCH_VALUES,).

    Returns:
        The largest residue of C; if it is >= q these are not residues and the output is worthless.
    """
    mask(words, key, key_quotients, roots, quotients, lanes, q)
    return subtract(total, words[: key.size * lanes], q)


@kernel
def subtract(total: U32, masks: U32, q: np.uint32) -> np.uint32:
    """Replace masks in [0, 2q) by total - mask mod q, and return the largest of `total`."""
    q2 = uint32(2 * q)
    largest = uint32(0)
    for i in range(total.size):
        largest = max(largest, total[i])
        t = uint32(total[i] + q2 - masks[i])  # in (0, 3q), since C < q and x < 2q
        t = min(t, uint32(t - q2))  # < 2q
        masks[i] = min(t, uint32(t - q))  # < q
    return largest


@kernel
def open_limb30(
    words: U32,
    key: U32,
    key_quotients: U32,
    roots: U32,
    quotients: U32,
    lanes: int,
    q: np.uint32,
    packed: U32,
    unpack_right: U32,
    unpack_left: U32,
    unpack_keep: U32,
) -> np.uint32:
    """Do as `open_limb` from residues packed at 30 bits, unpacking into the nearest cache.

    Args:
        words: As for `open_limb`.
        key: As for `open_limb`.
        key_quotients: As for `mask`.
        roots: As for `mask`.
        quotients: As for `mask`.
        lanes: As for `mask`.
        q: The modulus.
        packed: C at 30 bits, read-only. Shape: (BATCH_VALUES * 15 / 16,).
        unpack_right: `UNPACK_RIGHT`.
        unpack_left: `UNPACK_LEFT`.
        unpack_keep: `UNPACK_KEEP`.

    Returns:
        The largest residue of C; if it is >= q these are not residues and the output is worthless.
    """
    mask(words, key, key_quotients, roots, quotients, lanes, q)
    x = words[: key.size * lanes]
    tile = np.empty(TILE, dtype=np.uint32)
    largest = uint32(0)
    for start in range(0, x.size, TILE):
        unpack30(packed, start, tile, unpack_right, unpack_left, unpack_keep)
        largest = max(largest, subtract(tile, x[start : start + TILE], q))
    return largest


@kernel
def round_one(x: U32, delta: np.int32, q: np.uint32, out: NDArray[np.int64]) -> np.int32:
    """Round residues of one limb to the nearest multiple of delta.

    The quotient is taken in float64, where |x| < 2**29 is exact and the error is below 2**-22 of a step; the
    remainder is exact in int32, and is what the grid distance is measured with.

    Args:
        x: Residues D*K + E mod q, < q. Shape: (n,).
        delta: The step D.
        q: The modulus.
        out: K. Shape: (n,).

    Returns:
        The largest |E|: distance to the grid, about delta / 2 at most.
    """
    half = uint32(q >> uint32(1))
    per_step = 1.0 / float64(delta)
    worst = int32(0)
    for i in range(x.size):
        y = x[i]
        signed = int32(y - q) if y > half else int32(y)  # compiled to a select, not a jump
        k = int32(np.rint(float64(signed) * per_step))
        rest = int32(signed - int32(k * delta))
        worst = max(worst, int32(abs(rest)))  # an integer maximum vectorises, a float64 one does not
        out[i] = int64(k)
    return worst


@kernel
def round_two(
    x: U32,
    y: U32,
    p_inverse: np.uint32,
    p_inverse_quotient: np.uint32,
    p: np.uint32,
    q: np.uint32,
    delta: np.int64,
    out: NDArray[np.int64],
) -> np.int64:
    """Join residues of two limbs (Garner) and round to the nearest multiple of delta.

    z = x + p * ((y - x)/p mod q) < pq < 2**60, exact in uint64. The quotient z/delta is taken in float64,
    whose relative error of 2**-52 is below 2**-14 of a step for |K| < 2**38; the remainder is exact again.

    Args:
        x: Residues mod p, < p. Shape: (n,).
        y: Residues mod q, < q. Shape: (n,).
        p_inverse: 1/p mod q.
        p_inverse_quotient: Its Shoup quotient mod q.
        p: The first prime, p < q.
        q: The second prime.
        delta: The step D.
        out: K. Shape: (n,).

    Returns:
        The largest |E|: distance to the grid.
    """
    product = uint64(p) * uint64(q)
    half = product >> uint64(1)
    per_step = 1.0 / float64(delta)
    q2 = uint32(2 * q)
    worst = int64(0)
    for i in range(x.size):
        d = uint32(y[i] + q2 - x[i])  # in (0, 3q)
        h = mul_lazy(d, p_inverse, p_inverse_quotient, q)  # < 2q
        h = min(h, uint32(h - q))  # < q
        z = uint64(x[i]) + uint64(p) * uint64(h)  # < pq
        signed = int64(z) - (int64(product) if z > half else int64(0))
        k = int64(np.rint(float64(signed) * per_step))
        worst = max(worst, abs(signed - k * delta))
        out[i] = k
    return worst
