"""The same ring, slow and obvious, in NumPy: no butterflies, no lazy ranges, no kernels."""

from __future__ import annotations

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
    x = (np.asarray(poly).astype(np.int64) % q).astype(np.uint64)
    points = [table[e * j % (2 * N)] * x % q for e in exponents()]
    return np.array([int(p.sum()) % q for p in points], dtype=np.uint64)


def inverse(values: np.ndarray, q: int) -> np.ndarray:
    """Interpolate, by definition."""
    table, e = powers(q), exponents()
    x = np.asarray(values).astype(np.uint64)
    sums = [int((table[-e * j % (2 * N)] * x % q).sum()) for j in range(N)]
    return np.array([s * pow(N, -1, q) % q for s in sums], dtype=np.uint64)


def product(a: np.ndarray, s: np.ndarray, q: int) -> np.ndarray:
    """Multiply mod X**N + 1, term by term: X**N is -1."""
    a, total = a.astype(np.int64), np.zeros(N, dtype=np.int64)
    for j in range(N):
        shifted = np.concatenate([-a[N - j :], a[: N - j]])
        total = (total + int(s[j]) * shifted) % q
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


def encrypt(limb, q, delta, a_key, noise_key, s, batch, values) -> np.ndarray:
    """Residues of one whole batch in one limb, value order."""
    a, e = uniform(a_key, limb, batch, q), noise(noise_key, batch)
    k = np.zeros(N * LANES, dtype=object)
    k[: values.size] = values
    out = np.empty((N, LANES), dtype=np.int64)
    for lane in range(LANES):
        message = np.array([int(v) * delta % q for v in k[lane::LANES]], dtype=np.int64)
        out[:, lane] = (product(inverse(a[:, lane], q), s, q) + e[:, lane] + message) % q
    return out.ravel()[: values.size]
