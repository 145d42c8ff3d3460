"""Fixed point: exact against fractions, within the derived bound of the float mean, and loud about bad input."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg import Layout, Plan
from he_agg.errors import DecryptionError, InputError, Reason
from he_agg.plan import fixedpoint
from he_agg.plan.fixedpoint import OnOverflow, Quantizing, dequantize, quantize

DTYPES = [np.float16, np.float32, np.float64]


def update_like(rng, clip=1.0):
    """Tensors of every kind the layout allows."""
    return {
        "matrix": rng.uniform(-clip, clip, (7, 5)).astype(np.float32),
        "scalar": np.float64(rng.uniform(-clip, clip)),
        "half": rng.uniform(-clip, clip, 11).astype(np.float16),
        "empty": np.zeros((0, 3), np.float32),
        "fortran": np.asfortranarray(rng.uniform(-clip, clip, (4, 6))),
        "strided": rng.uniform(-clip, clip, 20)[::2],
    }


def plan_for(update, clip=1.0, weight_cap=1000, **options):
    options = {"max_sites": 8, "value_bits": 16, **options}
    return Plan.create("test", Layout.of(update, clip=clip, weight_cap=weight_cap), **options)


def mean_of(plan, updates, weights, **options):
    quantized = [quantize(plan, update, weight, **options) for update, weight in zip(updates, weights, strict=True)]
    sums = np.sum([q.values for q in quantized], axis=0)
    return dequantize(plan, sums, len(updates))


@given(st.data())
def test_integers_are_the_rounded_fractions(data):
    """k is within 1/2 (and the float64 product's own error) of the exact rational value, and never beyond M."""
    value_bits = data.draw(st.integers(2, 24))
    clip = data.draw(st.floats(1e-6, 1e6))
    cap = data.draw(st.integers(1, 2**20))
    weight = data.draw(st.integers(1, cap))
    values = data.draw(st.lists(st.floats(-clip, clip) | st.sampled_from([clip, -clip, 0.0]), min_size=1, max_size=30))
    update = {"w": np.array(values)}
    plan = plan_for(update, clip, cap, value_bits=value_bits)
    integers = quantize(plan, update, weight).values
    magnitude = plan.public.magnitude
    slack = Fraction(magnitude, 2**50)
    for x, k in zip(values, integers, strict=False):
        exact = Fraction(weight, cap) * Fraction(x) / Fraction(clip) * magnitude
        assert abs(int(k)) <= magnitude
        assert abs(exact - int(k)) <= Fraction(1, 2) + slack


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_mean_is_within_half_a_step_per_site_of_the_float_mean(dtype, data):
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    n_sites, clip = data.draw(st.integers(1, 8)), data.draw(st.sampled_from([0.01, 1.0, 77.0]))
    cap = data.draw(st.sampled_from([1, 10, 5000]))
    weights = [int(w) for w in rng.integers(1, cap, n_sites, endpoint=True)]
    updates = [{"w": (rng.uniform(-clip, clip, 50) * 0.999).astype(dtype)} for _ in range(n_sites)]
    plan = plan_for(updates[0], clip, cap)
    mean = mean_of(plan, updates, weights)
    exact = sum(u["w"].astype(np.float64) * w for u, w in zip(updates, weights, strict=True)) / sum(weights)
    # n * step / 2 from one rounding per site (fixedpoint.py), half an ulp of the dtype from the last cast, and a few
    # float64 roundings of numbers up to clip on the way.
    bound = n_sites * mean.resolution["w"] / 2 + np.spacing(np.abs(exact).astype(dtype)) / 2 + 1e-13 * clip
    assert (np.abs(mean.tensors["w"].astype(np.float64) - exact) <= bound).all()
    assert mean.total_weight == sum(weights)
    assert mean.n_sites == n_sites


def test_shapes_dtypes_and_order_come_back(rng):
    update = update_like(rng)
    plan = plan_for(update, weight_cap=1, value_bits=24)
    mean = mean_of(plan, [dict(reversed(update.items()))], [1])
    assert list(mean.tensors) == list(update)
    for name, value in update.items():
        array = mean.tensors[name]
        assert (array.shape, array.dtype) == (np.shape(value), np.asarray(value).dtype)
        np.testing.assert_allclose(array, value, atol=1e-3 if array.dtype == np.float16 else 2e-7, rtol=0)


def test_weight_one_hot_shows_whose_weight_is_counted():
    update = {"w": np.zeros(3)}
    plan = plan_for(update, weight_cap=10**6, value_bits=4)
    assert plan.weight_digits == 7
    weights = [1, 8, 64, 512, 10**6]
    assert mean_of(plan, [update] * 5, weights).total_weight == sum(weights)


def test_extreme_values_and_weights_are_exact():
    update = {"w": np.array([1.0, -1.0])}
    plan = plan_for(update, weight_cap=3, value_bits=2)
    integers = quantize(plan, update, 3).values
    assert integers.tolist() == [1, -1, 1, 1, 1]  # the two values, weight 3 = 11 in base 2, and the count


@pytest.mark.parametrize("draw", [0, 2**32 - 1])
def test_what_is_on_the_grid_stays_whatever_is_drawn(draw):
    """An evaluation's counts: digit / weight, times (weight / cap) * M over the bound M / cap."""
    for magnitude, cap in itertools.product((127, 2**15 - 1, 2**23 - 1), (1, 10, 100, 127)):
        for weight in range(1, cap + 1):
            digits = np.unique([*range(min(magnitude // cap + 1, 100)), magnitude // cap])
            scale, out = magnitude * (weight / cap) / (magnitude / cap), np.empty(digits.size, np.int32)
            draws = np.full(digits.size, draw, np.uint32)
            fixedpoint._round(digits.astype(np.float64) / weight, scale, magnitude, draws, out)
            assert np.array_equal(out, digits)


def test_stochastic_rounding_is_unbiased_and_bounded():
    update = {"w": np.full(200_000, 0.3)}
    plan = plan_for(update, weight_cap=1, value_bits=2)  # M = 1: each value becomes 0 or 1
    integers = quantize(plan, update, 1, rounding="stochastic").values[:-2]
    assert set(integers.tolist()) == {0, 1}
    # Bernoulli(0.3), n = 200,000: standard deviation of the mean 0.001025; 7 of them have probability below 2^-38.
    assert abs(integers.mean() - 0.3) < 7 * 0.001025
    ends = {"w": np.array([1.0, -1.0] * 1000)}
    assert (
        np.abs(quantize(plan_for(ends, weight_cap=1, value_bits=2), ends, 1, rounding="stochastic").values).max() == 1
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_named(bad):
    update: dict[str, np.ndarray] = {"a": np.zeros(3), "b": np.zeros((200, 500), np.float32)}
    plan = plan_for(update)
    update["b"][150, 3] = bad
    for on_overflow in ("error", "clip"):
        with pytest.raises(InputError, match=r"'b', flat index 75003") as caught:
            quantize(plan, update, 1, on_overflow=on_overflow)
        assert caught.value.reason == Reason.NON_FINITE


def test_values_beyond_clip_are_named_or_counted():
    update = {"a": np.zeros(3), "b": np.array([0.5, -1.5, 2.0, 1.0])}
    plan = plan_for({"a": np.zeros(3), "b": np.zeros(4)}, weight_cap=1)
    with pytest.raises(InputError, match=r"'b', flat index 1") as caught:
        quantize(plan, update, 1)
    assert caught.value.reason == Reason.BEYOND_CLIP
    assert "1.5" not in str(caught.value), "an error must not quote the value"
    quantized = quantize(plan, update, 1, on_overflow="clip")
    assert quantized.clipped == {"b": 2}
    m = plan.public.magnitude
    assert quantized.values[3:7].tolist() == [round(m / 2), -m, m, m]


@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        (lambda u: u.pop("b"), Reason.MISSING_TENSOR, "'b'"),
        (lambda u: u.update(c=np.zeros(2)), Reason.EXTRA_TENSOR, "'c'"),
        (lambda u: u.update(b=np.zeros((4, 1))), Reason.WRONG_SHAPE, r"expected shape \(4,\), got \(4, 1\)"),
        (lambda u: u.update(b=np.zeros(4, np.float32)), Reason.WRONG_DTYPE, "expected dtype float64, got float32"),
        (lambda u: u.update(b=np.zeros(4, int)), Reason.WRONG_DTYPE, "got int64"),
        (lambda u: u.update(b=["x"] * 4), Reason.WRONG_DTYPE, "got str"),
    ],
)
def test_tensors_unlike_the_plan_are_named(change, reason, text):
    update = {"a": np.zeros(3), "b": np.zeros(4)}
    plan = plan_for(update)
    change(update)
    with pytest.raises(InputError, match=text) as caught:
        quantize(plan, update, 1)
    assert caught.value.reason == reason


@pytest.mark.parametrize("weight", [0, -1, 1001, 10**30, 1.0, "3", True, None, np.float32(2)])
def test_weights_outside_one_to_the_cap_are_refused(weight):
    update = {"a": np.zeros(3)}
    with pytest.raises(InputError) as caught:
        quantize(plan_for(update), update, weight)
    assert caught.value.reason == Reason.WEIGHT_OUT_OF_RANGE
    assert "1001" not in str(caught.value), "a weight is plaintext"


@pytest.mark.parametrize("weight", [1, 1000, np.int64(5), np.uint8(5)])
def test_weights_of_any_integer_type_are_taken(weight):
    update = {"a": np.zeros(3)}
    quantize(plan_for(update), update, weight)


def test_sums_that_honest_sites_cannot_make_release_nothing():
    update = {"a": np.zeros(3)}
    plan = plan_for(update)
    sums = quantize(plan, update, 5).values.astype(np.int64) * 2
    assert dequantize(plan, sums, 2).total_weight == 10
    for position, value, reason in [
        (-1, 3, Reason.COUNT_MISMATCH),
        (-1, 1, Reason.COUNT_MISMATCH),
        (0, 2 * plan.public.magnitude + 1, Reason.SUM_OUT_OF_RANGE),
        (3, 0, Reason.SUM_OUT_OF_RANGE),  # total weight 0
        (3, 2001, Reason.SUM_OUT_OF_RANGE),  # above two caps
        (3, -1, Reason.SUM_OUT_OF_RANGE),
        (3, 2 * plan.public.magnitude + 1, Reason.SUM_OUT_OF_RANGE),
        (0, 330, Reason.SUM_OUT_OF_RANGE),  # beyond 32767 * 10/1000 + 2 * 999/1000 = 329.7
        (2, -330, Reason.SUM_OUT_OF_RANGE),
    ]:
        wrong = sums.copy()
        wrong[position] = value
        with pytest.raises(DecryptionError) as caught:
            dequantize(plan, wrong, 2)
        assert caught.value.reason == reason


@given(st.data())
def test_honest_sites_at_the_edge_are_never_refused(data):
    """Any weights, all values at +-clip, either rounding: released, within the bounds, which are reached."""
    value_bits = data.draw(st.integers(2, 24), label="value_bits")
    cap = data.draw(st.integers(1, 3000) | st.integers(2**39, 2**40), label="cap")
    weight = st.sampled_from([1, cap]) | st.integers(1, cap)
    weights = data.draw(st.lists(weight, min_size=1, max_size=8), label="weights")
    rounding = data.draw(st.sampled_from(["nearest", "stochastic"]), label="rounding")
    clip = data.draw(st.sampled_from([1.0, 0.1, 3e-7]), label="clip")
    edge = {"w": np.full(40, clip), "v": np.full(40, -clip)}
    plan = plan_for(edge, clip, cap, value_bits=value_bits)
    mean = mean_of(plan, [edge] * len(weights), weights, rounding=rounding)
    magnitude, n, total = plan.public.magnitude, len(weights), sum(weights)
    assert mean.total_weight == total
    beyond = 1 + Fraction(n * (cap - 1), magnitude * total)
    for name in edge:
        assert np.abs(mean.tensors[name]).max() <= clip * float(beyond) * (1 + 2**-50)


@pytest.mark.parametrize(("weights", "cap"), [([1, 1, 1], 2000), ([7, 200, 1999], 2000), ([1, 1], 1), ([5, 5], 5)])
def test_the_largest_sum_is_what_sites_that_round_up_can_make(weights, cap):
    """Each at its limit passes; one more does not."""
    update = {"w": np.zeros(2)}
    plan = plan_for(update, weight_cap=cap, value_bits=10)
    sums = np.sum([quantize(plan, update, weight).values for weight in weights], axis=0)
    n, m, total = len(weights), plan.public.magnitude, sum(weights)
    largest = min(n * m, (m * total + n * (cap - 1)) // cap)
    assert sum(-(-m * weight // cap) for weight in weights) <= largest
    for sign in (1, -1):
        sums[0] = sign * largest
        assert dequantize(plan, sums, n).total_weight == total
        sums[0] = sign * (largest + 1)
        with pytest.raises(DecryptionError):
            dequantize(plan, sums, n)


def test_nothing_of_the_plaintext_is_in_a_repr():
    update = {"a": np.full(3, 0.123456)}
    quantized = quantize(plan_for(update), update, 1)
    assert "0.12" not in repr(quantized)
    assert str(quantized.values[0]) not in repr(quantized)


@given(begin=st.integers(0, 14), length=st.integers(0, 14), clipping=st.booleans())
def test_integers_of_a_span_are_those_of_the_whole(begin, length, clipping):
    """Across tensors, dtypes, empty ones and the hidden values at the end."""
    tensors = {
        "a": np.linspace(-1, 1, 4, dtype=np.float32).reshape(2, 2),
        "b": np.zeros(0),
        "c": np.linspace(-2 if clipping else -1, 1, 5),
        "d": np.float16(0.3).reshape(()),
    }
    layout = Layout.of(tensors, clip=1.0, weight_cap=10**6)
    plan = Plan.create("test", layout, value_bits=8, max_sites=3)
    on_overflow: OnOverflow = "clip" if clipping else "error"
    whole = quantize(plan, tensors, 123456, on_overflow=on_overflow)
    lazy = Quantizing(plan, tensors, 123456, on_overflow=on_overflow)
    assert lazy.shape == whole.values.shape
    assert lazy.dtype == whole.values.dtype
    assert lazy.clipped == whole.clipped
    got = lazy[begin : begin + length]
    assert got.dtype == np.int32
    assert np.array_equal(got, whole.values[begin : begin + length])


def test_spans_that_are_held_are_not_overwritten():
    plan = Plan.create("test", Layout.of({"w": np.zeros(100)}, clip=1.0, weight_cap=1), max_sites=3)
    lazy = Quantizing(plan, {"w": np.linspace(-1, 1, 100)}, 1)
    first, second = lazy[0:50], lazy[50:100]
    assert np.array_equal(np.concatenate([first, second]), lazy[:100])


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("of_tensor", DTYPES)
def test_sums_of_either_width_give_the_same_mean(dtype, of_tensor):
    """That of double precision, rounded once to the tensor's own, wherever a long tensor is cut."""
    tensors = {"w": np.linspace(-1, 1, 70_001, dtype=of_tensor)}
    plan = Plan.create("test", Layout.of(tensors, clip=1.0, weight_cap=1), max_sites=3)
    sums = 2 * quantize(plan, tensors, 1).values.astype(np.int64)
    mean = dequantize(plan, sums.astype(dtype), 2)
    assert mean.tensors["w"].dtype == of_tensor
    assert np.array_equal(mean.tensors["w"], (sums[:70_001] * mean.resolution["w"]).astype(of_tensor))
    assert mean.sums.dtype == np.int64
    assert np.array_equal(mean.sums, sums[:70_001])
