"""The laws of the noise: chi-square against exact probabilities, with fixed seeds; edges; what the bits come from."""

from __future__ import annotations

import ast
import math
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from client_sdk.privacy import discrete_gaussian, sampling, skellam
from he_agg.errors import InputError
from tests.client_sdk.privacy.streams import stream

N = 200_000
SEED = 20260
SIGNIFICANCE = 1e-6
"""Seeds are fixed, so this is no chance of a failure but the size of deviation that would show a wrong law."""


def chi_square_p(sample, pmf, span):
    """P value of the sample against a law on the whole numbers, rare numbers pooled into the two ends."""
    numbers = np.arange(-span, span + 1)
    p = pmf(numbers)
    keep = p * len(sample) >= 10
    low, high = numbers[keep].min(), numbers[keep].max()
    clipped = np.clip(sample, low, high)
    observed = np.bincount(clipped - low, minlength=high - low + 1)
    expected = p[keep].copy()
    expected[0], expected[-1] = p[numbers <= low].sum(), p[numbers >= high].sum()
    expected *= len(sample) / expected.sum()
    return stats.chisquare(observed, expected).pvalue


def gaussian_pmf(std):
    def pmf(x):
        support = np.arange(-int(40 * std) - 5, int(40 * std) + 6)
        return np.exp(-(x**2) / (2 * std**2)) / np.exp(-(support**2) / (2 * std**2)).sum()

    return pmf


@pytest.mark.parametrize("std", [0.3, 1.0, 2.5, 17.3])
def test_discrete_gaussian_has_its_law(std):
    sample = discrete_gaussian(std, N, stream(SEED))
    assert chi_square_p(sample, gaussian_pmf(std), int(12 * std) + 3) > SIGNIFICANCE


@pytest.mark.parametrize("std", [0.3, 1.0, 2.5, 17.3])
def test_skellam_has_its_law(std):
    sample = skellam(std, N, stream(SEED))
    pmf = stats.skellam(std**2 / 2, std**2 / 2).pmf
    assert chi_square_p(sample, pmf, int(14 * std) + 5) > SIGNIFICANCE


def test_the_chi_square_test_would_notice():
    """A normal rounded to whole numbers is not a discrete Gaussian; a wrong parameter is seen too."""
    rounded = np.rint(np.random.default_rng(SEED).normal(0, 0.5, N)).astype(np.int64)
    assert chi_square_p(rounded, gaussian_pmf(0.5), 9) < SIGNIFICANCE
    assert chi_square_p(skellam(2.5, N, stream(SEED)), stats.skellam(2.5**2 / 2 * 1.02, 2.5**2 / 2).pmf, 40) < 1e-6


@pytest.mark.parametrize("std", [3000.7, 2.0**15])
@pytest.mark.parametrize("draw", [skellam, discrete_gaussian])
def test_large_noise_is_normal_to_the_eye(draw, std):
    sample = draw(std, N, stream(SEED))
    assert stats.kstest(sample / std, "norm").pvalue > SIGNIFICANCE
    # Five standard errors of mean and variance.
    assert abs(sample.mean()) < 5 * std / math.sqrt(N)
    assert abs(sample.var() / std**2 - 1) < 5 * math.sqrt(2 / N)


def test_discrete_gaussian_far_beyond_tables():
    sample = discrete_gaussian(2.0**33 + 0.5, N, stream(SEED))
    assert stats.kstest(sample / 2.0**33, "norm").pvalue > SIGNIFICANCE
    assert len(set((sample & 7).tolist())) == 8


@pytest.mark.parametrize("draw", [skellam, discrete_gaussian])
def test_sums_have_the_sum_of_variances(draw):
    parts = [draw(12.0, N, stream(SEED + i)) for i in range(9)]
    total = np.sum(parts, axis=0)
    assert abs(total.var() / (9 * 144) - 1) < 5 * math.sqrt(2 / N)
    assert np.abs(np.corrcoef(parts) - np.eye(9)).max() < 5 / math.sqrt(N)
    if draw is skellam:  # closed under addition
        assert chi_square_p(total, stats.skellam(9 * 72, 9 * 72).pmf, 600) > SIGNIFICANCE


def test_undecided_floats_are_decided_exactly():
    """53 bits that lie on exp(-1) itself: the following 128 bits decide, and do so on both sides."""
    with localcontext(sampling._EXACT):
        whole = int(Decimal(-1).exp() * 2**181)
    known, rest = whole >> 128, whole & (2**128 - 1)
    for offset, expected in ((0, True), (1, False)):
        bits = (rest + offset).to_bytes(16, "little")

        def draw(size, bits=bits):
            return bits

        assert sampling._decide(known, Fraction(1), draw) is expected


def test_float_exponents_are_checked_against_fractions_where_it_matters():
    """The margin below which floats do not decide is far above their error."""
    rng = np.random.default_rng(SEED)
    for std in (0.7, 33.3, 1e6 + 0.1, 2.0**40):
        variance, t = Fraction(std) ** 2, math.floor(std) + 1
        y = np.rint(rng.uniform(0, 8 * std, 50)).astype(np.int64)
        offset = np.abs(y) - float(variance / t)
        exact = sampling._GaussianExponents(y, t, variance)
        for i, value in enumerate(offset * offset / (2 * float(variance))):
            gap = abs(
                Decimal(math.exp(-value)) - (-Decimal(exact(i).numerator) / exact(i).denominator).exp(sampling._EXACT)
            )
            assert gap < Decimal(sampling._MARGIN) / 16


def test_poisson_table_ties_and_ends():
    first, high, low = sampling._poisson_table(5 << 20)
    exact = stats.poisson(5).cdf(np.arange(first, first + len(high)))
    assert first == 0
    assert np.allclose(high / 2.0**64, exact, rtol=1e-13)
    for entry, other, index in [(3, -1, 3), (3, 0, 4), (3, 1, 4)]:
        value = (int(high[entry]) << 64 | int(low[entry])) + other
        halves = iter([(value >> 64).to_bytes(8, "little"), (value & 2**64 - 1).to_bytes(8, "little")])

        def draw(size, halves=halves):
            return next(halves)

        drawn = sampling._inverted(first, high, low, 1, draw)
        assert drawn[0] == index
    assert sampling._inverted(first, high, low, 1, lambda size: b"\xff" * size)[0] == len(high) - 1
    assert sampling._inverted(first, high, low, 1, lambda size: b"\0" * size)[0] == 0


@pytest.mark.parametrize("draw", [skellam, discrete_gaussian])
def test_parameters_out_of_range(draw):
    for std in (0, -1, math.nan, math.inf, 2.0**41):
        with pytest.raises(InputError):
            draw(std, 3)
    assert draw(3.0, 0).shape == (0,)
    assert draw(3.0, 70_000).shape == (70_000,)


def test_two_draws_of_the_systems_randomness_differ():
    assert not np.array_equal(skellam(50.0, 100), skellam(50.0, 100))
    assert not np.array_equal(discrete_gaussian(50.0, 100), discrete_gaussian(50.0, 100))


def test_no_module_of_the_package_uses_a_seedable_generator():
    package = Path(sampling.__file__).parent
    names = {
        f"{node.value.id}.{node.attr}"
        for path in package.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert "os.urandom" in names
    assert not {"np.random", "numpy.random", "random.random"} & names
