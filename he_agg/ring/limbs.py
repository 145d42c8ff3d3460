"""Scratch memory and per-limb constants, shared by encryption and opening."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from he_agg.ring.modulus import Modulus, modulus
from he_agg.ring.ntt import transform_key
from he_agg.ring.params import RingParams
from he_agg.ring.primes import BATCH_VALUES


@dataclass(frozen=True, eq=False, repr=False)
class LimbKey:
    """A ring key as the kernels want it, in one limb. A class so that both halves are wiped together.

    Attributes:
        tables: The prime's tables.
        factor: The key's transform times 1/N. Shape: (N,).
        quotients: Its Shoup quotients. Shape: (N,).
    """

    tables: Modulus
    factor: NDArray[np.uint32]
    quotients: NDArray[np.uint32]

    def wipe(self) -> None:
        """Overwrite the key."""
        self.factor.fill(0)
        self.quotients.fill(0)


def limb_keys(params: RingParams, coefficients: NDArray[np.signedinteger]) -> tuple[LimbKey, ...]:
    """Transform a key for every limb.

    Args:
        params: The parameters.
        coefficients: Small signed coefficients. Shape: (N,).

    Returns:
        One key for each limb.
    """
    keys = []
    for q in params.primes:
        tables = modulus(q)
        keys.append(LimbKey(tables, *transform_key(coefficients, tables)))
    return tuple(keys)


def batch_count(values: int) -> int:
    """Return how many batches hold so many values."""
    return -(-values // BATCH_VALUES)
