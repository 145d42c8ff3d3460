"""Calculate exactly modulo P = 65521, with matrices in float64.

An entry of a product of matrices is a sum of K products of numbers below P. With K <= 2^19 it is below 2^51, so every
partial sum is an integer that float64 holds exactly, in whatever order, and with fused operations as well. Its
remainder follows without a division and without corrections:

    quotient = floor((x + 1/2) * (1/P))     x + 1/2 is exact; the two roundings after it err by less than x/P * 2^-52

which is below 1/2 / P, the distance of (x + 1/2)/P from the nearest integer, as long as x < 2^51.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import Reason, WireError

__all__ = [
    "ELEMENT_BYTES",
    "KEY_BOUND",
    "MAX_SITES",
    "Elements",
    "P",
    "Weights",
    "add",
    "inverse",
    "lagrange",
    "multiply",
    "read",
    "write",
]

P = 65521
"""The largest prime below 2^16: an element travels in two bytes."""

ELEMENT_BYTES = 2

KEY_BOUND = 21
"""No coefficient of a one-time key exceeds this in magnitude: the law of he_agg/ring/sampling.py."""

MAX_SITES = 1559
"""21 * 1,560 is (P-1)/2: with one site more the sum of keys could be any element, and a wrong one is never noticed."""

MAX_INNER = 1 << 19
"""The longest sum of products that is exact."""

Elements = NDArray[np.uint16]
"""Elements of the field, each below P."""

Weights = NDArray[np.float64]
"""Elements of the field as float64, as factors of products."""

_STORED = np.dtype("<u2")
_INVERSE = 1.0 / P


def multiply(a: NDArray[np.uint16] | Weights, b: NDArray[np.uint16] | Weights) -> Elements:
    """Multiply two matrices modulo P.

    Args:
        a: Elements. Shape: (n, K).
        b: Elements. Shape: (K, w) or (K,).

    Returns:
        Shape: (n, w) or (n,).
    """
    if b.shape[0] > MAX_INNER:
        raise ValueError(f"at most {MAX_INNER} products are summed exactly, got {b.shape[0]}")
    sums = np.asarray(a, dtype=np.float64) @ np.asarray(b, dtype=np.float64)
    quotients = sums + 0.5
    quotients *= _INVERSE
    np.floor(quotients, out=quotients)
    quotients *= P
    sums -= quotients
    return sums.astype(np.uint16)


def add(rows: Iterable[Elements]) -> Elements:
    """Add rows modulo P, at most 65,535 of them."""
    total: NDArray[np.uint32] | None = None
    for row in rows:
        total = row.astype(np.uint32) if total is None else np.add(total, row, out=total)
    if total is None:
        raise ValueError("expected at least one row to add, got none")
    return (total % np.uint32(P)).astype(np.uint16)


def inverse(a: int) -> int:
    """Return the inverse of a number modulo P.

    Raises:
        ValueError: a multiple of P has none.
    """
    return pow(a, -1, P)


def lagrange(known: tuple[int, ...], wanted: tuple[int, ...]) -> Weights:
    """Return the weights that give a polynomial's values at some points from its values at others.

    Args:
        known: Points, no two alike. The polynomial has a degree below their number.
        wanted: Points; any, also known ones.

    Returns:
        Row i are the weights of the value at `wanted[i]`. Shape: (len(wanted), len(known)).
    """
    scale = dual_weights(known)
    out = np.zeros((len(wanted), len(known)))
    for i, x in enumerate(wanted):
        if x in known:
            out[i, known.index(x)] = 1
            continue
        distances, product = [x - k for k in known], 1
        for distance in distances:
            product = product * distance % P
        out[i] = [product * weight * pow(d, -1, P) % P for d, weight in zip(distances, scale, strict=True)]
    return out


@lru_cache(maxsize=256)
def fixed_lagrange(known: tuple[int, ...], wanted: tuple[int, ...]) -> Weights:
    """Do as `lagrange`, and remember: for points that every dealing has."""
    out = lagrange(known, wanted)
    out.setflags(write=False)
    return out


def dual_weights(points: tuple[int, ...]) -> list[int]:
    """Return 1 / product of (x_k - x_j) over all other points x_j, for every point x_k."""
    out = []
    for k in points:
        product = 1
        for other in points:
            if other != k:
                product = product * (k - other) % P
        out.append(inverse(product))
    return out


def write(elements: Elements) -> bytes:
    """Write elements, two bytes each, little-endian."""
    return elements.astype(_STORED).tobytes()


def read(data: bytes, count: int, what: str) -> Elements:
    """Read elements, strictly.

    Args:
        what: the name of the bytes in messages.

    Raises:
        WireError: another length, or a number that is not below P.
    """
    expected = count * ELEMENT_BYTES
    if len(data) != expected:
        reason = Reason.TRUNCATED if len(data) < expected else Reason.TRAILING_BYTES
        raise WireError(reason, f"{what}: expected {expected} bytes, got {len(data)}")
    elements = np.frombuffer(data, dtype=_STORED).astype(np.uint16)
    if count and int(elements.max()) >= P:
        raise WireError(Reason.RESIDUE_OUT_OF_RANGE, f"{what}: expected numbers below {P}, got a larger one")
    return elements
