"""Statistics on awkward data against independent ones on the pooled rows: each function makes and judges one case.

Curves and the log-rank test are compared with two libraries, scikit-survival and statsmodels. lifelines would be a
third, of the same formulas: with pandas 3 it warns, and it brings five packages that nothing else here needs.
"""

from __future__ import annotations

import warnings
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
from sksurv.compare import compare_survival
from sksurv.nonparametric import kaplan_meier_estimator
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from client_sdk import analytics
from client_sdk.columns import Missing
from tests.client_sdk.analytics.comparing import lloyd
from tests.reference.hospitals import NoAnswerError, asked, awkward, refused

EPS = float(np.finfo(float).eps)
STEPS = (1.0, 0.5, 0.1, 0.001, 7.0, 1e5)


def small_cells(rng):
    return analytics.SmallCells(int(rng.integers(1, 8)), "warn" if rng.random() < 0.5 else "suppress")


def shown(counts, exact, rule):
    """Exact counts are shown, but for small ones and the fewest that keep those from being worked out."""
    exact = np.asarray(exact)
    small = (exact > 0) & (exact < rule.below)
    if rule.action == "warn" or not small.any():
        assert not np.ma.is_masked(counts)
        assert np.array_equal(counts, exact)
        return
    mask = np.ma.getmaskarray(counts)
    assert mask[small].all()
    assert np.array_equal(counts.data[~mask], exact[~mask])
    assert not counts.data[mask].any()
    more = exact[mask & ~small]
    if (exact > 0).sum() > mask.sum():
        assert mask.sum() > 1
        assert exact[mask].sum() >= rule.below
    if more.size:  # without the last of them it would not have been enough
        assert mask.sum() == 2 or exact[mask].sum() - more.max() < rule.below


def counts(rng):
    n = int(rng.integers(0, 120))
    known: Any = {"a": ["f", "m", "x"], "b": [1, 2, 3, 40]}
    a, b = rng.choice(known["a"], n, p=[0.6, 0.38, 0.02]), rng.choice(known["b"], n)
    rule = small_cells(rng)
    result, rows = asked(rng, analytics.Counts(known, rule), a, b, by=a)
    table = Counter(zip(a[rows].tolist(), b[rows].tolist(), strict=True))
    shown(result.counts, [[table[x, y] for y in known["b"]] for x in known["a"]], rule)
    assert result.n == rows.size


def histogram(rng):
    step = float(rng.choice(STEPS))
    values = awkward(rng, int(rng.integers(0, 150)), step)
    edges: Any = np.unique(awkward(rng, int(rng.integers(2, 20)), step))
    if edges.size < 2:
        edges = np.array([0.0, step])
    rule = small_cells(rng)
    result, rows = asked(rng, analytics.Histogram(edges, rule), values, by=values)
    own = values[rows]
    exact = [(own < edges[0]).sum(), *np.histogram(own, edges)[0], (own > edges[-1]).sum()]
    cells = [result.below, *result.counts, result.above]
    hidden = [cell is np.ma.masked for cell in cells]
    plain = [0 if cell is np.ma.masked else int(cell) for cell in cells]
    shown(np.ma.array(plain, mask=hidden), exact, rule)
    assert result.n == rows.size


def moments(rng):
    step, d = float(rng.choice(STEPS)), int(rng.integers(1, 4))
    n = int(rng.integers(0, 100))
    offset = float(rng.choice([0, 1000, 1e7])) * step
    table = np.column_stack([awkward(rng, n, step) for _ in range(d)]).reshape(n, d) + offset
    table += step * rng.uniform(-0.3, 0.3, table.shape) * (rng.random() < 0.3)
    skip = rng.random() < 0.4
    if skip:
        table[rng.random(table.shape) < 0.3] = np.nan
    grid = analytics.Grid(step, -1000 * step, 1000 * step + offset)
    missing: Missing = "skip" if skip else "refuse"
    question = analytics.Moments((grid,) * d, covariance=bool(rng.random() < 0.5) and not skip, missing=missing)
    result, rows = asked(rng, question, table)
    with np.errstate(invalid="ignore"):
        whole = np.rint(table[rows] / step)
    for i in range(d):
        for j in range(d) if question.covariance else (i,):
            pair = [(int(x), int(y)) for x, y in whole[:, [i, j]].tolist() if x == x and y == y]
            m = len(pair)
            assert result.n[i] == m
            if not m:
                assert np.isnan(result.mean[i])
                continue
            mean = [Fraction(sum(p[k] for p in pair), m) for k in (0, 1)]
            assert result.mean[i] == float(mean[0]) * step
            got = result.covariance[i, j] if question.covariance else result.variance[i]
            if m < 2:
                assert np.isnan(got)
                continue
            exact = sum((x - mean[0]) * (y - mean[1]) for x, y in pair) / (m - 1)
            assert got == float(exact) * step * step
            # NumPy's two passes: its mean is off by a few ulps of the largest, which enters squared.
            columns = np.array(pair, dtype=float).T * step
            largest, spread = np.abs(columns).max(), columns.std(axis=1).max()
            off = 8 * EPS * largest
            assert abs(got - np.cov(columns)[0, 1]) <= 8 * m * EPS * spread**2 + m * off * (off + spread) + EPS * step


def quantiles(rng):
    n, step = int(rng.integers(0, 150)), float(rng.choice(STEPS))
    values = awkward(rng, n, step)
    p = [float(rng.choice([0, 1, 0.5, rng.random(), rng.integers(0, n + 1) / max(n, 1)])) for _ in range(3)]
    stop = int(rng.choice([0, 0, 5, 20]))
    grid, bins = analytics.Grid(step, -1000 * step, 1000 * step), int(rng.integers(2, 70))
    question = analytics.Quantiles(grid, tuple(p), bins=bins, stop_below=stop)
    try:
        result, rows = asked(rng, question, values, by=values)
    except NoAnswerError as error:
        refused(error, error.rows.size == 0, "no values")
    whole = np.rint(values[rows] / step)
    exact = np.quantile(whole, p, method="inverted_cdf")
    assert result.n == rows.size
    if not stop:
        assert np.array_equal(result.values, exact * step)
        return
    low, high = np.rint(result.low / step), np.rint(result.high / step)
    assert ((low <= exact) & (exact <= high)).all()
    inside = ((whole >= low[:, None]) & (whole <= high[:, None])).sum(axis=1)
    assert ((inside >= stop) | ((low <= -1000) & (high >= 1000))).all()
    assert np.array_equal(result.values[low == high], exact[low == high] * step)
    assert np.isnan(result.values[low < high]).all()


def kmeans(rng):
    n, d, k = int(rng.integers(0, 60)), int(rng.integers(1, 4)), int(rng.integers(1, 5))
    offset = float(rng.choice([0, 0, 2**20]))
    rows = np.column_stack([awkward(rng, n) for _ in range(d)]).reshape(n, d) + offset
    rows += 40 * rng.integers(0, k + 1, (n, 1))
    grid, most = analytics.Grid(1, -2000, offset + 2000), int(rng.choice([1, 3, 100]))
    initial = rng.integers(-900, 900, (k, d)) + offset if rng.random() < 0.7 else None
    seed = int(rng.integers(0, 99))
    question = analytics.KMeans(k, grid, d, 3, seed, initial, most, small_cells=analytics.SmallCells(1))
    try:
        result, kept = asked(rng, question, rows, by=rows[:, 0])
    except NoAnswerError as error:
        refused(error, initial is None and error.rows.size < k, "fewer rows than clusters")
    own = rows[kept]
    assert result.n == len(own)
    if initial is None:  # seeds are ours: the answer must be a fixed point, and its own labels its counts
        if not result.converged:
            return
        centers, labels, _, still = lloyd(own, result.centers, 1)
        assert still
    else:
        centers, labels, steps, still = lloyd(own, np.asarray(initial, dtype=float), most)
        assert (result.steps, result.converged) == (steps, still)
        order = np.lexsort(centers.T[::-1])
        centers = centers[order]
        labels = np.argsort(order)[labels] if len(own) else labels
        assert np.array_equal(result.centers, centers)
    assert np.array_equal(result.counts, np.bincount(labels, minlength=k))
    inertia = float((((own - centers[labels]) if len(own) else own) ** 2).sum())
    largest = np.abs(own).max(initial=0) * EPS
    assert abs(result.inertia - inertia) <= 16 * own.size * (EPS * inertia + largest**2 + largest * np.sqrt(inertia))


def covariance(rows):
    """Centred in whole numbers, so that an offset costs nothing."""
    n = len(rows)
    centred = (n * rows.astype(np.int64) - rows.astype(np.int64).sum(axis=0)) / n
    return centred.T @ centred / (n - 1), centred


def components_of(result, exact, allowed):
    """The leading eigenvalues, and vectors that are eigenvectors up to a residual."""
    top = np.linalg.eigvalsh(exact)[::-1][: len(result.variances)]
    assert (np.abs(result.variances - top.clip(0)) <= allowed).all()
    residual = exact @ result.components.T - result.components.T * result.variances
    assert (np.linalg.norm(residual, axis=0) <= allowed).all()
    gram = result.components @ result.components.T
    assert np.abs(gram - np.eye(len(gram))).max() <= 1e-9
    total = np.trace(exact)
    if total > 0:
        assert np.allclose(result.explained, top.clip(0) / total, atol=np.max(allowed) / total + 1e-12)
    else:
        assert np.isnan(result.explained).all()


def pca_rows(rng):
    n, d = int(rng.integers(0, 60)), int(rng.integers(1, 6))
    rows = np.column_stack([awkward(rng, n) for _ in range(d)]).reshape(n, d)
    if rng.random() < 0.3:
        rows[:, -1] = rows[:, 0]
    return rows + float(rng.choice([0, 0, 2**20]))


def pca(rng):
    rows = pca_rows(rng)
    d = rows.shape[1]
    kept = int(rng.integers(1, d + 1))
    try:
        result, own = asked(rng, analytics.PCA(kept, (analytics.Grid(1, -2000, 2**20 + 2000),) * d), rows)
    except NoAnswerError as error:
        refused(error, error.rows.size < 2, "fewer than two rows")
    exact, centred = covariance(rows[own])
    largest = np.linalg.eigvalsh(exact)[-1]
    components_of(result, exact, np.full(kept, 64 * d * EPS * max(largest, 0)))
    singular = np.linalg.svd(centred, compute_uv=False)
    variances = np.zeros(d)
    variances[: singular.size] = singular**2 / (len(own) - 1)
    assert np.abs(result.variances - variances[:kept]).max() <= 64 * d * EPS * max(largest, 0)
    assert np.allclose(result.mean, rows[own].mean(axis=0), rtol=4 * EPS, atol=1e-12)


def power_pca(rng):
    rows = pca_rows(rng)
    d = rows.shape[1]
    kept = int(rng.integers(1, d + 1))
    try:
        result, own = asked(rng, analytics.PowerPCA(kept, analytics.Grid(1, -2000, 2**20 + 2000), d), rows)
    except NoAnswerError as error:
        if error.rows.size < 2:
            refused(error, True, "fewer than two rows")
        values = np.linalg.eigvalsh(covariance(rows[error.rows])[0])[::-1]
        close = kept < d and values[kept] / values[kept - 1] > 0.85
        refused(error, close, "variances that follow each other are almost equal")
    exact, _ = covariance(rows[own])
    values = np.linalg.eigvalsh(exact)[::-1][:kept].clip(0)
    # The tolerance, what sites round to 2^-32, and what the basis is rounded to.
    off = np.sqrt(d) * (6 * 2.0**-32 + 2.0**-37 * values[0])
    components_of(result, exact, 2e-7 * values + off)


def survival(rng):
    n = int(rng.integers(0, 120))
    groups = ["a", "b", "c"][: int(rng.integers(1, 4))]
    unit = float(rng.choice([1, 0.1, 0.25]))
    ticks = rng.integers(0, int(rng.choice([6, 60, 400])), n)
    coarse = int(rng.choice([1, 1, 1, 7, 30, 90]))
    times, died = ticks * unit, rng.random(n) < rng.choice([0, 0.05, 0.6, 1])
    if rng.random() < 0.3:
        died[:] = died & (ticks > 20)
    horizon = int(rng.choice([5, 50, 365, 500]))
    arm = rng.choice(groups, n, p=rng.dirichlet(np.full(len(groups), 0.4)))
    question = analytics.KaplanMeier(coarse * unit, max(horizon, coarse) * unit, groups)
    columns = (times, died.astype(int)) if len(groups) == 1 else (times, died, arm)
    result, rows = asked(rng, question, *columns, by=times)
    ticks, died, arm = ticks[rows], died[rows], arm[rows]
    last = -(-max(horizon, coarse) // coarse)
    put = np.minimum(-(-ticks // coarse), last)
    died = died & (-(-ticks // coarse) <= last)
    assert result.n == rows.size
    for name in groups:
        curve_of(result.curves[name], put[arm == name], died[arm == name], ticks[arm == name], coarse, unit, last)
    log_rank(result.log_rank, put, died, arm, groups)


def curve_of(curve, put, died, ticks, coarse, unit, last):
    """The grid's curve to the bit, its variance, and the exact curve at all grid points within what the result says."""
    assert curve.n == put.size
    if not put.size:
        assert np.isnan(curve.at(0))
        assert np.isnan(curve.median)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times, survival = kaplan_meier_estimator(died, put)
        own = SurvfuncRight(put.astype(float), died.astype(int)) if died.any() else None
    assert np.array_equal(np.rint(curve.times / (coarse * unit)), times)
    assert np.array_equal(curve.survival, survival)
    if own is not None:
        at = np.searchsorted(times, own.surv_times)
        assert np.allclose(curve.survival[at], own.surv_prob, rtol=1e-12)
        inside = own.surv_prob > 0
        assert np.allclose(np.sqrt(curve.variance[at])[inside], own.surv_prob_se[inside], rtol=1e-9)
    for point in range(last + 1):
        exact = exact_curve(ticks, died, point * coarse)
        got = curve.at(point * coarse * unit)
        index = np.searchsorted(times, point, side="right") - 1
        lowest = 1.0 if index < 0 else curve.lowest[index]
        assert lowest - 1e-12 <= exact <= got + 1e-12, (point, lowest, exact, got)
        until = ticks <= point * coarse
        if coarse == 1 or not (until & ~died & (ticks % coarse > 0)).any():
            assert abs(exact - got) <= 1e-12
    assert np.isnan(curve.at((last + 1) * coarse * unit))


def exact_curve(ticks, died, until):
    """The product over the exact times of events, in plain arithmetic."""
    curve = 1.0
    for time in np.unique(ticks[died & (ticks <= until)]):
        curve *= 1 - (died & (ticks == time)).sum() / (ticks >= time).sum()
    return curve


def log_rank(test, put, died, arm, groups):
    told = [g for g in groups if at_risk(put, died, arm == g)]
    if len(told) < 2:
        assert test is None
        return
    keep = np.isin(arm, told)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            statistic, p = survdiff(put[keep].astype(float), died[keep].astype(int), arm[keep])
        except np.linalg.LinAlgError:
            statistic = np.nan
    fields = np.array(list(zip(died[keep], put[keep], strict=True)), dtype=[("event", bool), ("time", float)])
    try:
        other, _ = compare_survival(fields, arm[keep])  # NaN or an error where the variance is none
    except (ValueError, np.linalg.LinAlgError):
        other = np.nan
    if test is None:  # everybody who was left had the event, each time
        assert not np.isfinite(statistic) or statistic > 1e9 or not varies(put, died, arm, told)
        return
    assert test.df == len(told) - 1
    assert np.isclose(test.statistic, statistic, rtol=1e-7, atol=1e-9), (test.statistic, statistic)
    assert np.isclose(test.statistic, other, rtol=1e-7, atol=1e-9), (test.statistic, other)
    assert np.isclose(test.p, p, rtol=1e-6, atol=1e-12)
    assert test.observed.tolist() == [int((died & (arm == g)).sum()) for g in groups]


def at_risk(put, died, own):
    """Whether a group has somebody left when something happens."""
    return bool(own.any() and died.any() and put[own].max() >= put[died].min())


def varies(put, died, arm, told):
    """Whether the variance of observed minus expected events has full rank."""
    covariance = np.zeros((len(told), len(told)))
    for time in np.unique(put[died]):
        there = put >= time
        d, n = int((died & (put == time)).sum()), int(there.sum())
        if d < n:
            share = np.array([(there & (arm == g)).sum() / n for g in told])
            covariance += np.diag(share) - np.outer(share, share)
    return np.linalg.matrix_rank(covariance[:-1, :-1]) == len(told) - 1


CASES = {f.__name__: f for f in (counts, histogram, moments, quantiles, kmeans, pca, power_pca, survival)}
