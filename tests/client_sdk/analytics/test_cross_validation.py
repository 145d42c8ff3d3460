"""Penalties chosen by folds that hospitals draw by themselves: the same as pooled fits of the same folds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import linear_model
from sklearn.metrics import log_loss, mean_poisson_deviance
from sklearn.model_selection import PredefinedSplit

from client_sdk import analytics
from he_agg.errors import InputError
from tests.client_sdk.analytics.clinical import gbsg2, unlike, whas500
from tests.client_sdk.analytics.questions import LOOSE

pytestmark = pytest.mark.filterwarnings("ignore::client_sdk.analytics.SmallCellWarning")


def pooled(question, shares):
    """Rows of all hospitals, and their folds."""
    columns = [np.concatenate(parts) for parts in zip(*shares, strict=True)]
    return *columns, np.concatenate([question.folds_of(*share) for share in shares])


@pytest.mark.parametrize("table", [whas500, gbsg2])
@pytest.mark.parametrize(("hospitals", "ratio"), [(1, 1.0), (3, 0.5), (8, 1.0)])
def test_linear_regression_is_scikit_learns(rng, table, ratio, hospitals):
    """The years under observation; the size of a tumour."""
    x, event, *_, size = (column.round(3) for column in table())
    grid = analytics.Grid(0.001, -100, 500)
    question = analytics.CrossValidation(analytics.LinearRegression([grid] * 4, grid), ratio)
    shares = unlike(rng, hospitals, event, x, size)
    result = analytics.dry_run(question, shares)
    rows, outcomes, folds = pooled(question, shares)
    fit = linear_model.ElasticNetCV(
        l1_ratio=ratio, alphas=result.alphas, cv=PredefinedSplit(folds), tol=1e-14, max_iter=10**6
    ).fit(rows, outcomes)
    assert np.abs(result.held_out - fit.mse_path_).max() <= 1e-9
    assert result.alpha == result.alphas[np.argmin(result.deviance)]
    assert result.steps == 1
    chosen = linear_model.ElasticNet(alpha=result.alpha, l1_ratio=ratio, tol=1e-15, max_iter=10**6).fit(rows, outcomes)
    assert np.abs(result.fit.coefficients - chosen.coef_).max() <= 1e-9
    assert not result.path[0][1:].any() or np.abs(result.path[0][1:]).max() < 1e-4  # the first leaves none
    assert np.bincount(folds).min() >= len(folds) // 5 - hospitals


@pytest.mark.parametrize("table", [whas500, gbsg2])
def test_logistic_regression_is_scikit_learns(rng, table):
    x, event, *_ = table()
    alphas = (0.1, 0.02, 0.003)
    question = analytics.CrossValidation(analytics.LogisticRegression(4), 0.5, alphas, folds=3)
    shares = unlike(rng, 4, event, x, event)
    result = analytics.dry_run(question, shares)
    rows, outcomes, folds = pooled(question, shares)
    for i, alpha in enumerate(alphas):
        for k in range(3):
            own = folds != k
            fit = linear_model.LogisticRegression(
                C=1 / (alpha * own.sum()), l1_ratio=0.5, solver="saga", tol=1e-12, max_iter=100_000
            ).fit(rows[own], outcomes[own])
            deviance = 2 * log_loss(outcomes[~own], fit.predict_proba(rows[~own]))
            assert result.held_out[i, k] == pytest.approx(deviance, abs=1e-6)
    assert result.steps <= 10


@pytest.mark.parametrize("table", [whas500, gbsg2])
def test_rates(rng, table):
    x, event, years, *_ = table()
    model = analytics.PoissonRegression(4, exposure=(0.001, 20))
    question = analytics.CrossValidation(model, 0.0, count=4, folds=3)
    shares = unlike(rng, 3, event, x, event, years)
    result = analytics.dry_run(question, shares)
    rows, outcomes, exposure, folds = pooled(question, shares)
    for i, alpha in enumerate(result.alphas):
        for k in range(3):
            own = folds != k
            fit = linear_model.PoissonRegressor(
                alpha=alpha * own.sum() / exposure[own].sum(), tol=1e-12, solver="newton-cholesky"
            )
            fit.fit(rows[own], outcomes[own] / exposure[own], sample_weight=exposure[own])
            expected = fit.predict(rows[~own]) * exposure[~own]
            assert result.held_out[i, k] == pytest.approx(mean_poisson_deviance(outcomes[~own], expected), rel=1e-5)


@pytest.mark.parametrize("rule", ["best", "one_error"])
def test_the_chosen_fit_is_that_of_the_question_with_its_penalty(rng, rule):
    x, event, years = whas500()
    weights = rng.integers(0, 3, len(x))
    grid = analytics.Grid(1, 0, 5)
    shares = unlike(rng, 3, event, x, event, years, weights)
    model = analytics.PoissonRegression(4, exposure=(0.001, 20), weights=grid)
    result = analytics.dry_run(analytics.CrossValidation(model, 0.7, count=6, rule=rule), shares)
    again = analytics.PoissonRegression(4, exposure=(0.001, 20), weights=grid, l1=result.l1, l2=result.l2)
    alone = analytics.dry_run(again, shares)
    assert np.abs(result.fit.coefficients - alone.coefficients).max() <= 1e-8
    assert result.fit.deviance == pytest.approx(alone.deviance, rel=1e-8)
    assert (result.n, result.fit.weight) == ((weights > 0).sum(), weights.sum())
    least, limit = result.deviance.min(), result.deviance.min() + result.error[result.deviance.argmin()]
    allowed = result.deviance <= (limit if rule == "one_error" else least)
    assert result.alpha == result.alphas[allowed].max()


def test_folds_depend_on_nothing_but_a_hash(rng):
    """Even, others for another seed, and not where small hospitals are all in one fold."""
    question = analytics.CrossValidation(analytics.LogisticRegression(1), folds=4)
    x, y = rng.uniform(-5, 5, (103, 1)), np.tile([0, 1], 52)[:103]
    folds = question.folds_of(x, y)
    assert np.array_equal(folds, question.folds_of(x.tolist(), y.tolist()))
    assert sorted(np.bincount(folds).tolist()) == [25, 26, 26, 26]
    other = analytics.CrossValidation(analytics.LogisticRegression(1), folds=4, seed=1).folds_of(x, y)
    assert (folds != other).mean() > 0.5
    single = [int(question.folds_of(x[i : i + 1], y[i : i + 1])[0]) for i in range(103)]
    assert min(np.bincount(single, minlength=4)) > 10
    events = [np.mean([question.folds_of(x + i / 10, y)[y == 1] == 0]) for i in range(30)]
    assert 0.2 < np.mean(events) < 0.3


def test_small_folds_are_told_or_refused(rng):
    x, y = rng.normal(size=(60, 1)).clip(-5, 5), np.tile([0, 1], 30)
    rule = analytics.SmallCells(10, "suppress")
    strict = analytics.LogisticRegression(1, small_cells=rule)
    with pytest.raises(InputError, match="10 rows or more in each of 10 folds"):
        analytics.dry_run(analytics.CrossValidation(strict, folds=10), [(x, y)])
    loose = analytics.LogisticRegression(1, small_cells=LOOSE)
    with pytest.raises(InputError, match="folds, got 0"):
        analytics.dry_run(analytics.CrossValidation(loose, folds=61), [(x, y)])
    with pytest.raises(InputError, match="have none"):
        analytics.dry_run(analytics.CrossValidation(loose), [(x[:0], y[:0])] * 2)
    with pytest.raises(InputError, match="all outcomes are the same"):
        analytics.dry_run(analytics.CrossValidation(loose), [(x, y * 0)])
    grid = analytics.Grid(0.1, -9, 9)
    question = analytics.CrossValidation(analytics.LinearRegression([grid], grid, small_cells=rule), folds=9)
    with pytest.raises(InputError, match="10 rows or more"):
        analytics.dry_run(question, [(x, y)])


@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_columns_that_tell_nothing_leave_no_coefficient(ratio):
    """A constant's slope at the common mean is what was rounded; penalties as small as that would tell nothing."""
    x, y = np.full((60, 1), 0.22), np.tile([0, 2, 3], 20)
    question = analytics.CrossValidation(analytics.PoissonRegression(1, small_cells=LOOSE), ratio, count=3, folds=2)
    result = analytics.dry_run(question, [(x[:20], y[:20]), (x[20:], y[20:])])
    assert result.alphas[0] == pytest.approx(1 / ratio) or result.alphas[0] == 1.0
    assert np.abs(result.fit.coefficients).max() < 1e-9


def test_questions_that_make_no_sense():
    model: Any = analytics.LogisticRegression(1)
    for wrong in (
        {"model": analytics.LogisticRegression(1, l2=1)},
        {"model": analytics.Histogram((0, 1))},
        {"alphas": (0.0,)},
        {"alphas": (1.0, 1.0)},
        {"l1_ratio": 1.1},
        {"folds": 1},
        {"count": 1},
        {"count": 5000},
        {"smallest": 1.0},
        {"rule": "worst"},
    ):
        arguments: Any = {"model": model} | wrong
        with pytest.raises(InputError):
            analytics.CrossValidation(**arguments)
