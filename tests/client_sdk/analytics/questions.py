"""One analysis of each kind, which tests of all of them ask."""

from __future__ import annotations

import numpy as np

from client_sdk import analytics

LOOSE = analytics.SmallCells(below=1)


def questions(rng):
    """One of each, with its pooled data."""
    n = 90
    table = rng.normal(0, 20, (n, 3)).clip(-90, 90)
    grid = analytics.Grid(0.5, -100, 100)
    days, died, arm = rng.integers(1, 50, n), rng.random(n) < 0.7, rng.choice(["a", "b"], n)
    outcome = (table[:, 0] + rng.normal(0, 20, n) > 0).astype(int)
    yield analytics.Counts({"arm": ["a", "b"]}, LOOSE), (arm,)
    yield analytics.Histogram((-50, 0, 50), LOOSE), (table[:, 0],)
    yield analytics.Moments([grid] * 3, covariance=True), (table,)
    yield analytics.Quantiles(grid, (0.1, 0.5), bins=16), (table[:, 1],)
    yield analytics.KMeans(2, grid, 3, starts=2, max_steps=4, small_cells=LOOSE), (table,)
    yield analytics.PCA(2, [grid] * 3), (table,)
    yield analytics.PowerPCA(1, grid, 3, tolerance=0.3), (table,)
    yield analytics.KaplanMeier(1, 60, ["a", "b"]), (days, died, arm)
    # With a penalty, since the rows of two hospitals may be so few that the features separate the outcomes.
    yield analytics.LogisticRegression(3, l2=0.5, small_cells=LOOSE), (table / 10, outcome)
    counts, years = rng.poisson(np.exp(table[:, 1] / 40)), rng.uniform(0.5, 2, n)
    yield analytics.PoissonRegression(3, l1=0.5, exposure=(0.1, 10), small_cells=LOOSE), (table / 10, counts, years)
    model = analytics.LogisticRegression(3, small_cells=LOOSE)
    yield analytics.CrossValidation(model, 0.5, (0.3, 0.05), folds=2), (table / 10, outcome)
    yield (
        analytics.LinearRegression([grid] * 3, grid, l2=0.5, small_cells=LOOSE),
        (table, table[:, 0] - table[:, 1] / 2),
    )
    came = days // 3
    yield analytics.CumulativeIncidence(2, 60, ["a", "b"], late_entry=True), (days, died * (1 + (arm == "b")), came)
    yield analytics.CoxRegression(1, 1, 60, small_cells=LOOSE), (days, died, table[:, :1] / 30)
    shared = analytics.CoxRegression(
        1, 5, 60, strata=None, l1=0.2, l2=0.5, weights=analytics.Grid(0.5, 0, 2), small_cells=LOOSE
    )
    yield shared, (days, died, table[:, :1] / 30, rng.integers(1, 5, n) / 2)


NAMES = [
    type(question).__name__ + (" shared" if getattr(question, "strata", "") is None else "")
    for question, _ in questions(np.random.default_rng(0))
]
