"""A proposal fits the example it was made from; what is given stays, and is answered with a better bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from he_agg import Plan
from he_agg.errors import InputError, PlanError, Reason
from he_agg.plan.fixedpoint import quantize
from he_agg.plan.proposal import propose

RNG = np.random.default_rng(3)
UPDATE: dict[str, Any] = {
    "first": RNG.normal(0, 0.3, (20, 4)).astype(np.float32),
    "layer21": RNG.normal(0, 1e-4, 4000).astype(np.float32),
    "frozen": np.zeros(7),
}


def test_each_tensor_gets_a_bound_of_its_own_and_little_is_lost():
    proposal = propose(UPDATE, 412)
    clips = {spec.name: spec.clip for spec in proposal.layout.tensors}
    largest = {name: np.abs(UPDATE[name]).max() for name in ("first", "layer21")}
    assert all(2 * largest[name] <= clips[name] <= 5 * largest[name] for name in largest)
    assert clips["frozen"] == clips["first"]
    assert (proposal.layout.weight_cap, proposal.value_bits) == (1000, 16)
    assert max(one.relative_error for one in proposal.found) <= 0.01
    assert not any("warning" in row for row in proposal.rows)
    plan = Plan.create("test", proposal.layout, max_sites=8, value_bits=proposal.value_bits)
    quantize(plan, UPDATE, 412)  # nothing is beyond a bound


def test_a_bound_that_is_given_stays_and_is_answered_with_a_better_one():
    proposal = propose(UPDATE, 412, clip=2.0)
    assert {spec.clip for spec in proposal.layout.tensors} == {2.0}
    assert proposal.value_bits > 16
    warning = propose(UPDATE, 412, clip=2.0, value_bits=16).rows[-1]
    assert "'layer21': 53 % of its entries that are not 0 round to 0" in warning
    assert "better: clip 0.001 instead of 2" in warning


def test_what_cannot_be_an_example_is_refused():
    def reason(update, weight=1, **given):
        with pytest.raises((InputError, PlanError)) as caught:
            propose(update, weight, **given)
        return caught.value.reason

    assert reason({"w": np.array([1.0, np.nan])}) == Reason.NON_FINITE
    assert reason({"w": np.ones(3)}, 500, weight_cap=400) == Reason.WEIGHT_OUT_OF_RANGE
    assert reason({"w": np.ones(3)}, 0) == Reason.WEIGHT_OUT_OF_RANGE
    assert reason({"w": np.ones(3, np.int64)}) == Reason.BAD_PLAN
    assert reason({"w": np.array(["a"])}) == Reason.BAD_PLAN
    assert reason({}) == Reason.BAD_PLAN


@pytest.mark.parametrize(("weight", "cap"), [(1, 2), (100, 200), (412, 1000), (30_000, 100_000)])
def test_the_weight_cap_has_room_for_twice_the_weight(weight, cap):
    assert propose({"w": np.ones(3)}, weight).layout.weight_cap == cap
