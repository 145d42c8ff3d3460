"""What is said about parameters of the codec hybrid: every figure is calculated again, with integers and fractions."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import pytest

from he_agg.plan.hybrid_parameters import HybridParameters, ring_primes, sent_moduli

# Certain; noise by chance and roundings not; both by chance; one prime or modulus instead of two.
PLANS = [(8, 8), (16, 3), (16, 6), (8, 31), (16, 31), (4, 8), (20, 8), (24, 66), (16, 100), (8, 10_000), (2, 2)]


@pytest.fixture(params=PLANS, ids=str)
def plan(request):
    """Bits, sites, the parameters, and all that is said about them, in one line."""
    bits, sites = request.param
    parameters = HybridParameters.choose(2 ** (bits - 1) - 1, sites)
    return bits, sites, parameters, dict(parameters.details) | {"why": parameters.why}


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def bounds_of(sites, q, p):
    """FORMAT.md: L(n), as its three bounds, with the square roots as floats."""
    of_floats = float(Fraction(sites * q, 2**52)) + 2
    roundings = float(Fraction(sites * q, 2 * p))
    variance = sites * (Fraction(21, 2) + Fraction(q * q, 12 * p * p))
    return (
        21 * sites + roundings + of_floats,
        14.6 * math.sqrt(10.5 * sites) + roundings + of_floats,
        14.6 * math.sqrt(variance) + of_floats,
    )


def test_packing_ring_and_what_is_sent(plan):
    bits, sites, parameters, said = plan
    base = 2 * sites * (2 ** (bits - 1) - 1) + 1
    assert numbers(said["packing"])[0] == parameters.packing
    assert f"base {base}: the sum of {sites} sites" in said["packing"]
    assert "carries one value" in said["packing"] or f"carries {parameters.packing} values" in said["packing"]
    q, p = math.prod(parameters.primes), math.prod(parameters.moduli)
    assert numbers(said["ring"]) == [2048, *parameters.primes, q.bit_length(), (q - 1) // base**parameters.packing]
    *_, bits_sent = numbers(said["sent"].split(":")[0])
    assert bits_sent == p.bit_length()
    for modulus in parameters.moduli:
        assert f"{modulus} ({modulus.bit_length()} bits)" in said["sent"]


def test_what_noise_and_roundings_reach_and_what_would_be_wrong(plan):
    bits, sites, parameters, said = plan
    q, p = math.prod(parameters.primes), math.prod(parameters.moduli)
    step = (q - 1) // (2 * sites * (2 ** (bits - 1) - 1) + 1) ** parameters.packing
    certain, mixed, by_chance = bounds_of(sites, q, p)
    *_, reach, wrong = numbers(said["exactness"])
    assert wrong == math.ceil(Fraction(step, 2))
    assert ("cannot exceed" in said["exactness"]) == (certain < wrong) == (parameters.failure_log2 == -math.inf)
    assert reach == math.floor(certain if certain < wrong else min(mixed, by_chance))
    assert reach < wrong
    if certain >= wrong:
        assert ("worst roundings" in said["exactness"]) == (mixed < by_chance)


def test_costs_are_those_of_a_calculation_by_hand(plan):
    bits, sites, parameters, _ = plan
    q, p, v = math.prod(parameters.primes), math.prod(parameters.moduli), parameters.packing
    magnitude = 2 ** (bits - 1) - 1
    costs = dict(parameters.costs)
    assert costs["a site's value"] == pytest.approx(math.log2(2 * magnitude + 1), abs=1e-9)
    assert costs["room for the sum"] == pytest.approx(
        math.log2(Fraction(2 * sites * magnitude + 1, 2 * magnitude + 1)), abs=1e-9
    )
    # Without noise a step is K roundings of half a unit of p, or as many of their standard deviations, both ways.
    units = min(sites, 2 * 14.6 * math.sqrt(sites / 12))
    assert costs["rounding"] == pytest.approx(math.log2(units) / v, abs=1e-9)
    step = 2 * math.floor(min(bounds_of(sites, q, p))) + 1
    assert costs["noise"] == pytest.approx(math.log2(step * p / q / units) / v, abs=1e-9)
    assert sum(costs.values()) == pytest.approx(sum(m.bit_length() for m in parameters.moduli) / v, abs=1e-9)
    assert min(costs.values()) >= 0


def test_the_one_time_key_fits_its_vector(plan):
    _, sites, parameters, said = plan
    assert f"in the sum to {21 * sites}:" in said["one-time key"]
    (scale,) = map(int, re.findall(r"scale 2\^(\d+)", said["one-time key"]))
    sigma = math.sqrt(2048 * (10.5 * sites + sites**2 / 6))
    assert 2**scale >= 2 * 14.6 * sigma > 2 ** (scale - 1)
    # In integers and squared: 2 * (14.6 * sqrt(10.5 * sites * (4^scale/2048 + 1)) + sites) is below q.
    room = parameters.key.profile.modulus - 2 * sites
    assert 1000 * 2048 * room**2 > 4 * 146**2 * 105 * sites * (4**scale + 2048)
    assert "all sums of drawn keys but one in 2^152" in said["one-time key"]
    assert 2 * math.exp(-(14.6**2) / 2) < 2**-152


def test_other_packings_are_what_a_search_finds(plan):
    """A slow search of its own: the smallest product of two moduli for each packing that some ring leaves exact."""
    bits, sites, parameters, said = plan
    base = 2 * sites * (2 ** (bits - 1) - 1) + 1
    ((packings, sizes),) = re.findall(r"v = ([\d, ]+) it would be ([\d., ]+) bytes", said["why"])
    listed = dict(zip(map(int, packings.split(", ")), map(float, sizes.split(", ")), strict=True))
    assert listed[parameters.packing] == pytest.approx(parameters.bits_per_value / 8, abs=6e-4)
    for packing, size in listed.items():
        found = [
            sum(m.bit_length() for m in moduli)
            for primes in ring_primes()
            for moduli in sent_moduli()
            if math.prod(moduli) < (q := math.prod(primes))
            and 2 * math.floor(min(bounds_of(sites, q, math.prod(moduli)))) + 1 <= (q - 1) // base**packing <= 2**25
        ]
        assert size == pytest.approx(min(found) / packing / 8, abs=6e-4)
    best = min(listed.values())
    assert parameters.bits_per_value / 8 <= 1.025 * best + 1e-3


def test_the_figures_that_pages_name():
    """Bytes of residues a value, as README and docs/exactness.md say."""
    said = {
        (16, 3): 2.3125,
        (16, 8): 2.625,
        (16, 31): 3.0,
        (16, 100): 3.75,
        (12, 8): 2.0625,
        (8, 3): 1.25,
        (8, 8): 1.53125,
        (8, 31): 1.8333,
        (24, 31): 4.25,
    }
    for (bits, sites), size in said.items():
        parameters = HybridParameters.choose(2 ** (bits - 1) - 1, sites)
        assert parameters.bits_per_value / 8 == pytest.approx(size, abs=1e-4)
