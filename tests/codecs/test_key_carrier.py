"""The vector that carries one-time keys: sums of as many as each profile holds are exact, and the bound is derived."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from he_agg.codecs.ckks_vectors import CkksVectors
from he_agg.errors import DecryptionError, Reason
from he_agg.plan.ckks_parameters import PROFILES, CkksParameters
from he_agg.plan.hybrid_parameters import HybridParameters
from he_agg.plan.security import NOISE_BOUND
from he_agg.ring.primes import N
from he_agg.ring.sampling import fresh_key
from tests.attacks.recovery import GENERATOR, Ring, polynomial
from tests.support.federation import key_of, plan_of

sealapi = pytest.importorskip("tenseal.sealapi")

MOST = {11: 17, 36: 19, 213: 22, 455: 24, 1912: 27, 7743: 30, 10_000: 40}
"""The most sites that each profile holds keys of (10,000: that a plan may have), and the bits of its residues.

docs/exactness.md has the same numbers, and the bytes that follow.
"""

SIGNS = 42
"""A coefficient of a key or of noise is half the sum of so many independent signs."""


def embedding(coefficients: range) -> NDArray[np.float64]:
    """The factors of the 2048 slots in coefficients of the polynomial, at scale 1. Shape: (coefficients, slots)."""
    turns = np.array([pow(GENERATOR, j, 4 * N) for j in range(N)])
    return np.cos(np.outer(coefficients, turns) % (4 * N) * (math.pi / (2 * N))) / N


@pytest.mark.parametrize(("sites", "bits"), MOST.items())
def test_a_profile_holds_keys_of_so_many_sites(sites, bits):
    assert CkksParameters.for_keys(sites).profile.modulus.bit_length() == bits
    if sites < max(MOST):
        assert CkksParameters.for_keys(sites + 1).profile.modulus.bit_length() > bits


def test_codecs_ask_for_what_they_carry():
    """Values are chosen: only a key, which is drawn, may rely on chance."""
    hybrid, ckks = (plan_of(codec=codec, max_sites=31, value_bits=16).public.parameters for codec in ("hybrid", "ckks"))
    assert isinstance(hybrid, HybridParameters)
    assert hybrid.key == CkksParameters.for_keys(31)
    assert ckks == CkksParameters.choose(2**15 - 1, 31)
    for sites in MOST:
        values = CkksParameters.choose(NOISE_BOUND, sites)
        assert 4 * NOISE_BOUND * sites * 2**values.scale_bits < values.profile.modulus
        assert values.profile.modulus > CkksParameters.for_keys(sites).profile.modulus


def test_seal_embeds_as_the_bound_says():
    """A coefficient is the scale times a sum of slots times cosines, 1/2048 of their number, and rounded."""
    profile, scale = PROFILES[1], 2.0**15
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(profile.ring_degree)
    parameters.set_coeff_modulus([sealapi.Modulus(q) for q in (profile.modulus, profile.special_modulus)])
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    plain, slots = sealapi.Plaintext(), fresh_key().astype(np.float64)
    sealapi.CKKSEncoder(context).encode(slots.tolist(), scale, plain)
    ring, data = Ring(2 * N, profile.modulus), plain.dyn_array()
    embedded = ring.interpolate(ring.from_seal([data[i] for i in range(2 * N)])).astype(np.int64)
    factors = embedding(range(2 * N))
    # Half a unit of rounding and what float64 adds; the bound has one unit for both.
    assert np.abs(embedded - scale * (factors @ slots)).max() < 0.5 + 2**-10
    assert np.allclose(scale * (factors @ slots), scale * polynomial(slots), rtol=0, atol=2**-10)
    squares = N * np.square(factors).sum(axis=1)
    assert np.allclose(squares, [1] + [0.5] * (N - 1) + [0] + [0.5] * (N - 1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("sites", MOST)
def test_drawn_keys_stay_within_the_room(sites):
    """Chernoff's bound on coefficients of the sum, with the law's own moments instead of its variance alone."""
    parameters = CkksParameters.for_keys(sites)
    # Half of q less what the encoders round, half a unit each. The plan's bound leaves them one unit.
    reach = (parameters.profile.modulus - 1) / 2 - sites / 2 - 1

    def log2_beyond(k: int) -> float:
        weights = np.append(2**parameters.scale_bits * embedding(range(k, k + 1))[0], 1)  # and the noise of encryption
        tilt = reach / (sites * SIGNS / 4 * np.square(weights).sum())
        x = np.abs(tilt * weights / 2)
        log_cosh = x + np.log1p(np.exp(-2 * x)) - math.log(2)
        return 1 + float(sites * SIGNS * log_cosh.sum() - tilt * reach) / math.log(2)

    first, others = log2_beyond(0), [log2_beyond(k) for k in (1, 2, 3, 1000, 2047, 4095)]
    assert first < -152
    assert max(others) < -152 - 12, "so that 4,095 more add next to nothing"


@pytest.mark.parametrize("sites", [2, 11, 36, 213])
def test_sums_of_as_many_keys_as_fit_are_exact(sites):
    vectors, q = vectors_of(sites)
    keys = [fresh_key().astype(np.int64) for _ in range(sites)]
    total = np.sum([vectors.encrypt(key) for key in keys], axis=0) % q
    assert np.array_equal(vectors.decrypt(total, sites)[:N], sum(keys))


@pytest.mark.parametrize("sites", [11, 36, 213])
def test_a_sum_at_the_end_of_the_room_is_exact_and_one_beyond_it_is_not(sites, rng):
    """Slots of one sign, which nobody draws: coefficient 0, their mean at the scale, is what is longest."""
    vectors, q = vectors_of(sites)
    parameters = CkksParameters.for_keys(sites)
    room = (int(q) - 1) / 2 - 14.6 * math.sqrt(10.5 * sites) - sites
    most = math.floor(room / 2**parameters.scale_bits * N)
    whole, more = divmod(most, N)
    assert whole < sites
    parts = np.zeros((sites, N), dtype=np.int64)
    parts[:whole] = 1
    parts[whole, rng.permutation(N)[:more]] = 1
    total = np.sum([vectors.encrypt(part) for part in parts], axis=0) % q
    assert np.array_equal(vectors.decrypt(total, sites)[:N], parts.sum(axis=0))
    one_more = np.repeat(np.array([2**parameters.scale_bits, 0], dtype=np.uint64), 2 * N)  # a constant, at every root
    wrapped = (total + one_more) % q
    if (q - 1) % 2**parameters.scale_bits:
        with pytest.raises(DecryptionError) as caught:
            vectors.decrypt(wrapped, sites)
        assert caught.value.reason == Reason.OFF_GRID
    else:  # q is so many whole steps and a bit, so that the grid does not tell; the bulk does (tests/attacks/)
        steps = int(q - 1) >> parameters.scale_bits
        assert np.array_equal(vectors.decrypt(wrapped, sites)[:N], parts.sum(axis=0) + 1 - steps)


def vectors_of(sites: int) -> tuple[CkksVectors, np.uint64]:
    """The vectors of a plan for so many sites, and their modulus."""
    plan = plan_of(codec="hybrid", max_sites=sites, value_bits=16)
    parameters = plan.public.parameters
    assert isinstance(parameters, HybridParameters)
    return CkksVectors(parameters.key, key_of(plan)), np.uint64(parameters.key.profile.modulus)
