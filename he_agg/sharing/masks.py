"""Mask a one-time key, so that holders share what only sites can read, and take the masks off a sum.

A key s becomes u = s + F(k_mask, context) mod P. Whoever reads it needs the group key and as many holders as the
threshold says, so a holder may be somebody who is no site.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from he_agg.ring.primes import N
from he_agg.sharing.context import Context, elements
from he_agg.sharing.field import KEY_BOUND, MAX_SITES, Elements, P, add

__all__ = ["MASK_KEY_BYTES", "mask", "masked", "total_mask", "unmasked"]

MASK_KEY_BYTES = 32

_MASK = b"he-agg/dealing/mask/v1"


def mask(mask_key: bytes, context: Context) -> Elements:
    """Return the mask of one submission's key. Secret.

    Args:
        mask_key: 32 bytes from the group key. Secret.

    Returns:
        Shape: (N,).
    """
    if len(mask_key) != MASK_KEY_BYTES:
        raise ValueError(f"a mask key has {MASK_KEY_BYTES} bytes, got {len(mask_key)}")
    return elements(N, _MASK, mask_key, *context.fields)


def masked(key: NDArray[np.int8], mask_key: bytes, context: Context) -> Elements:
    """Mask a one-time key.

    Args:
        key: Coefficients in [-21, 21]. Shape: (N,).

    Returns:
        Uniform to whoever has not the mask key. Shape: (N,).
    """
    if key.shape != (N,) or key.dtype != np.int8:
        raise ValueError(f"a one-time key is {N} int8, got {key.dtype} of {key.shape}")
    pad = mask(mask_key, context)
    sums = pad.astype(np.int32) + key
    pad.fill(0)
    out = (sums % P).astype(np.uint16)
    sums.fill(0)
    return out


def total_mask(mask_key: bytes, contexts: Iterable[Context]) -> Elements:
    """Return the sum of the masks of a sum's members. Secret. Shape: (N,)."""
    return add(mask(mask_key, context) for context in contexts)


def unmasked(total: Elements, masks: Elements, sites: int) -> NDArray[np.int32] | None:
    """Take the masks off a sum of masked keys.

    Args:
        total: the sum of the members' masked keys. Shape: (N,).
        masks: the sum of their masks. Shape: (N,).
        sites: how many members.

    Returns:
        The exact sum of the one-time keys, secret; or None if it is no sum of so many keys. Shape: (N,).
    """
    if not 1 <= sites <= MAX_SITES:
        raise ValueError(f"the sum of 1 to {MAX_SITES} keys can be read, got {sites}")
    half = (P - 1) // 2
    sums = total.astype(np.int32) - masks
    sums += half
    np.remainder(sums, P, out=sums)
    sums -= half
    fits = int(np.abs(sums).max()) <= KEY_BOUND * sites
    if not fits:
        sums.fill(0)
    return sums if fits else None
