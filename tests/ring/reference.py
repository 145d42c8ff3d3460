"""The same ring, slow and obvious, in NumPy: no butterflies, no lazy ranges, no kernels."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

N, LANES = 2048, 16


def keystream(key: bytes, limb: int, batch: int, size: int) -> np.ndarray:
    counter = limb.to_bytes(4, "big") + batch.to_bytes(8, "big") + (2).to_bytes(4, "big")
    data = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(size))
    return np.frombuffer(data, dtype=np.uint8)


def root(q: int) -> int:
    """The smallest primitive 2N-th root of unity: try them all, in order."""
    candidates = np.arange(2, 1 << 20, dtype=np.uint64)
    while True:
        power = candidates.copy()
        for _ in range(11):  # x**2048
            power = power * power % q
        hits = candidates[power == q - 1]
        if hits.size:
            return int(hits[0])
        candidates += np.uint64(candidates.size)


def exponents() -> np.ndarray:
    """Transform index i evaluates at root**(2*brv(i)+1), as SEAL orders it."""
    return np.array([2 * int(f"{i:011b}"[::-1], 2) + 1 for i in range(N)])


def powers(q: int) -> np.ndarray:
    psi, out = root(q), [1]
    for _ in range(2 * N - 1):
        out.append(out[-1] * psi % q)
    return np.array(out, dtype=np.uint64)


def transform(poly: np.ndarray, q: int) -> np.ndarray:
    """Evaluate at every point, by definition."""
    table, j = powers(q), np.arange(N)
    return multiply(table[exponents()[:, None] * j % (2 * N)], np.asarray(poly).astype(np.int64) % q, q)


def inverse(values: np.ndarray, q: int) -> np.ndarray:
    """Interpolate each column, by definition."""
    table, j = powers(q), np.arange(N)
    sums = multiply(table[-exponents() * j[:, None] % (2 * N)], values, q)
    return sums * np.uint64(pow(N, -1, q)) % np.uint64(q)


def product(a: np.ndarray, s: np.ndarray, q: int) -> np.ndarray:
    """Multiply each column mod X**N + 1, by definition: X**N is -1."""
    s, i = np.asarray(s).astype(np.int64), np.arange(N)
    return multiply(np.concatenate([s, -s])[(i[:, None] - i) % (2 * N)] % q, a, q).astype(np.int64)


def multiply(matrix: np.ndarray, x: np.ndarray, q: int) -> np.ndarray:
    """Multiply mod q: ten bits of x at a time, so that sums of 2048 products stay below 2**51, exact in float64."""
    left, total = matrix.astype(np.float64), np.zeros(x.shape, dtype=np.uint64)
    for shift in (20, 10, 0):
        piece = (np.asarray(x).astype(np.int64) >> shift) & 1023
        total = ((total << np.uint64(10)) + (left @ piece.astype(np.float64)).astype(np.uint64)) % np.uint64(q)
    return total


def uniform(key: bytes, limb: int, batch: int, q: int) -> np.ndarray:
    """Residues of a, transform order, shape (N, LANES)."""
    count = N * LANES
    words = keystream(key, limb, batch, 4 * (count + 256)).view("<u4").astype(np.int64)
    limit = 2**32 - 2**32 % q
    spare = iter([w for w in words[count:] if w < limit])
    return np.array([w if w < limit else next(spare) for w in words[:count]]).reshape(N, LANES) % q


def noise(key: bytes, batch: int) -> np.ndarray:
    """Noise, shape (N, LANES)."""
    count = N * LANES
    data = keystream(key, 0, batch, count * 42 // 8)
    ones = np.unpackbits(data[: 5 * count].reshape(5, count, 1), axis=2).sum(axis=(0, 2), dtype=np.int64)
    last = data[5 * count :]
    i = np.arange(count)
    pair = last[i % (count // 4)] >> (2 * (i // (count // 4)))
    return (ones + (pair & 1) + (pair >> 1 & 1) - 21).reshape(N, LANES)


def unpack(data: np.ndarray, bits: int, count: int) -> list[int]:
    """Residues as Python integers out of one long integer."""
    long = int.from_bytes(bytes(data), "little")
    return [(long >> (i * bits)) & ((1 << bits) - 1) for i in range(count)]


def pack(residues: list[int], bits: int) -> bytes:
    long = sum(int(x) << (i * bits) for i, x in enumerate(residues))
    return long.to_bytes((len(residues) * bits + 7) // 8, "little")


def pack_digits(values, digits: int, base: int) -> list[int]:
    """Integers of a batch's coefficients in use: coefficient i carries values i, c + i, 2c + i, ..."""
    count = -(-len(values) // digits)
    return [sum(int(v) * base**j for j, v in enumerate(values[i::count])) for i in range(count)]


def split_digits(m: int, digits: int, base: int) -> list[int]:
    """Balanced digits, lowest first; what they cannot hold is left over."""
    out = []
    for _ in range(digits):
        m, digit = divmod(m + base // 2, base)
        out.append(digit - base // 2)
    assert m == 0
    return out


def join(residues: list[list[int]], primes) -> list[int]:
    """The numbers in [0, product) that have these residues: each prime's idempotent times its residue."""
    product = math.prod(primes)
    units = [product // p * pow(product // p, -1, p) for p in primes]
    return [sum(int(x) * u for x, u in zip(xs, units, strict=True)) % product for xs in zip(*residues, strict=True)]


def key_products(primes, a_key, s, batch) -> list[int]:
    """The coefficients of a*s of a whole batch, in [0, q), value order."""
    limbs = []
    for limb, q in enumerate(primes):
        limbs.append(product(inverse(uniform(a_key, limb, batch, q), q), s, q).ravel().tolist())
    return join(limbs, primes)


def ciphertext(params, a_key, noise_key, s, batch, values) -> list[int]:
    """The coefficients in use of a*s + e + D*m of one batch, in [0, q): what is then rounded."""
    m = pack_digits(values, params.digits, params.base)
    products, e = key_products(params.primes, a_key, s, batch), noise(noise_key, batch).ravel().tolist()
    return [(products[i] + e[i] + params.delta * x) % params.modulus for i, x in enumerate(m)]


def rounded(c: int, p: int, q: int) -> int:
    """The integer next to c*p/q, mod p. It is never in the middle between two: q is odd, 2*c*p even."""
    return (2 * c * p + q) // (2 * q) % p


HALF = Fraction(1, 2)


def float_error(p: int) -> Fraction:
    """What float64 adds to the error of a rounding: of the ratio 2^-53, of the product 2^-54, both of a number below p.

    (The ratio may be just above a power of two; p is just below one. plan/hybrid_parameters.py counts the same,
    tests/ring/test_passes.py recounts it for all pairs of moduli.)
    """
    return Fraction(3 * p, 2**54)


def remove_key(h: int, product: int, p: int, q: int) -> Fraction:
    """h*q/p - a*S in [-q/2, q/2], exactly."""
    z = (h * q - product * p) % (q * p)
    return Fraction(z - q * p if 2 * z > q * p else z, p)
