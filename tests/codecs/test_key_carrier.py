"""The vector that carries one-time keys: sums of as many as each profile holds, at their bound, are exact."""

from __future__ import annotations

import numpy as np
import pytest

from he_agg.codecs.ckks_vectors import CkksVectors
from he_agg.plan.ckks_parameters import CkksParameters
from he_agg.plan.hybrid_parameters import HybridParameters
from he_agg.plan.security import NOISE_BOUND
from he_agg.ring.primes import N
from he_agg.ring.sampling import fresh_key
from tests.support.federation import key_of, plan_of

MOST = {12: 24, 36: 27, 97: 30, 3856: 40, 10_000: 50}
"""The most sites that each profile holds keys of (10,000: that a plan may have), and the bits of its residues.

docs/exactness.md has the same numbers, and the bytes that follow.
"""


@pytest.mark.parametrize(("sites", "bits"), MOST.items())
def test_a_profile_holds_keys_of_so_many_sites(sites, bits):
    assert CkksParameters.choose(NOISE_BOUND, sites).profile.modulus.bit_length() == bits
    if sites < max(MOST):
        assert CkksParameters.choose(NOISE_BOUND, sites + 1).profile.modulus.bit_length() > bits


@pytest.mark.parametrize("sites", [12, 36, 97])
def test_sums_of_keys_at_their_bound_are_exact(sites, rng):
    """All sites at 21 or -21 in every slot, the same signs at all of them; and keys as they are drawn."""
    plan = plan_of(codec="hybrid", max_sites=sites, value_bits=16)
    parameters = plan.public.parameters
    assert isinstance(parameters, HybridParameters)
    vectors, q = CkksVectors(parameters.key, key_of(plan)), parameters.key.profile.modulus
    turns = 1 - 2 * (np.arange(N) & 1)
    for signs in (np.ones(N, dtype=np.int64), turns, rng.choice([-1, 1], N)):
        total = np.sum([vectors.encrypt(NOISE_BOUND * signs) for _ in range(sites)], axis=0) % q
        assert np.array_equal(vectors.decrypt(total, sites)[:N], NOISE_BOUND * sites * signs)
    keys = [fresh_key().astype(np.int64) for _ in range(sites)]
    total = np.sum([vectors.encrypt(key) for key in keys], axis=0) % q
    assert np.array_equal(vectors.decrypt(total, sites)[:N], sum(keys))
