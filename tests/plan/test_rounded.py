"""What rounding does to an update is told as it is: against the integers themselves, and for large tensors too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg import Layout, Plan
from he_agg.plan.fixedpoint import quantize
from he_agg.plan.rounded import MOST_ERROR, Rounded, as_text, cap_trouble, coarse, rounded


def told(x: np.ndarray, clip: float = 1.0, weight_cap: int = 1, weight: int = 1, bits: int = 16) -> Rounded:
    (one,) = rounded(Layout.of({"w": x}, clip=clip, weight_cap=weight_cap), bits, {"w": x}, weight)
    return one


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 24),
    st.floats(1e-8, 1.0),
    st.integers(1, 1000),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_it_is_what_the_integers_say(seed, bits, width, weight, dtype):
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(0, width, 300), -1, 1).astype(dtype)
    x[rng.random(300) < 0.2] = 0
    update = {"w": x, "none": np.zeros(3, np.float32)}
    plan = Plan.create("test", Layout.of(update, clip=1.0, weight_cap=1000), max_sites=3, value_bits=bits)
    quantized = quantize(plan, update, weight)
    one, none = quantized.rounded
    back = quantized.values[:300] * (1000 / (plan.public.magnitude * weight))
    there = x != 0
    assert one.lost == pytest.approx(np.mean(quantized.values[:300][there] == 0) if there.any() else 0.0)
    if there.any():
        error = np.linalg.norm(back - x.astype(np.float64)) / np.linalg.norm(x.astype(np.float64))
        assert one.relative_error == pytest.approx(error, rel=1e-6)
    assert one.largest == np.abs(x).max()
    assert (none.lost, none.relative_error, none.is_coarse) == (0.0, 0.0, False)
    assert rounded(plan.layout, bits, update, weight) == quantized.rounded


def test_a_better_clip_makes_it_fine():
    """The share and the error that the sentence promises to mend are mended by what it says."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1e-4, 5000).astype(np.float32)
    before = told(x, clip=2.0)
    assert before.is_coarse
    assert before.better_clip is not None
    after = told(x, clip=before.better_clip, bits=before.better_bits)
    assert not after.is_coarse
    assert after.better_clip is None
    assert str(before) == (
        f"tensor 'w': {100 * before.lost:.2g} % of its entries that are not 0 round to 0, relative error "
        f"{100 * before.relative_error:.2g} %; better: clip 0.001 instead of 2"
    )


def test_updates_that_vanish_are_told_of():
    """The newcomer's: clip 1.0, 16 bits, updates of 1e-5: nothing moves."""
    one = told(np.full(100, 1e-5, np.float32))
    assert (one.lost, one.relative_error) == (1.0, pytest.approx(1.0))
    assert "100 % of its entries" in str(one)
    assert "clip 2e-05 instead of 1" in as_text([one])


def test_where_the_clip_is_right_more_bits_or_another_cap_are_named():
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, 1000)
    few = told(x, bits=3)
    assert few.better_clip is None
    assert f"{few.better_bits} value bits instead of 3" in str(few)
    assert not told(x, bits=few.better_bits).is_coarse
    small = told(x, weight_cap=10**6, weight=5)
    assert "a weight cap nearer to the sites' real weights" in str(small)


@pytest.mark.parametrize("shape", [(1024, 1024), (1000, 999), (2**21,)])
def test_a_sample_of_a_large_tensor_is_as_good(shape):
    """Columns differ by orders of magnitude: a sample along them alone would be far off."""
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1e-4, shape) * np.logspace(-1, 1, shape[-1])
    one = told(x.astype(np.float32), clip=1.0)
    k = np.rint(x * 32767)
    assert one.lost == pytest.approx(np.mean(k == 0), abs=0.02)
    assert one.relative_error == pytest.approx(np.linalg.norm(k / 32767 - x) / np.linalg.norm(x), rel=0.1)


def test_a_few_entries_in_a_large_tensor_are_found():
    """An embedding whose rows are almost all untouched."""
    x = np.zeros((20_000, 50), np.float32)
    x[777] = 1e-6
    x[12_345] = 0.5
    assert told(x).lost == 0.5


def test_stochastic_rounding_is_told_as_expected():
    x = np.full(2000, 0.25 / 32767)
    layout = Layout.of({"w": x}, clip=1.0, weight_cap=1)
    (one,) = rounded(layout, 16, {"w": x}, 1, stochastic=True)
    assert one.lost == pytest.approx(0.75)
    assert one.relative_error == pytest.approx(math.sqrt(0.25 * 0.75) / 0.25)


def test_the_worst_three_are_named():
    spread = [Rounded(f"t{i}", 50, 0.2, MOST_ERROR * i, 1.0, 16, 0.1, 1.0) for i in range(2, 8)]
    text = as_text(spread)
    assert [text.index(f"'t{i}'") for i in (7, 6, 5)] == sorted(text.index(f"'t{i}'") for i in (7, 6, 5))
    assert "(3 more tensors are alike)" in text
    assert "largest" not in repr(spread[0])


def test_a_bias_that_is_small_for_once_is_not_spoken_of():
    """But all of an update that vanishes is, however small its tensors are."""
    fine, bias = Rounded("w", 50, 0.0, 0.0, 1.0, 16, 1.0, 1.0), Rounded("b", 1, 1.0, 1.0, 1.0, 16, 0.1, 1.0)
    empty = Rounded("e", 0, 0.0, 0.0, 1.0, 16, 0.0, 1.0)
    assert coarse([fine, bias, empty]) == []
    assert as_text([fine, bias, empty]) == ""
    assert coarse([bias, empty]) == [bias]
    assert coarse([fine, empty]) == coarse([]) == []


@pytest.mark.parametrize(("cap", "bits", "said"), [(10**12, 16, "0 of 15 bits"), (10**5, 16, ""), (10**4, 4, "")])
def test_a_cap_that_leaves_nothing_gets_a_sentence(cap, bits, said):
    assert said in cap_trouble(cap, bits)
    assert bool(said) == bool(cap_trouble(cap, bits))
