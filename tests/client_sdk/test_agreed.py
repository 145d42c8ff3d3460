"""What sites agree on has one form: 1 and 1.0 are one question."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client_sdk import analytics as typed
from client_sdk import compression as typed_compression
from client_sdk import training as typed_training
from he_agg import InputError

compression: Any = typed_compression
training: Any = typed_training
analytics: Any = typed  # other types than the declared ones are what this is about
GRID = analytics.Grid(1, 0, 9)
LOOSE = analytics.SmallCells(1)
SAME = [
    (lambda: analytics.KaplanMeier(1, 100), lambda: analytics.KaplanMeier(1.0, np.float32(100), groups=["all"])),
    (lambda: analytics.KaplanMeier(30, 1000), lambda: analytics.KaplanMeier(30, 1020)),
    (
        lambda: analytics.Moments([GRID]),
        lambda: analytics.Moments((analytics.Grid(1.0, -0.0, 9.0),)),
    ),
    (lambda: analytics.LogisticRegression(2, l2=0), lambda: analytics.LogisticRegression(2.0, 10, 0.0)),
    (lambda: analytics.Histogram([0, 1, 2]), lambda: analytics.Histogram(np.array([0.0, 1, 2]))),
    (lambda: analytics.Counts({"a": [1, 2]}), lambda: analytics.Counts({"a": np.array([1.0, 2.0])})),
    (
        lambda: analytics.Counts({"a": [1]}, analytics.SmallCells(3)),
        lambda: analytics.Counts({"a": (1,)}, analytics.SmallCells(3.0)),
    ),
    (
        lambda: analytics.KMeans(1, GRID, 2, initial=[[1, 2]]),
        lambda: analytics.KMeans(1, GRID, 2, initial=np.array([[1.0, 2.0]])),
    ),
    (
        lambda: analytics.Quantiles(GRID, [0.5, 1]),
        lambda: analytics.Quantiles(GRID, (np.float64(0.5), 1.0), bins=np.int32(64)),
    ),
    (
        lambda: analytics.PowerPCA(1, GRID, 2, max_rows=1e6),
        lambda: analytics.PowerPCA(1, GRID, 2),
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_question_however_its_numbers_are_written(one, other):
    assert one().question == other().question
    assert one() == other()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: training.FedAvg(lr=1), lambda: training.FedAvg(lr=1.0)),
        (lambda: training.FedAdam(beta1=0), lambda: training.FedAdam(beta1=np.float32(0))),
        (lambda: training.BinaryScores(64), lambda: training.BinaryScores(64.0)),
        (lambda: training.ClassCounts(3), lambda: training.ClassCounts(np.int64(3))),
        (lambda: compression.RandomMask(1), lambda: compression.RandomMask(np.float64(1.0))),
        (lambda: compression.LowRank(2), lambda: compression.LowRank(2.0)),
    ],
)
def test_settings_of_a_training_are_in_its_hash_in_one_form(one, other):
    assert repr(one()) == repr(other())


@pytest.mark.parametrize(
    "make",
    [
        lambda: analytics.KaplanMeier("1", 100),
        lambda: analytics.KaplanMeier(1, 100, groups="ab"),
        lambda: analytics.KaplanMeier(np.nan, 100),
        lambda: analytics.KaplanMeier(1, np.inf),
        lambda: analytics.LogisticRegression(2, l2=np.nan),
        lambda: analytics.LogisticRegression(2.5),
        lambda: analytics.Quantiles(GRID, bins=10**400),
        lambda: analytics.Moments([GRID], covariance=2),
        lambda: analytics.Histogram("12"),
        lambda: analytics.Grid(1, None, 9),
        lambda: analytics.Counts({"a": [[1]]}),
        lambda: analytics.Counts(["a"]),
    ],
)
def test_what_cannot_be_agreed_on_is_refused_with_a_sentence(make):
    with pytest.raises(InputError, match="expected"):
        make()
