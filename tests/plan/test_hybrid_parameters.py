"""Parameters of the codec hybrid: costs add up, what cannot be is refused, bounds hold against exact figures."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from he_agg.errors import PlanError, Reason
from he_agg.plan.hybrid_parameters import MAX_DELTA, HybridParameters, ring_primes, sent_moduli
from he_agg.plan.security import failure_log2
from he_agg.ring.primes import BATCH

# Half a step is what cannot be exceeded; noise by chance and roundings not; both by chance.
PLANS = [(8, 8), (16, 3), (8, 31), (4, 8), (18, 19), (16, 31), (24, 66), (16, 300)]
MANY = [(bits, sites) for bits in range(2, 25) for sites in (2, 3, 4, 8, 19, 31, 64, 100, 1000, 10_000)]


def chosen(value_bits, sites):
    return HybridParameters.choose(2 ** (value_bits - 1) - 1, sites)


@pytest.mark.parametrize(("value_bits", "sites"), MANY)
def test_costs_add_up_and_none_is_negative(value_bits, sites):
    parameters = chosen(value_bits, sites)
    costs = dict(parameters.costs)
    assert math.isclose(sum(costs.values()), parameters.bits_per_value, rel_tol=1e-12)
    assert min(costs.values()) >= 0
    assert parameters.bits_per_value == sum(q.bit_length() for q in parameters.moduli) / parameters.packing


@pytest.mark.parametrize(("value_bits", "sites"), MANY)
def test_a_wrong_rounding_is_impossible_or_below_14_6_sigma(value_bits, sites):
    assert chosen(value_bits, sites).failure_log2 <= failure_log2(14.6)


def test_noise_that_just_cannot_reach_half_a_step_is_no_failure():
    """Noise is an integer: with 1386.7 at most it is not beyond 1386."""
    parameters = HybridParameters.of(2, (268369921,), (524287,), 31, 5)
    ratio = 268369921 / 524287
    assert 1386.6 < 5 * (21 + ratio / 2 + ratio * 2.0**-52 * 524287) + 2 < 1387
    assert (parameters.delta - 1) // 2 == 1386
    assert parameters.failure_log2 == -math.inf


def test_squares_of_a_batch_add_up_within_64_bits():
    assert BATCH * ((MAX_DELTA - 1) // 2) ** 2 < 2**63
    assert max(chosen(*one).delta for one in MANY) <= MAX_DELTA
    with pytest.raises(PlanError) as caught:
        HybridParameters.of(1, ring_primes()[-1], sent_moduli()[10], 2**21 - 1, 4)  # 53 bits, rounded to 26
    assert caught.value.reason == Reason.NO_HEADROOM


@pytest.mark.parametrize(("value_bits", "sites"), PLANS)
def test_products_in_float64_are_off_by_no_more_than_the_bounds_say(rng, value_bits, sites):
    parameters = chosen(value_bits, sites)
    q, p = parameters.modulus, math.prod(parameters.moduli)
    digits = sum(parameters.magnitude * (2 * sites * parameters.magnitude + 1) ** j for j in range(parameters.packing))
    largest = (q - 1) // 2 + parameters.delta * digits + 21
    assert largest < 3 * q / 4
    for limit, factor, bound in (
        (largest, p / q, Fraction(1, 2) + Fraction(p, 2**52)),
        ((p - 1) // 2, q / p, Fraction(5, 4)),
    ):
        exact = Fraction(p, q) if factor < 1 else Fraction(q, p)
        some = np.concatenate([limit - np.arange(1000), rng.integers(-limit, limit, 2000)])
        for x, rounded in zip(some.tolist(), np.rint(some.astype(np.float64) * factor).tolist(), strict=True):
            assert abs(int(rounded) - x * exact) <= bound


@pytest.mark.parametrize(("value_bits", "sites"), [one for one in PLANS if one not in ((8, 8), (16, 3))])
def test_the_tail_of_the_very_sum_is_below_what_is_stated(value_bits, sites):
    parameters = chosen(value_bits, sites)
    ratio = parameters.modulus / math.prod(parameters.moduli)
    of_floats = sites * ratio * 2.0**-52 * math.prod(parameters.moduli) + 2
    assert parameters.failure_log2 > -math.inf
    assert log2_tail(sites, ratio, (parameters.delta + 1) // 2 - of_floats) < parameters.failure_log2


def log2_tail(sites, ratio, least, grid=16):
    """Calculate log2 P(|sum of noise + ratio * sum of roundings| >= least), on a grid of 1/16.

    The laws are tilted, exp(t*x) times what they are, so that the tail becomes the middle and a Fourier transform in
    float64 is exact enough: Esscher's transform.
    """
    noise = np.arange(-21, 22)
    weights = np.log([math.comb(42, 21 + int(k)) / 2**42 for k in noise])
    width = round(ratio * grid) | 1
    rounding = np.arange(-(width // 2), width // 2 + 1) / grid

    def tilted(t):
        laws, log_mass, mean = [], 0.0, 0.0
        for x, logs in ((noise, weights), (rounding, np.full(width, -math.log(width)))):
            tilt = logs + t * x
            law = np.exp(tilt - tilt.max())
            log_mass += sites * (tilt.max() + math.log(law.sum()))
            law /= law.sum()
            mean += sites * float(law @ x)
            laws.append(law)
        return laws, log_mass, mean

    low, high = 0.0, 100.0
    for _ in range(100):
        t = (low + high) / 2
        low, high = (t, high) if tilted(t)[2] < least else (low, t)
    laws, log_mass, _ = tilted(low)
    size = 1 << (sites * (42 * grid + width)).bit_length()
    sums = np.ones(size // 2 + 1, dtype=complex)
    for x, law in zip((noise, rounding), laws, strict=True):
        spread = np.zeros(size)
        spread[np.rint(x * grid).astype(int) % size] = law
        sums *= np.fft.rfft(spread) ** sites
    place = np.fft.fftfreq(size, 1 / size) / grid
    beyond = place >= least
    share = np.clip(np.fft.irfft(sums, size)[beyond], 0, None) * np.exp(-low * (place[beyond] - least))
    return 1 + (log_mass - low * least + math.log(share.sum())) / math.log(2)


@pytest.mark.parametrize("primes", [(65521,), (1073692673, 65537), (16760833, 16736257), (134176769, 134111233)])
def test_primes_that_no_plan_has_are_refused(primes):
    with pytest.raises(PlanError) as caught:
        HybridParameters.of(1, primes, (65521,), 1, 2)
    assert caught.value.reason == Reason.BAD_PLAN


@pytest.mark.parametrize(
    "moduli", [(65536,), (1 << 31,), (65537,), (16777213, 16777199), (1048571, 1048573, 65521), (4294967291,)]
)
def test_moduli_that_no_plan_has_or_that_are_no_smaller_are_refused(moduli):
    with pytest.raises(PlanError) as caught:
        HybridParameters.of(2, ring_primes()[14] if len(moduli) == 1 else ring_primes()[-1], moduli, 127, 8)
    assert caught.value.reason == Reason.BAD_PLAN


@pytest.mark.parametrize(
    "change", [{"delta": 526}, {"delta": "527"}, {"packing": 3}, {"packing": 0}, {"packing": 54}, {"more": 1}]
)
def test_a_document_reads_back_and_a_changed_one_is_refused(change):
    parameters = chosen(8, 8)
    document = parameters.to_json()
    assert HybridParameters.from_json(document, 127, 8) == parameters
    with pytest.raises((PlanError, ValueError)):
        HybridParameters.from_json({**document, **change}, 127, 8)
