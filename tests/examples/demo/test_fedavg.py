"""Averaging by sample counts, stopping together, and being better together."""

import random

import numpy as np
import pytest

from examples.demo.convergence import Convergence
from examples.demo.learner import CLIP, WEIGHT_CAP, Hospital, Recipe
from examples.demo.plaintext import fedavg, local_only, weighted_mean


def test_the_mean_is_weighted_by_sample_counts():
    updates = [({"a": np.array([1.0], np.float32)}, 1), ({"a": np.array([5.0], np.float32)}, 3)]
    mean = weighted_mean(updates)
    assert mean["a"].dtype == np.float64
    assert mean["a"].tolist() == [4.0]


def test_the_mean_is_accumulated_in_double_precision():
    updates = [({"a": np.array([x], np.float32)}, 1) for x in (1.0, 2.0**-30)]
    assert weighted_mean(updates)["a"].tolist() == [(1 + 2.0**-30) / 2]


def test_one_hot_updates_are_each_counted_once():
    updates = [({"a": np.eye(4, dtype=np.float32)[site]}, 1) for site in range(4)]
    assert weighted_mean(updates)["a"].tolist() == [0.25] * 4


@pytest.mark.parametrize(("updates", "says"), [([], "got none"), ([({"a": np.zeros(1, np.float32)}, 0)], "got 0")])
def test_no_update_and_no_patients_are_errors(updates, says):
    with pytest.raises(ValueError, match=says):
        weighted_mean(updates)


def rounds_of(rule: Convergence, norms: list[float]) -> int:
    model = {"a": np.array([10.0], np.float32)}
    for number, norm in enumerate(norms, start=1):
        if rule.observe({"a": np.array([norm])}, model):
            return number
    raise AssertionError("never stopped")


def test_it_stops_after_small_rounds_in_a_row_only():
    assert rounds_of(Convergence(0.01, patience=2), [1, 0.05, 1, 0.05, 0.05, 1]) == 5


def test_it_stops_at_the_last_round_in_any_case():
    assert rounds_of(Convergence(0.01, max_rounds=3), [1, 1, 1, 1]) == 3


def test_the_stopping_rule_does_not_depend_on_the_order_of_summation():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(1000) * 10.0 ** rng.integers(-8, 8, 1000)
    model = {"a": np.ones(1, np.float32)}
    norm = float(np.sqrt((values**2).sum()))
    shuffled = values.tolist()
    random.Random(0).shuffle(shuffled)
    for tolerance in (norm, np.nextafter(norm, 0), np.nextafter(norm, 2 * norm)):
        one, other = (Convergence(tolerance, patience=1) for _ in range(2))
        assert one.observe({"a": values}, model) == other.observe({"a": np.array(shuffled)}, model)


def test_training_is_a_pure_function_so_a_round_can_be_replayed(shares):
    hospital = Hospital(shares[2])
    start = hospital.params
    first, n = hospital.train()
    hospital.apply(first)
    assert hospital.round_number == 2
    replayed, m = Hospital(shares[2]).train(start, 1)
    assert n == m == len(shares[2].train)
    assert all(np.array_equal(first[name], replayed[name]) for name in first)
    later, _ = Hospital(shares[2]).train(start, 2)
    assert not np.array_equal(first["layer1.weight"], later["layer1.weight"])


def test_hospitals_that_apply_the_same_mean_hold_the_same_bits(shares):
    hospitals = [Hospital(share) for share in shares]
    mean = weighted_mean([hospital.train() for hospital in hospitals])
    for hospital in hospitals:
        hospital.apply(mean)
    for hospital in hospitals[1:]:
        for name, tensor in hospitals[0].params.items():
            assert tensor.dtype == np.float32
            assert tensor.tobytes() == hospital.params[name].tobytes()


@pytest.fixture(scope="module")
def federated(shares):
    return fedavg(shares)


def test_it_converges_within_the_planned_rounds(federated):
    assert 12 <= federated.rounds < Recipe().max_rounds


def test_the_clip_is_far_above_every_update_and_the_cap_above_every_hospital(federated, shares):
    assert federated.largest_update < 0.7 * CLIP
    assert max(len(share.train) for share in shares) < WEIGHT_CAP


def test_every_hospital_alone_is_worse_on_the_common_test_set(federated, shares):
    alone = local_only(shares, federated.rounds)
    assert list(alone) == [share.hospital for share in shares]
    assert all(run.rounds == federated.rounds for run in alone.values())
    assert max(run.score for run in alone.values()) < federated.score - 0.01
    assert alone["rural-hospital"].score < federated.score - 0.03
