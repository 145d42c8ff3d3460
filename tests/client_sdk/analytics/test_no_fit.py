"""Data without a fit are answered by a sentence: separation, dependent columns, no events, nobody, small cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from client_sdk import analytics
from he_agg.errors import InputError
from tests.client_sdk.analytics.comparing import split
from tests.client_sdk.analytics.questions import LOOSE

SEEDS = st.integers(0, 2**32 - 1)


def shares_of(rng, *columns, parts=3):
    return [tuple(column[own] for column in columns) for own in split(rng, len(columns[0]), parts)]


def test_logistic_regression_halves_steps_that_overshoot():
    """Newton from 0 overshoots where one row is far out; without halving the loss would rise."""
    x = np.array([[1e-3]] * 30 + [[-1e-3]] * 30 + [[8.0], [9.0], [8.5]])
    y = np.array([1] * 29 + [0] * 30 + [1, 1, 0, 1])
    result = analytics.dry_run(analytics.LogisticRegression(1, small_cells=LOOSE), [(x[:20], y[:20]), (x[20:], y[20:])])
    p = result.probability(x)
    assert np.abs(np.column_stack([np.ones(63), x]).T @ (y - p)).max() < 1e-8


SEPARATED = {
    "line": (np.linspace(-1, 1, 20)[:, None], np.repeat([0, 1], 10)),
    "reported": (
        np.array(
            [[2.2, -1], [-0.5, 1.6], [0.8, 0.1], [0.2, 1.7], [0.2, -2], [1.7, 1.5], [-0.5, -0.6], [1.4, 0], [-0.2, 0]]
        ),
        np.array([1, 0, 0, 0, 1, 0, 1, 0, 1]),
    ),
    "quasi": (np.array([[-1.0], [0], [0], [0], [1], [2]]), np.array([0, 0, 1, 0, 1, 1])),
    "one outcome": (np.linspace(-1, 1, 20)[:, None], np.zeros(20, int)),
    "a category without events": (np.repeat([[1.0], [0.0]], [5, 30], axis=0), np.repeat([0, 1, 0], [5, 10, 20])),
}


@pytest.mark.parametrize("name", SEPARATED)
def test_separated_outcomes_are_explained(name):
    x, y = SEPARATED[name]
    shares = [(x[::2], y[::2]), (x[1::2], y[1::2])]
    with pytest.raises(InputError, match="separate") as caught:
        analytics.dry_run(analytics.LogisticRegression(x.shape[1], small_cells=LOOSE), shares)
    assert "l2" in caught.value.hint
    if name != "one outcome":
        result = analytics.dry_run(analytics.LogisticRegression(x.shape[1], l2=0.1, small_cells=LOOSE), shares)
        assert (result.errors > 0).all()


@given(seed=SEEDS)
def test_whatever_is_separable_is_refused(seed):
    """Rows on the right side of a plane, some of them on it; scaled and shifted so that rounding matters."""
    rng = np.random.default_rng(seed)
    d, n = int(rng.integers(1, 4)), int(rng.integers(4, 40))
    x = np.round(rng.normal(0, 1, (n, d)) * 10.0 ** rng.uniform(-1, 0.5), 1).clip(-9, 9)
    direction, offset = rng.integers(-3, 4, d), int(rng.integers(-2, 3))
    side = np.rint(x * 10) @ direction + 10 * offset
    assume(side.any())
    y = np.where(side == 0, rng.random(n) < 0.5, side > 0).astype(int)
    with pytest.raises(InputError, match=r"separate|depend"):
        analytics.dry_run(analytics.LogisticRegression(d, small_cells=LOOSE), shares_of(rng, x, y))


def test_columns_that_depend_on_each_other_are_explained(rng):
    x = rng.normal(0, 1, (60, 2)).clip(-3, 3)
    y = rng.integers(0, 2, 60)
    for dependent in (np.column_stack([x, x[:, 0] - x[:, 1]]), np.column_stack([x, np.ones(60)])):
        with pytest.raises(InputError, match="depend on each other"):
            analytics.dry_run(analytics.LogisticRegression(3, small_cells=LOOSE), [(dependent, y)])
    with pytest.raises(InputError, match="expected patients"):
        analytics.dry_run(analytics.LogisticRegression(1, small_cells=LOOSE), [([], [])] * 2)


GROUPS = np.repeat([[0.0], [1.0]], 30, axis=0)
COUNTS = {
    "all outcomes are 0": (GROUPS, np.zeros(60, int)),
    "all counts are 0 in a group": (GROUPS, np.repeat([2, 0], 30)),
    "depend on each other": (np.ones((60, 1)), np.repeat([2, 0], 30)),
    "expected patients": (np.empty((0, 1)), np.empty(0, int)),
}


@pytest.mark.parametrize("sentence", COUNTS)
def test_counts_without_a_fit_are_explained(sentence):
    x, y = COUNTS[sentence]
    shares = [(x[::2], y[::2]), (x[1::2], y[1::2]), (x[:0], y[:0])]
    with pytest.raises(InputError, match=sentence):
        analytics.dry_run(analytics.PoissonRegression(1), shares)
    if y.any():  # a ridge has a fit
        result = analytics.dry_run(analytics.PoissonRegression(1, l2=0.1), shares)
        assert np.isfinite(result.coefficients).all()


@given(seed=SEEDS)
def test_a_group_without_events_is_refused_however_it_is_coded(seed):
    """Counts of 0 wherever a plane is passed, on it anything: no coefficients have the largest likelihood."""
    rng = np.random.default_rng(seed)
    d, n = int(rng.integers(1, 4)), int(rng.integers(4, 40))
    x = np.round(rng.normal(0, 1, (n, d)) * 10.0 ** rng.uniform(-1, 0.5), 1).clip(-9, 9)
    side = (np.rint(x * 10) @ rng.integers(-3, 4, d) + 10 * int(rng.integers(-2, 3))).clip(0, None)
    assume(side.any())
    y = np.where(side > 0, 0, rng.poisson(2.0, n))
    x, y = np.concatenate([x[side == 0], x[side > 0]]), np.concatenate([y[side == 0], y[side > 0]])
    plane = np.concatenate([side[side == 0], side[side > 0]])
    x = np.column_stack([x, plane / 100]).clip(-9, 9)  # the direction: 0 where there are events, above where not
    with pytest.raises(InputError, match=r"all counts are 0|all outcomes are 0|depend"):
        analytics.dry_run(analytics.PoissonRegression(d + 1, small_cells=LOOSE), shares_of(rng, x, y))


def test_a_linear_regression_names_the_column_that_depends(rng):
    grid = analytics.Grid(1, -99, 99)
    x = rng.integers(-20, 20, (40, 2))
    y = rng.integers(0, 50, 40)
    for column, place in ((x[:, 0] - 2 * x[:, 1], 2), (np.full(40, 7), 2)):
        table = np.column_stack([x, column])
        with pytest.raises(InputError, match=f"feature {place} can be written"):
            analytics.dry_run(analytics.LinearRegression([grid] * 3, grid), shares_of(rng, table, y))
        fit = analytics.dry_run(analytics.LinearRegression([grid] * 3, grid, l2=1), shares_of(rng, table, y))
        assert np.isfinite(fit.coefficients).all()
    twice = np.column_stack([x[:, 0], x[:, 0]])
    with pytest.raises(InputError, match="not determined"):
        analytics.dry_run(analytics.LinearRegression([grid] * 2, grid, l1=1), [(twice, x[:, 0])])
    question = analytics.LinearRegression([grid], grid, small_cells=LOOSE)
    with pytest.raises(InputError, match="more rows than coefficients"):
        analytics.dry_run(question, [([[1], [2]], [1, 2])])
    with pytest.raises(InputError, match="have none"):
        analytics.dry_run(question, [([], [])] * 3)


def test_exact_fits_are_told_as_such():
    grid = analytics.Grid(1, 0, 99)
    x = np.arange(10)
    result = analytics.dry_run(analytics.LinearRegression([grid], grid, small_cells=LOOSE), [(x, 3 * x + 1)])
    assert (result.intercept, result.coefficients.tolist(), result.deviance, result.r_squared) == (1, [3], 0, 1)
    flat = analytics.dry_run(analytics.LinearRegression([grid], grid, small_cells=LOOSE), [(x, 0 * x + 4)])
    assert (flat.intercept, flat.coefficients.tolist()) == (4, [0])
    assert np.isnan(flat.r_squared)


def test_columns_that_few_rows_have_are_told_or_refused(rng):
    x = np.zeros((60, 2))
    x[:20, 0], x[:3, 1] = 1, 1
    y = np.tile([0, 1], 30)
    kind: Any
    for kind, name in ((analytics.LogisticRegression, "feature 1"), (analytics.PoissonRegression, "feature 1")):
        with pytest.warns(analytics.SmallCellWarning, match=name):
            analytics.dry_run(kind(2), shares_of(rng, x, y))
        rule = analytics.SmallCells(5, "suppress")
        with pytest.raises(InputError, match="no result was released"):
            analytics.dry_run(kind(2, small_cells=rule), shares_of(rng, x, y))
        analytics.dry_run(kind(1, small_cells=rule), shares_of(rng, x[:, :1], y))
        with pytest.raises(InputError, match="feature 0"):  # those that have it not are as few
            analytics.dry_run(kind(1, small_cells=rule), shares_of(rng, 1 - x[:, 1:], y))
    grid = analytics.Grid(1, 0, 1)
    with pytest.raises(InputError, match="feature 1"):
        analytics.dry_run(analytics.LinearRegression([grid] * 2, grid, small_cells=rule), shares_of(rng, x, y))


@pytest.mark.parametrize(
    ("question", "data", "sentence"),
    [
        (analytics.PoissonRegression(1), ([[1.0]], [1.5]), "whole numbers"),
        (analytics.PoissonRegression(1), ([[1.0]], [-1]), "whole numbers"),
        (analytics.PoissonRegression(1, largest_count=5), ([[1.0]], [6]), "0 to 5"),
        (analytics.PoissonRegression(1, exposure=(0.1, 10)), ([[1.0]], [1], [0.0]), "exposures"),
        (analytics.PoissonRegression(1, exposure=(0.1, 10)), ([[1.0]], [1]), "exposures"),
        (analytics.PoissonRegression(1, exposure=(0.1, 10)), ([[1.0]], [1], [1.0, 2.0]), "one per row"),
        (analytics.LogisticRegression(1, offset=2), ([[1.0]], [1], [3.0]), "offsets"),
        (analytics.LogisticRegression(1, weights=analytics.Grid(1, 0, 9)), ([[1.0]], [1], [10]), "weights"),
        (analytics.LogisticRegression(1), ([[1.0]], [1], [1]), r"2 column\(s\)"),
        (analytics.LinearRegression([analytics.Grid(1, 0, 9)], analytics.Grid(1, 0, 9)), ([1], [12]), "0 to 9"),
    ],
)
def test_rows_that_do_not_fit_are_refused(question, data, sentence):
    with pytest.raises(InputError, match=sentence):
        question.prepared(*data)


@pytest.mark.parametrize(
    "make",
    [
        lambda: analytics.PoissonRegression(0),
        lambda: analytics.PoissonRegression(1, largest_count=0),
        lambda: analytics.PoissonRegression(1, exposure=(0.0, 1.0)),
        lambda: analytics.PoissonRegression(1, exposure=(1.0, 2.0), offset=1),
        lambda: analytics.LogisticRegression(1, l1=-1),
        lambda: analytics.LogisticRegression(1, offset=31),
        lambda: analytics.LogisticRegression(1, weights=analytics.Grid(1, -1, 9)),
        lambda: analytics.LinearRegression([], analytics.Grid(1, 0, 9)),
        lambda: analytics.LinearRegression(
            [analytics.Grid(1, 0, 2**51)], analytics.Grid(1, 0, 9), weights=analytics.Grid(1, 0, 9)
        ),
    ],
)
def test_questions_that_make_no_sense(make):
    with pytest.raises(InputError):
        make()
