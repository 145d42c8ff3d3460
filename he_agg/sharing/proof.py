"""Prove that the shares of a dealing lie on polynomials of degree below t, and nothing about what is shared.

A dealer whose shares lie on no such polynomials could make holders that differ come to sums that differ. So the shared
row has R = 12 columns more, fresh and uniform, the *blinds*, and the proof goes

    C_j = SHA-256(context, j, plaintext of share j)        every plaintext begins with 32 random bytes
    rho = XOF(context, header, C_1, ..., C_m)              R x 2048 numbers that come after the shares
    Q(x) = rho * columns at x + blinds at x                given at the points 1 to t: so its degree is below t

Holder j sees whether Q(j) is what its own row gives. Rows of honest holders that lie on no polynomials of degree below
t pass with probability P^-R < 2^-191 for each rho that a dealer tries; and since the blinds are uniform, so is Q.

Source: Atapoor, Baghery, Cozzo and Pedersen, VSS from distributed ZK proofs and applications, 2023, for commitments by
hashes and a proof that each holder checks against its own share; Fiat and Shamir, 1986, for rho.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from he_agg.ring.primes import N
from he_agg.sharing.context import Context, elements, hashed
from he_agg.sharing.field import Elements, P, fixed_lagrange, multiply

__all__ = ["COMBINATIONS", "ROW_WIDTH", "combinations", "commit", "holds", "prove"]

COMBINATIONS = 12
"""R. P^-12 is 2^-191.99."""

ROW_WIDTH = N + COMBINATIONS
"""Numbers of a share: 2048 of the masked key, then the blinds."""

_COMMITMENT, _COMBINATIONS = b"he-agg/dealing/commitment/v1", b"he-agg/dealing/combinations/v1"


def commit(context: Context, index: int, plaintext: bytes) -> bytes:
    """Return the commitment to the plaintext of a share. 32 bytes.

    Args:
        index: of the holder, from 1.
        plaintext: as it is sealed: 32 random bytes first, which keep the rest hidden.
    """
    return hashed(_COMMITMENT, *context.fields, index.to_bytes(2, "big"), plaintext)


def combinations(context: Context, header: bytes, commitments: Sequence[bytes]) -> Elements:
    """Return rho: by which numbers the columns are combined. Shape: (R, N)."""
    return elements(COMBINATIONS * N, _COMBINATIONS, *context.fields, header, *commitments).reshape(COMBINATIONS, N)


def prove(rho: Elements, rows: NDArray[np.uint16]) -> Elements:
    """Return Q at the points 1 to t.

    Args:
        rows: of the holders 1 to t. Shape: (t, ROW_WIDTH).

    Returns:
        Shape: (t, R).
    """
    return _combined(rho, rows)


def holds(proof: Elements, rho: Elements, index: int, row: Elements) -> bool:
    """Say whether a holder's row is what the proof says.

    Args:
        proof: Q at the points 1 to t. Shape: (t, R).
        index: of the holder, from 1.
        row: Shape: (ROW_WIDTH,).
    """
    weights = fixed_lagrange(tuple(range(1, len(proof) + 1)), (index,))
    return np.array_equal(multiply(weights, proof)[0], _combined(rho, row[np.newaxis])[0])


def _combined(rho: Elements, rows: NDArray[np.uint16]) -> Elements:
    sums = multiply(rows[:, :N], rho.T).astype(np.uint32)
    sums += rows[:, N:]
    return (sums % np.uint32(P)).astype(np.uint16)
