"""Parameters of the ring to test with, and what a round does with them."""

from __future__ import annotations

import numpy as np

from he_agg.errors import PlanError
from he_agg.kernels.bitpack import fold, pack
from he_agg.plan.hybrid_parameters import HybridParameters, ring_primes, sent_moduli
from he_agg.ring.encryptor import Encryptor
from he_agg.ring.opener import Opener
from he_agg.ring.params import RingParams
from he_agg.ring.primes import N, coefficients_of


def ring_of(plan: HybridParameters) -> RingParams:
    """Return the ring of a plan's parameters, as the codec makes it."""
    return RingParams(plan.packing, plan.primes, plan.moduli, plan.delta, plan.magnitude, plan.max_sites)


def chosen(bits, sites) -> HybridParameters:
    """Return what the planner takes for so many bits a value."""
    return HybridParameters.choose(2 ** (bits - 1) - 1, sites)


def holds(digits, primes, moduli, bound, sites) -> HybridParameters | None:
    """Return parameters, if a plan may have them."""
    try:
        return HybridParameters.of(digits, primes, moduli, bound, sites)
    except PlanError:
        return None


def by_bits(sets) -> dict[int, tuple[int, ...]]:
    """Return sets of primes by the bits of all of their primes together, one before two."""
    found: dict[int, tuple[int, ...]] = {}
    for one in sets:
        found.setdefault(sum(p.bit_length() for p in one), one)
    return found


RINGS, SENT = by_bits(ring_primes()), by_bits(sent_moduli())


def ring(digits, ring_bits, sent_bits, bits, sites) -> RingParams:
    """Return a ring that a plan for values of so many bits may have."""
    primes, moduli = RINGS[ring_bits], SENT[sent_bits]
    return ring_of(HybridParameters.of(digits, primes, moduli, 2 ** (bits - 1) - 1, sites))


ONE = ring(1, 30, 26, 8, 31)
"""One prime, one modulus, one value a coefficient."""

TWO = ring(2, 52, 48, 16, 31)
"""Two primes, two moduli, two values."""

MANY = ring(5, 53, 47, 8, 2)
"""Five values a coefficient."""

MIXED = ring(1, 40, 31, 21, 31)
"""Two primes, one modulus: of 31 bits, the widest."""

WIDEST = ring(3, 53, 50, 12, 6)
"""What is sent has 50 bits: where float64 is furthest from exact."""

ALL = {"one-one": ONE, "two-two": TWO, "five-values": MANY, "two-one": MIXED, "widest": WIDEST}


def submit(params, key, submissions):
    """Encrypt and fold; return what the sites download: packed sums and the sum of the keys."""
    count = coefficients_of(submissions[0].size, params.digits)
    totals = [np.zeros(count, dtype=np.uint32) for _ in params.moduli]
    key_sum = np.zeros(N, dtype=np.int64)
    for values in submissions:
        with Encryptor(params, key) as encryptor:
            parts = encryptor.encrypt(0, values)
            for part, total, q, bits in zip(parts, totals, params.moduli, params.sent_bits, strict=True):
                assert fold(total, part, bits, q) == -1
            key_sum += encryptor.key_coefficients()
    return [pack(t, b) for t, b in zip(totals, params.sent_bits, strict=True)], key_sum


def open_sum(params, key, key_sum, sites, packed, count, first_batch=0):
    """Open a sum of so many values; return it, the largest distance, the squares, and the largest magnitude."""
    sums = np.empty(count, dtype=np.int64)
    with Opener(params, key, key_sum, sites) as opener:
        return sums, *opener.open(first_batch, packed, sums)
