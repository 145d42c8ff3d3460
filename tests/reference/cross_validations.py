"""Penalties chosen by folds, on awkward rows: each fit of each fold by a solver that tries all signs.

With so few columns that all patterns of signs can be tried, the minimum is the one pattern under which Newton's method
ends within it: no descent by coordinates, and no sum that travelled.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from scipy.special import expit

from client_sdk import analytics
from tests.reference.hospitals import NoAnswerError, asked, awkward, dealt, refused
from tests.reference.regressions import RULE, alike, all_zero_in_a_group, separable

KINDS = ("logistic", "poisson", "linear")


def means(kind, eta):
    """Means and variances at linear predictors."""
    if kind == "linear":
        return eta, np.ones_like(eta)
    mean = expit(eta) if kind == "logistic" else np.exp(np.minimum(eta, 80))
    return mean, mean * (1 - mean) if kind == "logistic" else mean


def deviances(kind, y, eta):
    """Twice the loss of each row: its square in a linear regression."""
    if kind == "linear":
        return (y - eta) ** 2
    if kind == "logistic":
        return 2 * (np.logaddexp(0, eta) - y * eta)
    return 2 * (np.exp(np.minimum(eta, 80)) - y - y * (eta - np.log(np.where(y > 0, y, 1))))


def fitted(kind, design, y, weight, l1, l2):
    """The minimum of half the deviance with the penalty, the intercept first; None if no pattern of signs has one."""
    d = design.shape[1] - 1
    for signs in sorted(itertools.product((-1, 0, 1) if l1 else (1,), repeat=d), key=lambda s: sum(map(abs, s))):
        slope = np.array([0.0, *(l1 * s for s in signs)])
        ridge = np.array([0.0, *[l2] * d])
        free = np.array([True, *(s != 0 for s in signs)])
        beta = within(kind, design[:, free], y, weight, slope[free], ridge[free])
        if beta is None:
            continue
        whole = np.zeros(d + 1)
        whole[free] = beta
        left = design.T @ (weight * (y - means(kind, design @ whole)[0])) - ridge * whole
        if not l1:
            return whole
        right = all(s * b > 0 for s, b in zip(signs, whole[1:], strict=True) if s)
        if right and (np.abs(left[1:][~free[1:]]) <= l1 * (1 + 1e-9)).all():
            return whole
    return None


def within(kind, design, y, weight, slope, ridge):
    """Newton's method from the common mean, with steps halved: the minimum if signs were as given."""
    beta = np.zeros(design.shape[1])
    mean = weight @ y / weight.sum()
    beta[0] = {"linear": mean, "logistic": np.log(mean / (1 - mean)) if 0 < mean < 1 else 0}.get(
        kind, np.log(mean) if mean > 0 else 0
    )

    def value(at):
        return 0.5 * float(weight @ deviances(kind, y, design @ at)) + slope @ at + 0.5 * float(ridge @ at**2)

    for _ in range(100):
        mean, variance = means(kind, design @ beta)
        gradient = design.T @ (weight * (y - mean)) - slope - ridge * beta
        hessian = (design.T * (weight * variance)) @ design + np.diag(ridge)
        try:
            move = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            return None
        if np.abs(move).max() <= 1e-11 * max(1.0, np.abs(beta).max()):
            return beta + move
        share, here = 1.0, value(beta)
        with np.errstate(over="ignore", invalid="ignore"):  # far out, where it is not lower
            while not value(beta + share * move) <= here + 1e-12 * abs(here) and share > 1e-9:
                share /= 2
        beta = beta + share * move
    return beta if np.abs(move).max() <= 1e-8 * max(1.0, np.abs(beta).max()) else None


def cross_validation(rng):
    """Ridge, lasso and elastic net of each family, penalties given or found."""
    kind = KINDS[int(rng.integers(0, 3))]
    n, d, folds = int(rng.integers(0, 120)), int(rng.integers(1, 4)), int(rng.integers(2, 5))
    x = np.column_stack([awkward(rng, n, 0.01) for _ in range(d)]).reshape(n, d).clip(-9.9, 9.9)
    if rng.random() < 0.7:
        x = np.rint(rng.normal(0, float(rng.choice([0.3, 1, 3])), (n, d)).clip(-9.9, 9.9) * 1000) / 1000
    eta = x @ rng.normal(0, 0.5, d) + float(rng.choice([0, 0, -2]))
    weighted = bool(rng.random() < 0.3)
    weight = rng.integers(0, 3, n) if weighted else np.ones(n, dtype=int)
    grid: Any = analytics.Grid(1, 0, 3) if weighted else None
    fine = analytics.Grid(0.001, -1000, 1000)
    model: Any
    if kind == "logistic":
        y = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(float)
        model = analytics.LogisticRegression(d, weights=grid, small_cells=RULE)
    elif kind == "poisson":
        y = rng.poisson(np.exp(eta.clip(-5, 4))).astype(float)
        model = analytics.PoissonRegression(d, weights=grid, small_cells=RULE)
    else:
        y = np.rint(eta + rng.normal(0, 3, n))
        model = analytics.LinearRegression([fine] * d, fine, weights=grid, small_cells=RULE)
    ratio = float(rng.choice([0, 0.3, 1]))
    given = tuple(rng.choice([1.0, 0.3, 0.1, 0.03, 0.01], int(rng.integers(1, 4)), replace=False).tolist())
    alphas: Any = given if rng.random() < 0.6 else ()
    rule: Any = str(rng.choice(["best", "one_error"]))
    question = analytics.CrossValidation(
        model, ratio, alphas, count=3, smallest=0.01, folds=folds, rule=rule, seed=int(rng.integers(0, 9))
    )
    columns = [x, y, *[weight] * weighted]
    shares = dealt(rng, n, y)
    fold = np.full(n, -1)
    for share in shares:
        own = share[weight[share] > 0]
        fold[own] = question.folds_of(*(column[share] for column in columns))
    try:
        result, rows = asked(rng, question, *columns, shares=shares)
    except NoAnswerError as error:
        rows = error.rows[weight[error.rows] > 0]
        why_no_choice(error, kind, x[rows], y[rows], fold[rows], folds, ratio)
        return
    rows = rows[weight[rows] > 0]
    x, y, weight, fold = x[rows], y[rows], weight[rows].astype(float), fold[rows]
    design = np.column_stack([np.ones(len(y)), x])
    assert result.n == len(rows)
    if not alphas:
        common = np.full(len(y), weight @ y / weight.sum())
        top = np.abs(x.T @ (weight * (y - common))).max() / weight.sum() / max(ratio, 0.01)
        if top > 1e-6:  # else no column tells anything
            assert np.isclose(result.alphas[0], top, rtol=1e-4), (result.alphas[0], top)
    for i, alpha in enumerate(result.alphas):
        for k in range(-1, folds):
            kept = fold != k  # all of them first
            total = alpha * weight[kept].sum()
            beta = fitted(kind, design[kept], y[kept], weight[kept], total * ratio, total * (1 - ratio))
            if beta is None:  # at a border of signs, or of columns alike under a lasso
                continue
            if k < 0:
                assert np.abs(result.path[i] - beta).max() <= 2e-6 * max(1, np.abs(beta).max()), (result.path[i], beta)
            else:
                lost = weight[~kept] @ deviances(kind, y[~kept], design[~kept] @ beta)
                exact = lost / weight[~kept].sum()
                assert np.isclose(result.held_out[i, k], exact, rtol=1e-5, atol=1e-6), (result.held_out[i, k], exact)
    chosen(result, rule, np.array([weight[fold == k].sum() for k in range(folds)]))


def chosen(result, rule, weights):
    """The rule, by plain arithmetic."""
    mean = result.held_out @ weights / weights.sum()
    error = np.sqrt((weights * (result.held_out - mean[:, None]) ** 2).sum(axis=1) / weights.sum() / (len(weights) - 1))
    assert np.allclose(result.deviance, mean, rtol=1e-9)
    assert np.allclose(result.error, error, rtol=1e-6, atol=1e-12)
    assert np.all(np.diff(result.alphas) < 0)
    least = int(np.argmin(result.deviance))
    limit = result.deviance[least] + (result.error[least] if rule == "one_error" else 0)
    assert result.alpha == result.alphas[result.deviance <= limit].max()
    at = result.alphas.tolist().index(result.alpha)
    found = [result.fit.intercept, *result.fit.coefficients]
    assert np.abs(found - result.path[at]).max() <= 1e-8 * max(1, np.abs(result.path[at]).max())


def why_no_choice(error, kind, x, y, fold, folds, ratio):
    """Judge a refusal."""
    if len(y) == 0:
        refused(error, "expected patients" in error.message, "no patients")
    if len(np.unique(fold)) < folds:
        refused(error, "folds, got 0" in error.message, "a fold without rows")
    kept = [np.ones(len(y), dtype=bool), *(fold != k for k in range(folds))]
    one = {"logistic": lambda own: len(set(y[own].tolist())) < 2, "poisson": lambda own: not y[own].any()}
    if kind in one and any(one[kind](own) for own in kept):
        refused(error, "all outcomes" in error.message, "one outcome only in some folds together")
    runs_away = {"logistic": separable, "poisson": all_zero_in_a_group}
    if kind in runs_away and "grow without end" in error.message:  # and the penalty is too weak to tell where it ends
        refused(error, any(runs_away[kind](x[own], y[own]) for own in kept), "separated under a weak penalty")
    refused(error, ratio == 1 and any(alike(x[own]) for own in kept), "columns alike: a lasso leaves them open")


CASES = {f.__name__: f for f in (cross_validation,)}
