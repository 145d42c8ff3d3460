"""Share a row of numbers among holders, so that t of them give it back and t - 1 know nothing.

Holder j has the value at j, modulo P, of polynomials of degree below t, one for each column, whose values at 0 are the
secret. Rows 1 to t - 1 are fresh and uniform, so each is a seed of 32 bytes; with the secret they determine the others.
(No ramp: with several secrets in one polynomial, too few holders know linear relations between small numbers.)

Source: Shamir, How to share a secret, 1979; seeds: Krawczyk, Secret sharing made short, 1993.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from he_agg.sharing.context import elements
from he_agg.sharing.field import Elements, fixed_lagrange, lagrange, multiply

__all__ = ["SEED_BYTES", "expand", "rebuild", "share"]

SEED_BYTES = 32

_ROW = b"he-agg/dealing/row/v1"


def expand(seed: bytes, width: int) -> Elements:
    """Expand the seed of a row. Shape: (width,)."""
    return elements(width, _ROW, seed)


def share(secret: Elements, seeds: Sequence[bytes], holders: int) -> NDArray[np.uint16]:
    """Share a secret among holders at the points 1 to `holders`.

    Args:
        secret: Shape: (width,).
        seeds: of the rows 1 to t - 1: fresh, secret, used for nothing else.

    Returns:
        Row j - 1 is holder j's. Shape: (holders, width).
    """
    threshold = len(seeds) + 1
    if not threshold <= holders:
        raise ValueError(f"expected a threshold of at most {holders} holders, got {threshold}")
    rows = np.empty((holders + 1, secret.size), dtype=np.uint16)
    rows[0] = secret
    for index, seed in enumerate(seeds, start=1):
        rows[index] = expand(seed, secret.size)
    weights = fixed_lagrange(tuple(range(threshold)), tuple(range(threshold, holders + 1)))
    rows[threshold:] = multiply(weights, rows[:threshold])
    rows[0] = 0
    return rows[1:]


def rebuild(rows: Mapping[int, Elements]) -> Elements:
    """Return what was shared, from as many rows as the threshold says.

    Args:
        rows: by point. All of them are believed.

    Returns:
        Shape: (width,).
    """
    points = tuple(sorted(rows))
    out: Elements = multiply(lagrange(points, (0,)), np.stack([rows[point] for point in points]))[0]
    return out
