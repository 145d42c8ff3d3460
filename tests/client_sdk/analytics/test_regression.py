"""Regressions of clinical tables at one to eight unlike hospitals equal the pooled fits of other software."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn import linear_model

from client_sdk import analytics
from client_sdk.analytics.regression.penalty import minimise
from client_sdk.analytics.regression.student import student_quantile, student_tail
from tests.client_sdk.analytics.clinical import flchain, gbsg2, unlike, whas500

BOUND = 1e-6
"""What the analyses promise; most of what follows is nearer by far."""

pytestmark = pytest.mark.filterwarnings("ignore::client_sdk.analytics.SmallCellWarning")
HOSPITALS = [1, 2, 3, 5, 8]


def coefficients(result):
    return np.concatenate([[result.intercept], result.coefficients])


def equal_to(result, fit, exact=BOUND):
    """Compare with a fit of statsmodels."""
    assert np.abs(coefficients(result) - fit.params).max() <= exact
    assert np.allclose(result.errors, fit.bse, rtol=BOUND)
    assert np.allclose(result.p_values, fit.pvalues, rtol=1e-5, atol=1e-12)
    assert np.abs(result.intervals() - fit.conf_int()).max() <= 4 * exact
    assert np.isclose(result.log_likelihood, fit.llf, rtol=1e-9)
    assert np.isclose(result.aic, fit.aic, rtol=1e-9)


@pytest.mark.parametrize("hospitals", HOSPITALS)
@pytest.mark.parametrize("table", [whas500, gbsg2, flchain])
def test_logistic_regression(rng, table, hospitals):
    x, event, *_ = table()
    result = analytics.dry_run(analytics.LogisticRegression(4), unlike(rng, hospitals, event, x, event))
    equal_to(result, sm.Logit(event, sm.add_constant(x)).fit(method="newton", tol=1e-14, disp=0))
    assert (result.n, result.n_sites, result.weight) == (len(x), hospitals, len(x))
    assert result.steps <= 8
    fit = linear_model.LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000, solver="newton-cholesky").fit(x, event)
    assert np.allclose(result.probability(x), fit.predict_proba(x)[:, 1], atol=BOUND)
    assert np.allclose(result.odds_ratios, np.exp(result.coefficients))
    assert (result.odds_ratio_intervals()[:, 0] < result.odds_ratios).all()


@pytest.mark.parametrize("hospitals", HOSPITALS)
@pytest.mark.parametrize("table", [whas500, gbsg2, flchain])
def test_poisson_regression_of_rates(rng, table, hospitals):
    x, event, years, *_ = table()
    question = analytics.PoissonRegression(4, exposure=(0.001, 20))
    result = analytics.dry_run(question, unlike(rng, hospitals, event, x, event, years))
    family = sm.families.Poisson()
    fit = sm.GLM(event, sm.add_constant(x), family=family, exposure=years).fit(tol=1e-14, tol_criterion="params")
    equal_to(result, fit)
    assert np.isclose(result.deviance, fit.deviance, rtol=1e-9)
    assert np.isclose(result.dispersion, fit.pearson_chi2 / fit.df_resid, rtol=1e-6)
    assert np.allclose(result.expected(x, years), fit.fittedvalues, rtol=1e-6)
    assert np.allclose(result.rate_ratio_intervals(), np.exp(fit.conf_int()[1:]), rtol=1e-5)
    assert result.steps <= 12


@pytest.mark.parametrize("hospitals", HOSPITALS)
def test_linear_regression(rng, hospitals):
    """Positive nodes and other columns on grids: the size of a tumour, by age."""
    x, event, years, size = gbsg2()
    grids = [analytics.Grid(step, -100, 100) for step in (0.1, 0.1, 1, 1)]
    question = analytics.LinearRegression(grids, analytics.Grid(1, 0, 500))
    result = analytics.dry_run(question, unlike(rng, hospitals, event, x, size))
    fit = sm.OLS(size, sm.add_constant(x)).fit()
    equal_to(result, fit, 1e-10)
    assert np.isclose(result.r_squared, fit.rsquared, rtol=1e-12)
    assert np.isclose(result.sigma**2, fit.scale, rtol=1e-12)
    assert result.df == fit.df_resid
    x, event, years = whas500()
    grids = [analytics.Grid(step, -100, 100) for step in (0.1, 1, 1e-6, 1)]
    question = analytics.LinearRegression(grids, analytics.Grid(1e-6, 0, 50))
    result = analytics.dry_run(question, unlike(rng, hospitals, event, x, years))
    equal_to(result, sm.OLS(np.round(years, 6), sm.add_constant(np.round(x, 6))).fit(), 1e-10)


def test_linear_regression_loses_no_digits_to_a_large_mean():
    """Where float64's normal equations have no digit left."""
    x = np.arange(20.0)[:, None] + 2**26
    y = 3 * x[:, 0] + np.tile([1, -1], 10)
    question = analytics.LinearRegression([analytics.Grid(1, 0, 2**27)], analytics.Grid(1, 0, 2**28))
    result = analytics.dry_run(question, [(x[:5], y[:5]), (x[5:], y[5:])])
    centred = x[:, 0] - x.mean()
    assert result.coefficients[0] == pytest.approx(centred @ y / (centred @ centred), rel=1e-12)


PENALTIES = [(1, 0.0, 5.0), (2, 4.0, 0.0), (3, 8.0, 2.0), (5, 30.0, 0.5), (8, 8.0, 2.0)]


@pytest.mark.parametrize("table", [whas500, gbsg2])
@pytest.mark.parametrize(("hospitals", "l1", "l2"), PENALTIES)
def test_penalised_logistic_regression_is_scikit_learns(rng, table, hospitals, l1, l2):
    x, event, *_ = table()
    question = analytics.LogisticRegression(4, l1=l1, l2=l2)
    result = analytics.dry_run(question, unlike(rng, hospitals, event, x, event))
    fit = linear_model.LogisticRegression(
        C=1 / (l1 + l2), l1_ratio=l1 / (l1 + l2), solver="saga", tol=1e-13, max_iter=100_000
    ).fit(x, event)
    assert np.abs(coefficients(result) - [*fit.intercept_, *fit.coef_[0]]).max() <= BOUND
    assert np.array_equal(result.coefficients == 0, fit.coef_[0] == 0)
    assert np.isnan(result.aic)
    assert np.isnan(result.errors).all() == (l1 > 0)
    assert result.steps <= 8  # as many as without a penalty


@pytest.mark.parametrize("table", [whas500, gbsg2])
@pytest.mark.parametrize(("hospitals", "l1", "l2"), PENALTIES)
def test_penalised_poisson_regression(rng, table, hospitals, l1, l2):
    """scikit-learn has a ridge; with a lasso the conditions of the minimum are looked at."""
    x, event, years, *_ = table()
    question = analytics.PoissonRegression(4, l1=l1, l2=l2, exposure=(0.001, 20))
    result = analytics.dry_run(question, unlike(rng, hospitals, event, x, event, years))
    slope = np.column_stack([np.ones(len(x)), x]).T @ (event - result.expected(x, years))
    slope[1:] -= l2 * result.coefficients
    assert abs(slope[0]) <= 1e-6
    active = result.coefficients != 0
    assert np.allclose(slope[1:][active], l1 * np.sign(result.coefficients[active]), atol=1e-6)
    assert (np.abs(slope[1:][~active]) <= l1 + 1e-6).all()
    if not l1:
        weighted = linear_model.PoissonRegressor(alpha=l2 / years.sum(), tol=1e-12, max_iter=10_000)
        weighted.fit(x, event / years, sample_weight=years)
        assert np.abs(coefficients(result) - [weighted.intercept_, *weighted.coef_]).max() <= 1e-5


@pytest.mark.parametrize("table", ["gbsg2", "whas500"])
@pytest.mark.parametrize(
    ("hospitals", "l1", "l2"), [(1, 0.0, 50.0), (2, 200.0, 0.0), (3, 200.0, 30.0), (5, 900.0, 1.0), (8, 20.0, 30.0)]
)
def test_penalised_linear_regression_is_scikit_learns(rng, table, hospitals, l1, l2):
    """The size of a tumour; the years under observation."""
    if table == "gbsg2":
        x, event, _, size = gbsg2()
    else:
        x, event, size = whas500()
        x, size = x.round(3), size.round(3)
    n = len(x)
    question = analytics.LinearRegression(
        [analytics.Grid(0.001, -100, 100)] * 4, analytics.Grid(0.001, 0, 500), l1=l1, l2=l2
    )
    result = analytics.dry_run(question, unlike(rng, hospitals, event, x, size))
    fit = (
        linear_model.ElasticNet(alpha=(l1 + l2) / n, l1_ratio=l1 / (l1 + l2), tol=1e-15, max_iter=10**6)
        if l1
        else linear_model.Ridge(alpha=l2)
    )
    fit.fit(x, size)
    assert np.abs(coefficients(result) - [fit.intercept_, *fit.coef_]).max() <= 1e-9
    assert np.array_equal(result.coefficients == 0, fit.coef_ == 0)
    assert np.isnan(result.errors).all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5])
def test_a_lasso_of_columns_nearly_alike_is_at_its_minimum(rng, distance, sign):
    """Where coordinate descent would crawl: correlations up to 0.99999999995."""
    x = rng.normal(0, 1, (200, 4))
    x[:, 1] = sign * x[:, 0] + distance * x[:, 1]
    y, n = x @ [1, 0.5, 0, 0.3] + rng.normal(0, 3, 200), 200
    gram, slope = x.T @ x, x.T @ y
    for l1 in (0.1, 3.0, 30.0):
        b, free = minimise(gram, slope, np.full(4, l1), np.zeros(4))
        left = slope - gram @ b
        assert (np.abs(left) <= l1 + 1e-7).all()
        assert np.allclose(left[b != 0], l1 * np.sign(b[b != 0]), atol=1e-7)
        again, _ = minimise(gram, slope, np.full(4, l1), rng.normal(0, 1, 4))
        assert np.allclose(b, again, atol=1e-12 * n / distance**2)
        assert (free | (b == 0)).all()


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_weights_are_repeated_rows(rng, step):
    """A row of weight 3 is three rows; rows of weight 0 are nobody's."""
    x, event, years = (column[:300] for column in whas500())
    times = rng.integers(0, 4, 300)
    grid = analytics.Grid(step, 0, 4)
    parts = unlike(rng, 4, event, x, event, times * step)
    kind: Any
    for kind in (analytics.LogisticRegression, analytics.PoissonRegression):
        result = analytics.dry_run(kind(4, weights=grid), parts)
        family = sm.families.Binomial() if kind is analytics.LogisticRegression else sm.families.Poisson()
        fit = sm.GLM(event, sm.add_constant(x), family=family, freq_weights=times * step).fit(tol=1e-14)
        equal_to(result, fit)
        assert (result.n, result.weight) == ((times > 0).sum(), times.sum() * step)
    if step == 1:
        grids = [analytics.Grid(1e-6, -100, 100)] * 4
        question = analytics.LinearRegression(grids, analytics.Grid(1e-6, 0, 50), weights=grid)
        result = analytics.dry_run(question, unlike(rng, 4, event, x, years, times))
        again = np.repeat(np.arange(300), times)
        equal_to(result, sm.OLS(years[again].round(6), sm.add_constant(x[again].round(6))).fit(), 1e-9)


def test_offsets(rng):
    x, event, _ = whas500()
    offset = rng.normal(0, 1, len(x)).clip(-3, 3)
    parts = unlike(rng, 3, event, x, event, offset)
    kind: Any
    for kind, family in (
        (analytics.LogisticRegression, sm.families.Binomial()),
        (analytics.PoissonRegression, sm.families.Poisson()),
    ):
        result = analytics.dry_run(kind(4, offset=3), parts)
        equal_to(result, sm.GLM(event, sm.add_constant(x), family=family, offset=offset).fit(tol=1e-14))


def test_large_counts_and_steep_rates(rng):
    """The first Newton step from 0 would go to e^400."""
    x = rng.uniform(-1, 1, (400, 2))
    y = rng.poisson(np.exp(6 + x @ [0.5, -2]))
    question = analytics.PoissonRegression(2, largest_count=10_000)
    result = analytics.dry_run(question, [(x[:7], y[:7]), (x[7:], y[7:])])
    equal_to(result, sm.GLM(y, sm.add_constant(x), family=sm.families.Poisson()).fit(tol=1e-14))
    assert result.steps < 15


@pytest.mark.parametrize("df", [1, 2, 3, 5.5, 30, 49, 51, 500, 10**6])
def test_students_distribution(df):
    from scipy.stats import t

    for x in (0, 0.1, 0.7, 1, 1.96, 3, 8, 30):
        assert student_tail(x, df) == pytest.approx(2 * t.sf(x, df), rel=1e-10)
        assert student_tail(-x, df) == student_tail(x, df)
    for p in (0.5, 0.9, 0.975, 0.9995):
        assert student_quantile(p, df) == pytest.approx(t.ppf(p, df), rel=1e-9, abs=1e-12)


def test_intervals_of_other_levels():
    x, event, _ = whas500()
    result = analytics.dry_run(analytics.LogisticRegression(4), [(x, event)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = sm.Logit(event, sm.add_constant(x)).fit(method="newton", tol=1e-14, disp=0)
    assert np.allclose(result.intervals(0.9), fit.conf_int(0.1), atol=BOUND)
