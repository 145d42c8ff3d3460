"""Secret randomness, all of it centred binomial: keys from the operating system or a seed, noise from a keystream.

No function has a branch, an index or a loop count that depends on what it samples.
"""

from __future__ import annotations

import hashlib
import math
import os

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from he_agg.kernels.jit import kernel
from he_agg.ring.primes import BATCH, N

NOISE_BITS = 42
"""Coin flips per noise value, 21 for and 21 against, as in SEAL."""

NOISE_BOUND = NOISE_BITS // 2
"""No noise value exceeds this in magnitude, ever."""

SIGMA = math.sqrt(NOISE_BITS) / 2
"""Standard deviation of the noise, 3.24."""

NOISE_BYTES = BATCH * NOISE_BITS // 8
"""Keystream bytes for the noise of a batch: 5.25 for each coefficient, nothing discarded."""

KEY_BYTES_EACH = 8
"""Random bytes for each coefficient of a key, of which 42 bits count."""

_WORDS = BATCH // 8


def key_law(entropy: bytes | bytearray) -> NDArray[np.int8]:
    """Map random bytes to coefficients with the distribution of the noise: heads of 42 flips, minus 21.

    Args:
        entropy: N * KEY_BYTES_EACH random bytes; coefficient j takes the lowest 42 bits of little-endian word j.
    """
    flips = np.frombuffer(entropy, dtype="<u8") & np.uint64((1 << NOISE_BITS) - 1)
    coefficients: NDArray[np.int8] = np.bitwise_count(flips).view(np.int8)  # no second copy
    coefficients -= np.int8(NOISE_BOUND)
    flips.fill(0)
    return coefficients


def fresh_key() -> NDArray[np.int8]:
    """Return a fresh one-time key from the operating system's generator. Shape: (N,)."""
    return _consumed(bytearray(os.urandom(N * KEY_BYTES_EACH)))


def key_of(seed: bytes) -> NDArray[np.int8]:
    """Return the one-time key that follows from a seed. Shape: (N,)."""
    return _consumed(bytearray(hashlib.shake_256(b"he-agg/one-time-key/v1\0" + seed).digest(N * KEY_BYTES_EACH)))


def _consumed(entropy: bytearray) -> NDArray[np.int8]:
    try:
        return key_law(entropy)
    finally:
        entropy[:] = bytes(len(entropy))


@kernel
def centred_binomial(planes: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    """Turn a batch's noise bytes into noise: popcount of 42 bits, minus 21.

    (Heads of 21 flips) - (heads of 21 others) has the distribution of (heads of 42) - 21, since heads and
    tails are alike; one popcount does. The bytes are planes: value i owns byte i of each of five planes of
    32,768 bytes, and bits 2*(i // 8192), +1 of byte i % 8192 of a last plane of 8,192. A word holds eight
    values' bytes, and counts are added inside bytes: at most 42, so no carry crosses.

    Args:
        planes: The keystream bytes, as words. Shape: (NOISE_BYTES / 8,).
        out: Noise in [-21, 21], eight int8 to a word. Shape: (BATCH / 8,).
    """
    m1, m2 = uint64(0x5555555555555555), uint64(0x3333333333333333)
    m4 = uint64(0x0F0F0F0F0F0F0F0F)
    lift, sign = uint64(0x6B6B6B6B6B6B6B6B), uint64(0x8080808080808080)  # 0x6B = 128 - 21
    quarter = _WORDS // 4
    for part in range(4):
        start = part * quarter
        p0 = planes[start : start + quarter]
        p1 = planes[_WORDS + start : _WORDS + start + quarter]
        p2 = planes[2 * _WORDS + start : 2 * _WORDS + start + quarter]
        p3 = planes[3 * _WORDS + start : 3 * _WORDS + start + quarter]
        p4 = planes[4 * _WORDS + start : 4 * _WORDS + start + quarter]
        last = planes[5 * _WORDS : 5 * _WORDS + quarter]
        target = out[start : start + quarter]
        shift = uint64(2 * part)
        for i in range(quarter):
            a, b, c, d, e = p0[i], p1[i], p2[i], p3[i], p4[i]
            f = last[i] >> shift  # the two bits of each byte that count are its lowest
            a, b = a - ((a >> uint64(1)) & m1), b - ((b >> uint64(1)) & m1)  # 2-bit fields <= 2
            c, d = c - ((c >> uint64(1)) & m1), d - ((d >> uint64(1)) & m1)
            e, f = e - ((e >> uint64(1)) & m1), f - ((f >> uint64(1)) & m1)
            a, b = (a & m2) + ((a >> uint64(2)) & m2), (b & m2) + ((b >> uint64(2)) & m2)  # nibbles <= 4
            c, d = (c & m2) + ((c >> uint64(2)) & m2), (d & m2) + ((d >> uint64(2)) & m2)
            e, f = (e & m2) + ((e >> uint64(2)) & m2), f & uint64(0x0303030303030303)  # f: one field, <= 2
            x, y = a + b + c, d + e + f  # nibbles <= 12 and <= 10
            total = (x & m4) + ((x >> uint64(4)) & m4) + (y & m4) + ((y >> uint64(4)) & m4)  # bytes <= 42
            target[i] = (total + lift) ^ sign  # bytes: total - 21 as int8
