"""What rounding takes away is what the integers say, and a proposed bound takes away less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg import Layout, Plan
from he_agg.plan.fixedpoint import quantize
from he_agg.plan.rounding import better_clip, rounding_losses


@given(st.data())
def test_losses_are_those_of_the_integers_that_are_encrypted(data):
    """Computed again from the integers and the step."""
    bits, cap = data.draw(st.integers(2, 24)), data.draw(st.integers(1, 5000))
    weight, clip = data.draw(st.integers(1, cap)), data.draw(st.sampled_from([2.0**-7, 1.0, 3.0]))
    entries = st.floats(-clip, clip, width=32) | st.just(0.0) | st.floats(-clip / 1024, clip / 1024, width=32)
    update = {
        "a": np.array(data.draw(st.lists(entries, min_size=1, max_size=40)), np.float32).clip(-clip, clip),
        "none": np.zeros((0, 3), np.float32),
        "zeros": np.zeros(4, np.float64),
    }
    layout = Layout.of(update, clip=clip, weight_cap=cap)
    plan = Plan.create("test", layout, max_sites=3, value_bits=bits)
    integers = quantize(plan, update, weight, on_overflow="clip").values[: update["a"].size]
    step = clip * cap / (plan.public.magnitude * weight)
    x = update["a"].astype(np.float64)
    other = x != 0
    loss, none, zeros = rounding_losses(layout, update, weight, bits)
    assert loss.to_zero == pytest.approx(np.mean(integers[other] == 0) if other.any() else 0.0)
    if other.any():
        error = np.linalg.norm(x - integers * step) / np.linalg.norm(x)
        assert loss.relative_error == pytest.approx(error, rel=1e-6, abs=1e-9)
    assert loss.largest == pytest.approx(np.abs(x).max(initial=0))
    assert (none.to_zero, none.relative_error, zeros.to_zero, zeros.relative_error) == (0, 0, 0, 0)
    assert none.better_clip == zeros.better_clip == clip


def test_updates_of_1e_5_vanish_at_clip_1_and_not_at_the_bound_that_is_proposed():
    update = {"w": np.random.default_rng(1).normal(0, 1e-5, 5000).astype(np.float32)}
    (loss,) = rounding_losses(Layout.of(update, clip=1.0, weight_cap=1), update, 1, 16)
    assert loss.to_zero > 0.8
    (better,) = rounding_losses(Layout.of(update, clip=loss.better_clip, weight_cap=1), update, 1, 16)
    assert better.to_zero < 0.01
    assert better.relative_error < 0.01


@given(st.floats(1e-28, 1e28))
def test_a_proposed_bound_is_one_that_people_read_and_leaves_room(largest):
    bound = better_clip(largest)
    assert 4 * largest * (1 - 1e-9) <= bound <= 10.1 * largest
    assert f"{bound:e}"[0] in "125"
    assert bound == float(f"{bound:.0e}")
