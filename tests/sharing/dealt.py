"""Dealings for tests: contexts, lists of holders, a seal that seals nothing but knows its holder and its context."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from he_agg.errors import KeystoreError, Reason
from he_agg.ids import RoundId
from he_agg.ring.primes import N
from he_agg.sharing.context import Context
from he_agg.sharing.dealer import _deal, _entropy_bytes
from he_agg.sharing.dealing import Dealing, Holders
from he_agg.sharing.field import P

MASK_KEY = hashlib.sha256(b"a mask key").digest()
SUITE = "x25519"


def digest_of(what):
    return hashlib.sha256(what.encode()).hexdigest()


def context_of(site=1, number=3, attempt=1, **changes):
    """The context of a site's submission."""
    names = {"plan_id": "plan", "key_id": "key", "roster": "roster", "holders": "holders"}
    digests = {name: digest_of(value) for name, value in names.items()}
    nonce = digest_of(f"nonce {site} {number} {attempt}")[:32]
    context = Context(RoundId("stroke", number, attempt), 2, **digests, dealer=f"site-{site}", nonce=nonce)
    return replace(context, **changes)


def holders_of(count, threshold, without_key=()):
    names = tuple(f"holder-{index}" for index in range(1, count + 1))
    suites = tuple(None if index in without_key else SUITE for index in range(1, count + 1))
    return Holders(names, suites, threshold)


def keys_of(rng, sites):
    """One-time keys, from -21 to 21 and both ends in each. Shape: (sites, N)."""
    keys = rng.binomial(42, 0.5, (sites, N)).astype(np.int8) - np.int8(21)
    keys[:, 0], keys[:, 1] = 21, -21
    return keys


def stand_in_seal(holder, plaintext, info):
    """As long as what X25519 seals to."""
    return hashlib.sha256(holder.encode()).digest() + plaintext + hashlib.sha256(info).digest()[:16]


def stand_in_open(holder):
    """Open what the stand-in sealed to a holder."""

    def open_sealed(sealed, info):
        mine = sealed[:32] == hashlib.sha256(holder.encode()).digest()
        if not mine or sealed[-16:] != hashlib.sha256(info).digest()[:16]:
            raise KeystoreError(Reason.KEY_MISMATCH, "sealed to another holder, or for another purpose")
        return sealed[32:-16]

    return open_sealed


def halves_of(key, context, holders, rng, mask_key=MASK_KEY):
    """The public part, and the plaintexts, of a dealing with the randomness of `rng`."""
    return _deal(key, mask_key, context, holders, rng.bytes(_entropy_bytes(holders)))


def sealed_dealing(public, plaintexts, context, holders):
    """Seal plaintexts, honest ones or not."""
    blobs = tuple(
        b"" if suite is None else stand_in_seal(name, plaintext, context.sealing_info(index, name))
        for index, (name, suite, plaintext) in enumerate(
            zip(holders.names, holders.suites, plaintexts, strict=True), start=1
        )
    )
    return Dealing(holders, public, blobs)


def dealing_of(key, context, holders, rng):
    public, plaintexts = halves_of(key, context, holders, rng)
    return sealed_dealing(public, plaintexts, context, holders)


def at_zero(values):
    """Lagrange interpolation in integers: the value at 0 of the polynomial with these values by point."""
    return value_at(0, values)


def value_at(x, values):
    total = 0
    for k, value in values.items():
        above = below = 1
        for other in values:
            if other != k:
                above, below = above * (x - other) % P, below * (k - other) % P
        total += int(value) * above * pow(below, P - 2, P)
    return total % P
