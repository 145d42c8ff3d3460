"""Regressions of awkward rows against statsmodels, scikit-learn and the conditions of a minimum, on the pooled rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import statsmodels.api as sm
from scipy.optimize import linprog
from sklearn.linear_model import LogisticRegression

from client_sdk import analytics
from tests.reference.hospitals import NoAnswerError, asked, awkward, refused

RULE = analytics.SmallCells(1)


def separable(x, y):
    """Whether a plane has all patients on their side, some of them off it: a linear program."""
    design = np.column_stack([np.ones(len(x)), x]) * (2 * y - 1)[:, None]
    scale = np.abs(design).max(axis=0)
    design = design / np.where(scale > 0, scale, 1)
    program = linprog(-design.sum(axis=0), A_ub=-design, b_ub=np.zeros(len(x)), bounds=[(-1, 1)] * design.shape[1])
    return program.status == 0 and -program.fun > 1e-7


def logistic(rng):
    n, d = int(rng.integers(0, 80 if rng.random() < 0.8 else 800)), int(rng.integers(1, 4))
    x = np.column_stack([awkward(rng, n, 0.01) for _ in range(d)]).reshape(n, d)
    if rng.random() < 0.6:
        x = rng.normal(0, float(rng.choice([0.01, 0.1, 1, 3])), (n, d)).clip(-9.9, 9.9)
    if rng.random() < 0.2 and d > 1:
        x[:, 1] = x[:, 0] + rng.normal(0, 10.0 ** -int(rng.integers(1, 8)), n)  # nearly dependent
    if rng.random() < 0.2:
        x[:, 0] += float(rng.choice([5, -5]))
    x = x.clip(-9.9, 9.9)
    odds = (x @ rng.normal(0, float(rng.choice([0.5, 2, 8])), d)) + float(rng.choice([0, 0, -3, -6]))
    y = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(int)
    l2 = float(rng.choice([0, 0, 0, 0.1, 1]))
    try:
        result, rows = asked(rng, analytics.LogisticRegression(d, l2=l2), x, y, by=y)
    except NoAnswerError as error:
        why_no_fit(error, x[error.rows], y[error.rows], l2)
        return
    x, y = x[rows], y[rows]
    assert result.n == len(y)
    if not l2:
        assert not separable(x, y)
    design = np.column_stack([np.ones(len(y)), x])
    coefficients = np.concatenate([[result.intercept], result.coefficients])
    if l2:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = LogisticRegression(C=1 / l2, tol=1e-14, max_iter=10_000, solver="newton-cholesky").fit(x, y)
        reference = np.concatenate([fit.intercept_, fit.coef_[0]])
        assert np.abs(coefficients - reference).max() <= 2e-6 * max(1, np.abs(reference).max())
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = sm.Logit(y, design).fit(method="newton", maxiter=200, tol=1e-14, disp=0)
    scale = np.maximum(1, np.abs(fit.params))
    assert (np.abs(coefficients - fit.params) <= 2e-6 * scale).all(), (coefficients, fit.params)
    assert np.allclose(result.errors, fit.bse, rtol=1e-4)
    assert np.allclose(result.p_values, fit.pvalues, rtol=1e-3, atol=1e-9)
    assert np.isclose(result.log_likelihood, fit.llf, rtol=1e-9)


def why_no_fit(error, x, y, l2):
    """Judge a refusal."""
    if not len(y):
        refused(error, True, "no patients")
    design = np.column_stack([np.ones(len(y)), x])
    if l2:
        refused(error, len(set(y.tolist())) == 1, "one outcome only: the intercept has no finite value")
    if np.linalg.matrix_rank(design) < design.shape[1]:
        refused(error, "depend" in error.message, "columns depend on each other")
    if separable(x, y):
        refused(error, True, "the features separate the outcomes")
    # Not separated, but so nearly that the smallest eigenvalue at the maximum is below what can be vouched for.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = sm.Logit(y, design).fit(method="newton", maxiter=500, tol=1e-12, disp=0)
    p = fit.predict(design)
    least = np.linalg.eigvalsh(design.T @ (design * (p * (1 - p))[:, None]))[0]
    refused(error, least < 1e-4, "nearly separated or nearly dependent")


def features(rng, n):
    """Awkward columns, some of them nearly alike; with their number."""
    d = int(rng.integers(1, 4))
    x = np.column_stack([awkward(rng, n, 0.01) for _ in range(d)]).reshape(n, d)
    if rng.random() < 0.6:
        x = rng.normal(0, float(rng.choice([0.1, 1, 3])), (n, d))
    if rng.random() < 0.2 and d > 1:
        x[:, 1] = x[:, 0] + rng.normal(0, 10.0 ** -int(rng.integers(1, 5)), n)
    if rng.random() < 0.2:
        x[:, 0] += float(rng.choice([5, -5]))
    return d, x.clip(-9.9, 9.9)


def all_zero_in_a_group(x, y):
    """Whether a direction is 0 where something is counted, and below 0 for some of the other rows: no maximum."""
    design = np.column_stack([np.ones(len(x)), x])
    scale = np.abs(design).max(axis=0)
    design = design / np.where(scale > 0, scale, 1)
    quiet, counted = design[y == 0], design[y > 0]
    equal = {"A_eq": counted, "b_eq": np.zeros(len(counted))} if len(counted) else {}
    program = (
        linprog(quiet.sum(axis=0), A_ub=quiet, b_ub=np.zeros(len(quiet)), bounds=[(-1, 1)] * design.shape[1], **equal)
        if len(quiet)
        else None
    )
    return program is not None and program.status == 0 and -program.fun > 1e-7


def poisson(rng):
    n = int(rng.integers(0, 80 if rng.random() < 0.8 else 800))
    d, x = features(rng, n)
    exposure = rng.lognormal(0, float(rng.choice([0, 1])), n).clip(0.01, 50)
    rates = np.exp((x @ rng.normal(0, 0.2, d) + float(rng.choice([0, 2, -2, -4]))).clip(-9, 5))
    y = rng.poisson(rates * exposure).clip(0, 50_000)
    weights = rng.integers(0, 4, n) if rng.random() < 0.3 else np.ones(n, dtype=int)
    l2 = float(rng.choice([0, 0, 0, 0.1, 1]))
    grid = analytics.Grid(1, 0, 3)
    question = analytics.PoissonRegression(
        d, l2=l2, exposure=(0.01, 50), largest_count=50_000, weights=grid, small_cells=RULE
    )
    try:
        result, rows = asked(rng, question, x, y, exposure, weights, by=y)
    except NoAnswerError as error:
        rows = error.rows[weights[error.rows] > 0]
        why_no_rates(error, x[rows], y[rows], exposure[rows], weights[rows], l2)
        return
    rows = rows[weights[rows] > 0]
    x, y, exposure, weights = x[rows], y[rows], exposure[rows], weights[rows]
    assert (result.n, result.weight) == (len(rows), weights.sum())
    design = np.column_stack([np.ones(len(y)), x])
    if not l2:
        assert not all_zero_in_a_group(x, y)
    beta = np.concatenate([[result.intercept], result.coefficients])
    exact, hessian = by_newton(design, y, np.log(exposure), weights, np.r_[0.0, np.full(d, l2)], beta)
    assert np.abs(beta - exact).max() <= 1e-6
    assert np.allclose(result.errors, np.sqrt(np.diag(np.linalg.inv(hessian))), rtol=1e-4)
    if l2:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sm.GLM(y, design, family=sm.families.Poisson(), exposure=exposure, freq_weights=weights)
        fit = model.fit(start_params=exact, tol=1e-14)
    assert np.abs(beta - fit.params).max() <= 2e-6 * max(1, np.abs(fit.params).max())
    assert np.allclose(result.p_values, fit.pvalues, rtol=1e-3, atol=1e-9)
    assert np.isclose(result.log_likelihood, fit.llf, rtol=1e-9, atol=1e-6)
    assert np.isclose(result.deviance, fit.deviance, rtol=1e-6, atol=1e-6)


def by_newton(design, y, offset, weights, ridge, start):
    """Step to the maximum from nearby, in extended precision where NumPy has it."""
    wide = np.longdouble
    beta, design = start.astype(wide), design.astype(wide)
    for _ in range(4):
        mean = np.exp(design @ beta + offset.astype(wide))
        gradient = design.T @ (weights * (y - mean)) - ridge * beta
        hessian = ((design.T * (weights * mean)) @ design + np.diag(ridge)).astype(float)
        beta = beta + np.linalg.solve(hessian, gradient.astype(float))
    return beta.astype(float), hessian


def why_no_rates(error, x, y, exposure, weights, l2):
    """Judge a refusal."""
    if not len(y):
        refused(error, "expected patients" in error.message, "no patients")
    if not y.any():
        refused(error, "all outcomes are 0" in error.message, "no events")
    design = np.column_stack([np.ones(len(y)), x])
    ridge = np.diag(np.r_[0.0, np.full(x.shape[1], l2)])
    first = (design.T * (weights * exposure)) @ design + ridge
    if "depend" in error.message:
        refused(error, np.linalg.eigvalsh(first)[0] <= 1e-3, "columns depend on each other")
    if not l2 and all_zero_in_a_group(x, y):
        refused(error, True, "no events in a group")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = sm.GLM(y, design, family=sm.families.Poisson(), exposure=exposure, freq_weights=weights).fit()
    mean = fit.predict(design, exposure=exposure)
    least = np.linalg.eigvalsh((design.T * (weights * mean)) @ design + ridge)[0]
    refused(error, least < 1e-3 * max(1.0, float((weights * mean).max())), "nearly no events in a group")


def linear(rng):
    """Exact, so against exact arithmetic where columns are nearly alike, and against statsmodels elsewhere."""
    n, d = int(rng.integers(0, 60)), int(rng.integers(1, 4))
    step = float(rng.choice([1, 0.1, 0.5]))
    x = np.column_stack([awkward(rng, n, step) for _ in range(d)]).reshape(n, d)
    if rng.random() < 0.2 and d > 1:
        x[:, 1] = x[:, 0] + step * (rng.random(n) < 0.3)
    x += step * float(rng.choice([0, 0, 2**20]))
    y = awkward(rng, n, step)
    weights = rng.integers(0, 4, n) if rng.random() < 0.3 else np.ones(n, dtype=int)
    grid = analytics.Grid(step, -2000 * step, (2**20 + 2000) * step)
    question = analytics.LinearRegression([grid] * d, grid, weights=analytics.Grid(1, 0, 3), small_cells=RULE)
    try:
        result, rows = asked(rng, question, x, y, weights, by=y)
    except NoAnswerError as error:
        rows = error.rows[weights[error.rows] > 0]
        whole = np.rint(np.column_stack([np.ones(len(rows)) * step, x[rows]]) / step)
        whole[:, 1:] -= whole[:1, 1:] if len(rows) else 0  # exact, and ranks stay
        short = np.linalg.matrix_rank(whole) < d + 1 if len(rows) else True
        refused(error, short or weights[rows].sum() <= d + 1 or len(rows) <= d + 1, "fewer rows than columns tell")
        return
    rows = rows[weights[rows] > 0]
    x, y, weights = x[rows], y[rows], weights[rows]
    shift = x[0]
    design = sm.add_constant(np.rint((x - shift) / step) * step, has_constant="add")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = sm.WLS(y, design, weights=weights).fit()
        repeated = sm.OLS(np.repeat(y, weights), np.repeat(design, weights, axis=0)).fit()
    scale = max(1.0, float(np.abs(fit.params).max()))
    condition = np.linalg.cond(design)
    off = 1e-13 * condition * max(scale, float(np.abs(y).max(initial=0)))
    assert np.abs(result.coefficients - fit.params[1:]).max() <= off
    assert abs(result.intercept + shift @ result.coefficients - fit.params[0]) <= off + 1e-9 * scale * np.abs(x).max()
    if repeated.ssr > 1e-9 * float(np.abs(y).max(initial=0)) ** 2:
        assert np.allclose(result.errors[1:], repeated.bse[1:], rtol=1e-6)
        assert np.allclose(result.p_values[1:], repeated.pvalues[1:], rtol=1e-4, atol=1e-9)
        assert np.isclose(result.deviance, repeated.ssr, rtol=1e-6)
        assert np.isclose(result.r_squared, repeated.rsquared, rtol=1e-6, atol=1e-9)


def alike(x):
    """Whether a combination of columns is nearly constant; a column that is leaves a lasso, and matters not."""
    away = x - x.mean(axis=0)
    spread = np.sqrt((away**2).sum(axis=0))
    away = away[:, spread > 0] / spread[spread > 0]
    return bool(away.shape[1]) and np.linalg.eigvalsh(away.T @ away)[0] < 1e-4


def elastic_net(rng):
    """Whatever family: the gradient is at its threshold where a coefficient is not 0, within it elsewhere."""
    n = int(rng.integers(20, 200))
    d, x = features(rng, n)
    x = np.rint(x * 1000) / 1000
    eta = x @ rng.normal(0, 0.3, d)
    l1, l2 = float(rng.choice([0.3, 3, 30, 300])), float(rng.choice([0, 0, 2]))
    kind = int(rng.integers(0, 3))
    question: Any
    if kind == 0:
        y = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(float)
        question = analytics.LogisticRegression(d, l1=l1, l2=l2, small_cells=RULE)
    elif kind == 1:
        y = rng.poisson(np.exp(eta.clip(-5, 5))).astype(float)
        question = analytics.PoissonRegression(d, l1=l1, l2=l2, small_cells=RULE)
    else:
        y = np.rint(eta + rng.normal(0, 3, n))
        grid = analytics.Grid(0.001, -1000, 1000)
        question = analytics.LinearRegression([grid] * d, grid, l1=l1, l2=l2, small_cells=RULE)
    try:
        result, rows = asked(rng, question, x, y, by=y)
    except NoAnswerError as error:
        own = y[error.rows]
        refused(
            error, len(set(own.tolist())) < 2 or (not l2 and alike(x[error.rows])), "outcomes same, or columns alike"
        )
    x, y = x[rows], y[rows]
    eta = x @ result.coefficients + result.intercept
    mean = (1 / (1 + np.exp(-eta)), np.exp(eta), eta)[kind]
    slope = np.column_stack([np.ones(len(y)), x]).T @ (y - mean)
    slope[1:] -= l2 * result.coefficients
    allowed = 1e-9 * len(y) * max(1.0, float(np.abs(x).max())) ** 2 * max(1.0, float(np.abs(y).max()))
    thresholds, active = l1 * np.sign(result.coefficients), result.coefficients != 0
    assert abs(slope[0]) <= allowed
    assert (np.abs(slope[1:] - thresholds)[active] <= allowed).all()
    assert (np.abs(slope[1:])[~active] <= l1 + allowed).all()


CASES = {f.__name__: f for f in (logistic, poisson, linear, elastic_net)}
