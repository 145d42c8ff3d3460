"""Plans that split keys: what is in them, what they refuse, and that they are filled up far enough."""

from __future__ import annotations

import json

import numpy as np
import pytest

from he_agg.errors import PlanError, Reason
from he_agg.plan.hybrid_parameters import KEY_SECTION, HybridParameters
from he_agg.plan.plan import KEYS, LEAST_SPLIT_COEFFICIENTS, UNNOTICED_LOG2, Plan, PublicPlan
from he_agg.plan.security import KEY_LAW_SOURCE
from tests.support.federation import plan_of


def split_plan(n_values=5, **options):
    return plan_of(n_values, codec="hybrid", keys="split", **{"min_sites": 3, **options})


def test_a_plan_that_splits_keys_has_no_section_for_them_and_is_filled_up():
    shared, split = (plan_of(codec="hybrid", keys=keys, min_sites=3).public for keys in KEYS)
    assert shared.sections[0].name == KEY_SECTION
    assert KEY_SECTION not in [section.name for section in split.sections]
    assert {section.residues for section in split.sections} == {LEAST_SPLIT_COEFFICIENTS}
    assert isinstance(split.parameters, HybridParameters)
    assert split.values == LEAST_SPLIT_COEFFICIENTS * split.parameters.packing
    big = [plan_of(70_000, codec="hybrid", keys=keys, min_sites=3).public for keys in KEYS]
    assert big[0].values == big[1].values == 70_002
    assert big[0].sections[1:] == big[1].sections
    assert big[0].wire_bytes - big[1].wire_bytes == big[0].places[0].wire_bytes


def test_plans_that_differ_in_keys_alone_have_ids_that_differ():
    shared, split = (plan_of(70_000, codec="hybrid", keys=keys, min_sites=3) for keys in KEYS)
    assert shared.plan_id != split.plan_id
    assert not shared.public.splits_keys
    assert split.public.splits_keys


def test_it_reads_back_and_a_changed_word_is_refused():
    plan = split_plan()
    assert Plan.parse(plan.encode()) == plan
    for keys in ("shared", "halved", ""):
        document = json.loads(plan.encode())
        document["public"]["keys"] = keys
        with pytest.raises(PlanError):
            PublicPlan.from_json(document["public"])


def test_a_plan_that_is_not_filled_up_is_refused():
    plan = split_plan()
    document = json.loads(plan.encode())
    short = plan.public.values - 1
    document["public"]["values"] = short
    with pytest.raises(PlanError, match=f"expected {plan.public.values} values, got {short}"):
        Plan.parse(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("options", "reason", "says"),
    [
        ({"codec": "ckks"}, Reason.BAD_PLAN, "no one-time keys"),
        ({"max_sites": 1560}, Reason.INSECURE_PARAMETERS, "3 to 1559"),
        ({"min_sites": 2}, Reason.INSECURE_PARAMETERS, "got 2 to 5"),
        ({"keys": "halved"}, Reason.BAD_PLAN, "shared, split"),
    ],
)
def test_what_cannot_be_split_is_refused(options, reason, says):
    with pytest.raises(PlanError, match=says) as caught:
        plan_of(**{"codec": "hybrid", "keys": "split", "min_sites": 3, **options})
    assert caught.value.reason == reason


@pytest.mark.parametrize("max_sites", [3, 31, 1559])
@pytest.mark.parametrize("value_bits", [2, 16, 24])
def test_it_says_what_security_is_left_where_all_sites_but_two_tell_all(max_sites, value_bits):
    facts = split_plan(max_sites=max_sites, value_bits=value_bits).explain()
    assert facts["keys"] == "split"
    assert facts["security_bits"] >= 128
    assert facts["security_source"] == KEY_LAW_SOURCE


@pytest.mark.parametrize("max_sites", [*range(3, 12), 16, 20, 31, 100, 1000])
def test_a_wrong_sum_of_keys_looks_like_honest_noise_to_nobody(max_sites):
    """The fewest coefficients that a split plan sends are enough, for any number of bits and of sites in a sum."""
    for value_bits in range(2, 25):
        parameters = HybridParameters.choose(2 ** (value_bits - 1) - 1, max_sites)
        assert parameters.unnoticed_log2(LEAST_SPLIT_COEFFICIENTS) < UNNOTICED_LOG2


def test_parameters_that_tell_a_wrong_sum_from_a_right_one_by_luck_are_refused():
    """What float64 may add up to over so many sites is then as large as half a step."""
    assert HybridParameters.choose(3, 1559).unnoticed_log2(LEAST_SPLIT_COEFFICIENTS) > UNNOTICED_LOG2
    with pytest.raises(PlanError, match="a wrong sum of keys"):
        split_plan(max_sites=1559, value_bits=3)


@pytest.mark.parametrize(("max_sites", "value_bits"), [(3, 2), (5, 16), (40, 16)])
def test_uniform_distances_are_told_from_noise_about_as_often_as_the_bound_says(max_sites, value_bits, rng):
    """With so few coefficients that it can be counted."""
    parameters = HybridParameters.choose(2 ** (value_bits - 1) - 1, max_sites)
    coefficients = next(v for v in range(10, 1000) if parameters.unnoticed_log2(v) < -3)
    half = parameters.delta // 2
    distances = rng.integers(-half, half, (4_000, coefficients), endpoint=True)
    near = np.abs(distances).max(axis=1) <= parameters.largest_distance(max_sites)
    near &= (distances**2).sum(axis=1) <= parameters.largest_square_sum(max_sites, coefficients)
    assert 2**-13 < near.mean() + 1 / 4_000 < 2**-3
