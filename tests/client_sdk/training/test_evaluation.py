"""Counts through the fixed point: exact for any weight; scores against scikit-learn on the pooled data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, log_loss, roc_auc_score

from client_sdk.training import BinaryScores, ClassCounts, EarlyStopping, MeanLoss, simulate, train, training_plan
from client_sdk.training.agreement import SIGNS, check_agreement, model_hash, signs_of
from client_sdk.training.evaluation import MAX_CELL, MAX_COUNT, encode_counts, summed_counts
from he_agg import dequantize, quantize
from he_agg.errors import InputError, PlanError, ProtocolError
from tests.support.regression import evaluate_for, fit_for, model, plan_for


def total(plan, sites, rounding="nearest"):
    """The mean of what several sites would send: [(tensors, weight)]."""
    zeros = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in plan.layout.tensors}
    each = [quantize(plan, zeros | t, w, rounding=rounding).values for t, w in sites]
    return dequantize(plan, np.sum(each, axis=0), len(sites))


@given(st.data(), st.sampled_from([(8, 1), (8, 100), (12, 2047), (16, 1), (16, 2048), (16, 32767), (24, 10**6)]))
def test_any_counts_at_any_weights_are_summed_exactly(data, sizes):
    bits, cap = sizes
    evaluation = ClassCounts(2)
    plan = training_plan("x", {"w": 1.0}, clip=1.0, weight_cap=cap, max_sites=5, evaluation=evaluation, value_bits=bits)
    counts = st.lists(st.integers(-MAX_CELL, MAX_CELL), min_size=4, max_size=4)
    totals = st.integers(-MAX_COUNT, MAX_COUNT)
    sites = data.draw(st.lists(st.tuples(counts, totals, st.integers(1, cap)), min_size=2, max_size=5))
    sent = []
    for values, loss, weight in sites:
        c = {"confusion": np.array(values).reshape(2, 2), "loss": np.array(loss), "scored": np.array(values[1])}
        sent.append((encode_counts(plan, evaluation, c, weight), weight))
    sums = summed_counts(plan, total(plan, sent), evaluation)
    assert sums["confusion"].reshape(-1).tolist() == [sum(v[i] for v, _, _ in sites) for i in range(4)]
    assert int(sums["loss"]) == sum(loss for _, loss, _ in sites)


def test_binary_scores_are_those_of_the_pooled_patients(rng):
    y, p = rng.integers(0, 2, 500), rng.random(500)
    p = np.clip(0.7 * p + 0.3 * y * rng.random(500), 0, 1)
    evaluation = BinaryScores()
    parts = [evaluation.count((y[i::3], p[i::3])) for i in range(3)]
    found = evaluation.metrics({name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]})
    assert found["n"] == 500
    assert abs(found["auc"] - roc_auc_score(y, p)) <= found["auc_error"] < 0.01
    assert found["confusion"] == confusion_matrix(y, p >= 0.5).tolist()
    # Each of the three sums is rounded once, to a multiple of 2^-10.
    assert abs(found["loss"] - log_loss(y, np.clip(p, 1e-12, 1 - 1e-12))) <= 3 * 2**-11 / 500 + 1e-12
    binned = np.floor(np.log(p / (1 - p)) * 32)  # bins of a thirty-second of log odds
    assert abs(found["auc"] - roc_auc_score(y, binned)) < 1e-12


@pytest.mark.parametrize("prevalence", [0.5, 0.03, 0.003, 0.0003])
def test_the_auc_of_rare_outcomes_is_as_good_as_that_of_others(rng, prevalence):
    n = int(200 / prevalence)
    y = rng.random(n) < prevalence
    odds = np.log(prevalence / (1 - prevalence)) + rng.normal(0, 1, n) + 0.9 * y
    found = BinaryScores().metrics(BinaryScores().count((y, 1 / (1 + np.exp(-odds)))))
    assert abs(found["auc"] - roc_auc_score(y, odds)) <= found["auc_error"] < 0.01


def test_a_half_is_taken_for_yes_whatever_a_logarithm_rounds():
    p = np.array([0.5, np.nextafter(0.5, 0), np.nextafter(0.5, 1), 0.0, 1.0, 5e-324])
    table = BinaryScores().metrics(BinaryScores().count((np.ones(6), p)))["confusion"]
    assert table == [[0, 0], [3, 3]]


def observed(rule, scores, **errors):
    memory, stops = {}, []
    for score in scores:
        memory, _, stop = rule.observe(memory, {"auc": score, "accuracy": score, **errors}, {}, {})
        stops.append(stop)
    return stops


def test_a_score_that_does_not_exist_stops_with_an_error():
    with pytest.raises(InputError, match="NaN") as caught:
        observed(EarlyStopping("auc"), [np.nan])
    assert "both outcomes" in caught.value.hint
    with pytest.raises(InputError, match="NaN"):
        observed(EarlyStopping("auc"), [0.5, 0.6, np.nan])


def test_training_does_not_stop_by_a_loss_that_nobody_has():
    """Classes instead of probabilities: it used to stop after its patience with the model that it began with."""
    plan = plan_for("x", evaluation=ClassCounts(2))

    def work(site, i):
        def evaluate(params):
            y, p = evaluate_for(i)(params)
            return y, p > 0.5

        with pytest.raises(InputError, match="early stopping: expected a score 'loss'") as caught:
            train(site, model(), fit_for(i), evaluate=evaluate, evaluation=ClassCounts(2), stopping=EarlyStopping())
        assert "accuracy" in caught.value.hint

    simulate(plan, ["a", "b", "c"], work)


def test_a_score_is_not_stopped_by_if_it_is_not_known_well_enough():
    scores = [0.5, 0.6, 0.61, 0.6, 0.6, 0.6]
    assert observed(EarlyStopping("auc"), scores, auc_error=0.008) == [False] * 5 + [True]
    assert observed(EarlyStopping("accuracy"), scores, auc_error=0.4)[-1]
    with pytest.raises(InputError, match=r"known to 0\.4 only") as caught:
        observed(EarlyStopping("auc"), scores, auc_error=0.4)
    assert "bins" in caught.value.hint
    memory, _, _ = EarlyStopping("auc").observe({}, {"auc": 0.79, "auc_error": 0.03}, {}, {})
    memory, best, _ = EarlyStopping("auc").observe(memory, {"auc": 0.78, "auc_error": 0.01}, {}, {})
    assert best, "what was not known to be better is not kept"
    assert observed(EarlyStopping("auc", min_delta=0.05), scores[:5], auc_error=0.04)[-1]


def test_class_counts_are_a_confusion_matrix(rng):
    y, p = rng.integers(0, 3, 200), rng.dirichlet(np.ones(3), 200)
    found = ClassCounts(3).metrics(ClassCounts(3).count((y, p)))
    assert found["confusion"] == confusion_matrix(y, p.argmax(axis=1), labels=range(3)).tolist()
    assert abs(found["loss"] - log_loss(y, p)) <= 2**-11 / 200 + 1e-12
    assert found["recall"][0] == found["confusion"][0][0] / sum(found["confusion"][0])


def test_a_loss_that_not_all_patients_have_is_none():
    """Classes have no log loss: 0.0 for them would look like the best loss there is."""
    counts = ClassCounts(2).count(([0, 1], [0, 0]))
    assert np.isnan(ClassCounts(2).metrics(counts)["loss"])
    assert ClassCounts(2).metrics(counts)["accuracy"] == 0.5
    with_loss = ClassCounts(2).count(([0], [[0.5, 0.5]]))
    assert np.isnan(ClassCounts(2).metrics({name: counts[name] + with_loss[name] for name in counts})["loss"])


def test_mean_loss_is_weighted_by_patients():
    counts = [MeanLoss().count((0.5, 10)), MeanLoss().count((1.0, 30))]
    found = MeanLoss().metrics({name: np.sum([c[name] for c in counts], axis=0) for name in counts[0]})
    assert found == {"loss": 0.875, "n": 40}
    assert MeanLoss().metrics(MeanLoss().count((np.nan, 0))) == pytest.approx({"loss": np.nan, "n": 0}, nan_ok=True)


@pytest.mark.parametrize(
    ("evaluation", "result"),
    [
        (MeanLoss(), (float("nan"), 5)),
        (BinaryScores(), ([0, 1], [0.2, np.nan])),
        (BinaryScores(), ([0, 1], [0.2, 1.2])),
        (BinaryScores(), ([0, 2], [0.2, 0.2])),
        (ClassCounts(2), ([0, 2], [0, 1])),
        (ClassCounts(2), ([0, 1], [[0.5, np.nan], [0.5, 0.5]])),
        (ClassCounts(2), ([0, 1], [0])),
        (ClassCounts(3), ([0, 3], [[0.5, 0.25, 0.25]] * 2)),
        (ClassCounts(3), ([0, 1], [[0.5, 0.5]] * 2)),
        (ClassCounts(2), ([0, 1], [[3.0, -1.0]] * 2)),  # logits
        (ClassCounts(2), ([0, 1], [[0.9, 0.9]] * 2)),
        (ClassCounts(2), [0, 1, 1]),
        (MeanLoss(), 0.5),
        (MeanLoss(), (0.5, 2.5)),
        (MeanLoss(), (0.5, -2)),
    ],
)
def test_what_cannot_be_counted_is_refused(evaluation, result):
    with pytest.raises(InputError) as caught:
        evaluation.count(result)
    assert caught.value.hint


def test_a_cap_beyond_the_values_is_refused_with_a_way_out():
    with pytest.raises(PlanError, match="at most 127") as caught:
        training_plan("x", {"w": 1.0}, clip=1, weight_cap=128, max_sites=2, evaluation=MeanLoss(), value_bits=8)
    assert "larger units" in caught.value.hint


def plan_of(bits=16, cap=2048):
    return training_plan("x", {"w": 1.0}, clip=1.0, weight_cap=cap, max_sites=6, value_bits=bits)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@given(st.lists(st.integers(1, 2048), min_size=2, max_size=6), st.sampled_from([4, 8, 16, 24]), st.data())
def test_agreement_is_never_denied_and_a_difference_that_can_show_is_seen_by_all(rounding, weights, bits, data):
    plan = plan_of(bits)
    here, there = model_hash({"w": np.zeros(1)}), model_hash({"w": np.ones(1)})
    for _ in range(10):
        check_agreement(plan, total(plan, [({SIGNS: signs_of(here)}, w) for w in weights], rounding), here, 1)
    odd = data.draw(st.integers(0, len(weights) - 1))
    mean = total(plan, [({SIGNS: signs_of(there if i == odd else here)}, w) for i, w in enumerate(weights)], rounding)
    if min(weights[odd], sum(weights) - weights[odd]) > (2 * len(weights) + 1) * 2048 / (2 * plan.public.magnitude):
        for digest in (here, there):
            with pytest.raises(ProtocolError, match="not"):
                check_agreement(plan, mean, digest, 1)


def test_a_site_that_was_not_in_the_round_sees_that_its_model_is_another():
    plan = plan_of()
    here, there = model_hash({"w": np.zeros(1)}), model_hash({"w": np.ones(1)})
    mean = total(plan, [({SIGNS: signs_of(there)}, 100), ({SIGNS: signs_of(there)}, 50)])
    with pytest.raises(ProtocolError, match="this site's model is not that of the others"):
        check_agreement(plan, mean, here, 1)


def test_the_hash_sees_names_dtypes_shapes_values_and_settings():
    base: dict[str, np.ndarray] = {"a": np.zeros((2, 3), np.float32), "b": np.ones(1)}
    others = [
        {"b": base["b"], "a": base["a"].T},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].astype(np.float64), "b": base["b"]},
        {"a": base["a"], "b": -base["b"]},
        {"a": -base["a"], "b": base["b"]},  # minus zero
    ]
    assert len({model_hash(tensors) for tensors in [base, *others]}) == 6
    assert model_hash(base) == model_hash(dict(reversed(base.items())))
    assert model_hash(base, "x", "y") != model_hash(base, "xy")
