"""Deal a one-time key: mask, share, commit, prove, seal."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from he_agg.ring.primes import N
from he_agg.sharing.context import Context, elements
from he_agg.sharing.dealing import SALT_BYTES, Dealing, Holders
from he_agg.sharing.field import write
from he_agg.sharing.masks import masked
from he_agg.sharing.proof import COMBINATIONS, ROW_WIDTH, combinations, commit, prove
from he_agg.sharing.shamir import SEED_BYTES, share

__all__ = ["Seal", "deal"]

Seal = Callable[[str, bytes, bytes], bytes]
"""Seals to a holder, by name: a plaintext, with the context that it opens in and in no other."""

_BLINDS = b"he-agg/dealing/blinds/v1"


def deal(key: NDArray[np.int8], mask_key: bytes, context: Context, holders: Holders, seal: Seal) -> Dealing:
    """Deal a one-time key to holders. Everything random is the operating system's.

    Args:
        key: Coefficients in [-21, 21]. Secret; wiping it is the caller's business. Shape: (N,).
        mask_key: 32 bytes from the group key. Secret.
        context: of this very submission: never deal under one context twice.
        seal: is asked for the holders who have a suite.
    """
    entropy = os.urandom(_entropy_bytes(holders))
    public, plaintexts = _deal(key, mask_key, context, holders, entropy)
    blobs = [
        b"" if suite is None else seal(name, plaintext, context.sealing_info(index, name))
        for index, (name, suite, plaintext) in enumerate(
            zip(holders.names, holders.suites, plaintexts, strict=True), start=1
        )
    ]
    return Dealing(holders, public, tuple(blobs))


def _entropy_bytes(holders: Holders) -> int:
    return SALT_BYTES * len(holders.names) + SEED_BYTES * holders.threshold


def _deal(
    key: NDArray[np.int8], mask_key: bytes, context: Context, holders: Holders, entropy: bytes
) -> tuple[bytes, list[bytes]]:
    """Deal with given randomness; the deterministic half, which only `deal` and the tests may call.

    Args:
        entropy: the holders' salts, the seeds of the rows 1 to t - 1, the seed of the blinds.

    Returns:
        The public part, and the plaintext of every share, secret.
    """
    pieces = [entropy[i : i + SALT_BYTES] for i in range(0, _entropy_bytes(holders), SALT_BYTES)]
    salts, seeds, blinds = pieces[: len(holders.names)], pieces[len(holders.names) : -1], pieces[-1]
    secret = np.empty(ROW_WIDTH, dtype=np.uint16)
    secret[:N] = masked(key, mask_key, context)
    secret[N:] = elements(COMBINATIONS, _BLINDS, blinds)
    rows = share(secret, seeds, len(holders.names))
    secret.fill(0)
    bodies = [*seeds, *(write(row) for row in rows[len(seeds) :])]
    plaintexts = [salt + body for salt, body in zip(salts, bodies, strict=True)]
    commitments = [commit(context, index, plaintext) for index, plaintext in enumerate(plaintexts, start=1)]
    rho = combinations(context, holders.header, commitments)
    proof = write(prove(rho, rows[: holders.threshold]))
    rows.fill(0)
    return b"".join((holders.header, *commitments, proof)), plaintexts
