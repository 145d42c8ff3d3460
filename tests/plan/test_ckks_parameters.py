"""Profiles are SEAL's primes and within the table; scales keep sums exact; what is unsafe cannot be built."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import tenseal.sealapi as seal

from he_agg.errors import PlanError, Reason
from he_agg.plan.ckks_parameters import PROFILES, CkksParameters, CkksProfile
from he_agg.plan.security import MAX_MODULUS_BITS, check_security, failure_log2, largest_square_sum


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_primes_are_the_ones_seal_makes(profile):
    primes = [modulus.value() for modulus in seal.CoeffModulus.Create(profile.ring_degree, list(profile.chain_bits))]
    assert primes == [profile.modulus, profile.special_modulus]
    assert all(prime % (2 * profile.ring_degree) == 1 for prime in primes)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_profiles_are_within_the_2024_table(profile):
    product = profile.modulus * profile.special_modulus
    assert product.bit_length() <= MAX_MODULUS_BITS[profile.ring_degree]
    assert sum(profile.chain_bits) <= MAX_MODULUS_BITS[profile.ring_degree]


@pytest.mark.parametrize(("degree", "limit"), MAX_MODULUS_BITS.items())
def test_one_bit_over_the_table_is_refused(degree, limit):
    check_security(degree, limit)
    with pytest.raises(PlanError) as caught:
        check_security(degree, limit + 1)
    assert caught.value.reason == Reason.INSECURE_PARAMETERS


@pytest.mark.parametrize(("degree", "bits"), [(1024, 27), (2048, 54), (4096, 109)])
def test_what_only_the_2018_table_allows_is_refused(degree, bits):
    with pytest.raises(PlanError):
        check_security(degree, bits)


def test_an_insecure_profile_makes_no_parameters():
    profile = CkksProfile("insecure", 4096, PROFILES[-1].modulus, PROFILES[-2].special_modulus)  # 60 + 50 > 106
    with pytest.raises(PlanError) as caught:
        CkksParameters.of(profile, 1, 2)
    assert caught.value.reason == Reason.INSECURE_PARAMETERS


@pytest.mark.parametrize("value_bits", range(2, 25))
@pytest.mark.parametrize("max_sites", [2, 3, 31, 300, 5000])
def test_chosen_parameters_are_exact_with_room_to_spare(value_bits, max_sites):
    magnitude = 2 ** (value_bits - 1) - 1
    parameters = CkksParameters.choose(magnitude, max_sites)
    sigma = math.sqrt(parameters.ring_degree / 2 * (10.5 * max_sites + max_sites**2 / 6))
    assert 2**parameters.scale_bits / 2 >= 14.6 * sigma
    assert 2**parameters.scale_bits / 4 < 14.6 * sigma, "a power of two smaller would do"
    assert 4 * max_sites * magnitude * 2**parameters.scale_bits < parameters.profile.modulus
    assert parameters.failure_log2 < -128 - 28


def test_the_smallest_profile_that_fits_is_chosen():
    chosen = [(1, 2), (1, 4), (1, 31), (1, 32), (21, 31), (1, 300), (2**15 - 1, 31), (2**23 - 1, 31), (2**23 - 1, 5000)]
    assert [CkksParameters.choose(*numbers).profile for numbers in chosen] == list(PROFILES)


@pytest.mark.parametrize("max_sites", [2, 3, 8, 11, 12, 31, 36, 37, 100, 213, 214, 1000, 10_000])
def test_the_room_for_keys_is_recomputed(max_sites):
    """In fractions, with squares on both sides: the profile is the first that fits."""
    chosen = CkksParameters.for_keys(max_sites)
    # (14.6 * sqrt(10.5 * K * (scale^2/2048 + 1)))^2 is 146^2 * 105 * K * (scale^2 + 2048) / (2048 * 1000).
    square = Fraction(146**2 * 105 * max_sites * (4**chosen.scale_bits + 2048), 2048 * 1000)
    fits = [(profile.modulus - 2 * max_sites) ** 2 > 4 * square for profile in PROFILES]
    assert chosen.profile == PROFILES[fits.index(True)]
    assert chosen.scale_bits == CkksParameters.choose(1, max_sites).scale_bits, "noise is the same for values and keys"
    assert chosen.sigmas == 2**chosen.scale_bits / 2 / math.sqrt(2048 * (10.5 * max_sites + max_sites**2 / 6))


def test_a_carrier_of_keys_is_no_plan_for_values():
    """What a document may name for values is what holds the worst of them."""
    parameters = CkksParameters.for_keys(31)
    with pytest.raises(PlanError) as caught:
        CkksParameters.from_json(parameters.to_json(), 21, 31)
    assert caught.value.reason == Reason.NO_HEADROOM


@pytest.mark.parametrize("numbers", [(2**31, 10_000), (2**23 - 1, 10_000)])
def test_no_profile_is_stretched(numbers):
    with pytest.raises(PlanError) as caught:
        CkksParameters.choose(*numbers)
    assert caught.value.reason == Reason.NO_HEADROOM


def test_failure_probability_matches_the_known_value():
    # Q(14.6) two-sided is 2^-158 (security.py); Mills' bound is tight to 1/x^2.
    assert failure_log2(14.6) == pytest.approx(math.log2(math.erfc(14.6 / math.sqrt(2))), abs=0.01)
    assert failure_log2(14.6) < -157


@pytest.mark.parametrize("values", [1, 5, 128, 2048, 10**6])
def test_the_bound_on_noise_is_derived(values):
    """From the moments of a chi-squared variable, whose tail at the bound is below 2^-160 by Chernoff's inequality."""
    ratio = largest_square_sum(values, 10.5) / 10.5 / values
    assert -values / 2 * (ratio - 1 - math.log(ratio)) < -160 * math.log(2)
    assert largest_square_sum(values, 10.5) > 1.02 * 10.5 * values
    assert largest_square_sum(128, 1.0) / 128 < 4.6
