"""Scores on awkward predictions against scikit-learn's on the pooled patients, through the integers of a plan."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score, roc_auc_score

from client_sdk.training import BinaryScores, ClassCounts, MeanLoss, training_plan
from client_sdk.training.evaluation import LOSS_UNIT, encode_counts, summed_counts
from he_agg import dequantize, quantize
from tests.reference.hospitals import dealt, dressed


def summed(rng, evaluation, answers):
    """The scores from each hospital's answer, through counts, digits, weights and integers, few bits or many."""
    bits, cap = [(16, 2048), (24, 10_000), (12, 100), (8, 1)][int(rng.integers(0, 4))]
    plan = training_plan("x", {"w": 1.0}, clip=1.0, weight_cap=cap, max_sites=5, evaluation=evaluation, value_bits=bits)
    zeros = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in plan.layout.tensors}
    total = np.zeros(plan.public.values, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for answer in answers:
            weight = int(rng.integers(1, cap + 1))
            sent = zeros | encode_counts(plan, evaluation, evaluation.count(answer), weight)
            total += quantize(plan, sent, weight).values
        mean = dequantize(plan, total, len(answers))
    return evaluation.metrics(summed_counts(plan, mean, evaluation))


def probabilities(rng, n):
    """Of an outcome: constant, tied, certain, rare, or plain; sometimes in single precision."""
    kind = rng.integers(0, 6)
    if kind == 0:
        p = np.full(n, rng.choice([0.5, 0.0, 1.0, 0.003]))
    elif kind == 1:
        p = rng.choice([0.1, 0.5, 0.9], n)
    elif kind == 2:
        p = rng.choice([0.0, 1.0, 0.5, 1e-300, 1 - 1e-16], n)
    elif kind == 3:
        p = 1 / (1 + np.exp(-rng.normal(-6, 1, n)))
    else:
        p = 1 / (1 + np.exp(-rng.normal(0, float(rng.choice([0.01, 1, 10])), n)))
    return p.astype(np.float32).astype(np.float64) if rng.random() < 0.3 else p


def same(got, wanted):
    assert (np.isnan(got) and np.isnan(wanted)) or abs(got - wanted) <= 1e-12, (got, wanted)


def ratio(part, whole):
    return part / whole if whole else np.nan


def binary(rng):
    n = int(rng.integers(0, 200))
    p = probabilities(rng, n)
    y = (
        (rng.random(n) < rng.choice([0, 0.01, 0.5, 1])).astype(int)
        if rng.random() < 0.5
        else (rng.random(n) < p).astype(int)
    )
    shares = dealt(rng, n, by=y)
    evaluation = BinaryScores(int(rng.choice([2, 64, 1024])))
    found = summed(rng, evaluation, [(dressed(rng, y[s]), dressed(rng, p[s])) for s in shares])
    table = confusion_matrix(y, p >= 0.5, labels=[0, 1]) if n else np.zeros((2, 2), int)
    assert found["confusion"] == table.tolist()
    assert found["n"] == n
    same(found["accuracy"], accuracy_score(y, p >= 0.5) if n else np.nan)
    same(found["sensitivity"], ratio(table[1, 1], table[1].sum()))
    same(found["specificity"], ratio(table[0, 0], table[0].sum()))
    if n:
        clipped = np.clip(p, 1e-12, None)
        wanted = -np.log(np.where(y == 1, clipped, np.clip(1 - p, 1e-12, None))).sum() / n
        # Each hospital's sum is rounded once.
        assert abs(found["loss"] - wanted) <= len(shares) * LOSS_UNIT / 2 / n + 1e-9
        inner = np.clip(p, 1e-12, 1 - 1e-12)
        if 0 < y.mean() < 1 and (inner == p).all():
            assert abs(found["loss"] - log_loss(y, p)) <= len(shares) * LOSS_UNIT / 2 / n + 1e-9
    if n and 0 < y.mean() < 1:
        assert abs(found["auc"] - roc_auc_score(y, p)) <= found["auc_error"] + 1e-12
    else:
        assert np.isnan(found["auc"])


def several(rng):
    n, k = int(rng.integers(0, 150)), int(rng.integers(2, 6))
    y = rng.integers(0, int(rng.integers(1, k + 1)), n)
    shares = dealt(rng, n, by=y)
    p = rng.dirichlet(np.full(k, float(rng.choice([0.05, 1.0]))), n).reshape(n, k)
    with_loss = rng.random() < 0.7
    answers = [(dressed(rng, y[s]), p[s] if with_loss else dressed(rng, p[s].argmax(axis=1))) for s in shares]
    found = summed(rng, ClassCounts(k), answers)
    chosen = p.argmax(axis=1)
    table = confusion_matrix(y, chosen, labels=range(k)) if n else np.zeros((k, k), int)
    assert found["confusion"] == table.tolist()
    same(found["accuracy"], accuracy_score(y, chosen) if n else np.nan)
    for c in range(k):
        wanted = recall_score(y, chosen, labels=[c], average=None, zero_division=0)[0] if (y == c).any() else np.nan
        same(found["recall"][c], wanted)
    if not with_loss or not n:
        assert np.isnan(found["loss"])
        return
    wanted = -np.log(np.clip(p[np.arange(n), y], 1e-12, 1)).mean()
    assert abs(found["loss"] - wanted) <= len(shares) * LOSS_UNIT / 2 / n + 1e-9


def mean_loss(rng):
    hospitals = int(rng.integers(2, 6))
    patients = rng.integers(0, 500, hospitals)
    losses = rng.lognormal(0, 3, hospitals) * rng.choice([-1, 1], hospitals, p=[0.2, 0.8])
    losses[patients == 0] = np.nan  # the mean of nobody
    found = summed(rng, MeanLoss(), list(zip(losses.tolist(), patients.tolist(), strict=True)))
    assert found["n"] == patients.sum()
    if not patients.sum():
        assert np.isnan(found["loss"])
        return
    wanted = np.average(np.nan_to_num(losses), weights=patients)
    assert (
        abs(found["loss"] - wanted)
        <= hospitals * LOSS_UNIT / 2 / patients.sum() + 1e-12 * abs(losses[patients > 0]).max()
    )


CASES = {f.__name__: f for f in (binary, several, mean_loss)}
