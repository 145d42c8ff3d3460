"""Scratch memory and per-limb constants, shared by encryption and opening."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he_agg.kernels.bitpack import Bytes, packed_bytes
from he_agg.ring.modulus import Modulus, modulus
from he_agg.ring.ntt import transform_key
from he_agg.ring.params import RingParams
from he_agg.ring.primes import BATCH, coefficients_of
from he_agg.ring.uniform import word_limit


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

    def product_arguments(self) -> tuple[Any, ...]:
        """Return the arguments of `key_product` after the words and what is read next."""
        m = self.tables
        limit, q = np.uint32(word_limit(m.q)), np.uint32(m.q)
        return limit, self.factor, self.quotients, m.inverse, m.inverse_quotients, q

    def wipe(self) -> None:
        """Overwrite the key."""
        self.factor.fill(0)
        self.quotients.fill(0)


def limb_keys(params: RingParams, coefficients: NDArray[np.signedinteger]) -> tuple[LimbKey, ...]:
    """Transform a key for every limb, times what joins the limbs: 1/q mod p, and 1/p mod q.

    Args:
        coefficients: Small signed coefficients. Shape: (N,).
    """
    keys = []
    for q in params.primes:
        tables = modulus(q)
        others = params.modulus // q
        keys.append(LimbKey(tables, *transform_key(coefficients, tables, pow(others, -1, q))))
    return tuple(keys)


def batch_count(params: RingParams, values: int) -> int:
    """Return how many batches hold so many values."""
    return -(-values // (params.digits * BATCH))


def join_arguments(params: RingParams) -> tuple[Any, ...]:
    """Return the arguments with which the kernels join limbs: a second modulus of 1 is none."""
    p, q = (*params.primes, 1)[:2]
    return np.uint32(p), np.uint32(q), float(q), float(p if q > 1 else 0), float(params.modulus)


def packed_sizes(params: RingParams, values: int) -> tuple[int, ...]:
    """Return the packed bytes of so many values for every modulus that residues are sent modulo."""
    count = coefficients_of(values, params.digits)
    return tuple(packed_bytes(count, bits) for bits in params.sent_bits)


def require_packed(params: RingParams, values: int, arrays: Sequence[Bytes]) -> None:
    """Check the arrays that hold, or shall hold, the packed residues of so many values."""
    sizes = packed_sizes(params, values)
    fits = all(a.dtype == np.uint8 and a.ndim == 1 and a.flags.c_contiguous for a in arrays)
    if not fits or tuple(a.size for a in arrays) != sizes:
        raise ValueError(f"packed residues of {values} values are contiguous arrays of {sizes} bytes")
