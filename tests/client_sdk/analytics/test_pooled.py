"""Every analysis on shares equals the reference on the pooled rows; arithmetic alone, no network."""

from __future__ import annotations

import dataclasses
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sksurv.compare import compare_survival
from sksurv.nonparametric import kaplan_meier_estimator

from client_sdk import analytics
from client_sdk.analytics.chi_square import chi_square_tail
from he_agg.errors import InputError
from tests.client_sdk.analytics.comparing import bits, lloyd, split

SEEDS = st.integers(0, 2**32 - 1)


def shares_of(rng, *columns, parts=3):
    return [tuple(column[own] for column in columns) for own in split(rng, len(columns[0]), parts)]


@given(seed=SEEDS)
def test_table_of_two_variables(seed):
    rng = np.random.default_rng(seed)
    sex, stage = rng.choice(["f", "m"], 300), rng.integers(1, 4, 300)
    question = analytics.Counts({"sex": ["f", "m"], "stage": [1, 2, 3]}, analytics.SmallCells(below=1))
    result = analytics.dry_run(question, shares_of(rng, sex, stage))
    expected = [[int(((sex == s) & (stage == t)).sum()) for t in (1, 2, 3)] for s in ("f", "m")]
    assert result.counts.tolist() == expected
    assert (result.n, result.n_sites) == (300, 3)


@given(seed=SEEDS)
def test_histogram_is_numpys(seed):
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(0, 2, 400), 1)  # many values on edges
    edges = tuple(np.arange(-3, 4) / 2)
    result = analytics.dry_run(analytics.Histogram(edges, analytics.SmallCells(below=1)), shares_of(rng, values))
    assert np.array_equal(result.counts, np.histogram(values, edges)[0])
    assert (result.below, result.above) == ((values < edges[0]).sum(), (values > edges[-1]).sum())


@given(seed=SEEDS, offset=st.sampled_from([0, 10**3, 10**7]))
def test_moments_are_the_correctly_rounded_ones(seed, offset):
    """Against fractions; NumPy's own two-pass float result agrees to its accuracy."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-50, 50, (200, 3)) + offset
    question = analytics.Moments([analytics.Grid(1, -(10**8), 10**8)] * 3, covariance=True)
    result = analytics.dry_run(question, shares_of(rng, values))
    exact_mean = [Fraction(int(values[:, j].sum()), 200) for j in range(3)]
    assert result.mean.tolist() == [float(m) for m in exact_mean]
    assert np.array_equal(result.mean, values.mean(axis=0))
    assert result.covariance is not None
    for i in range(3):
        for j in range(3):
            exact = sum((int(r[i]) - exact_mean[i]) * (int(r[j]) - exact_mean[j]) for r in values) / 199
            assert result.covariance[i, j] == float(exact)
    assert np.array_equal(result.variance, np.diag(result.covariance))
    assert np.allclose(result.covariance, np.cov(values.T), rtol=1e-9)
    plain = analytics.dry_run(analytics.Moments(question.grids), shares_of(rng, values))
    assert np.array_equal(plain.variance, result.variance)


def test_moments_on_a_grid_equal_numpy_on_the_same_grid(rng):
    step = 0.25
    values = rng.normal(120, 15, (500, 2))
    gridded = np.rint(values / step) * step
    result = analytics.dry_run(analytics.Moments([analytics.Grid(step, 0, 400)] * 2), shares_of(rng, values))
    assert np.array_equal(result.mean, gridded.mean(axis=0))
    assert np.allclose(result.variance, gridded.var(axis=0, ddof=1), rtol=1e-13)


def test_moments_skip_missing_values_column_by_column(rng):
    values = rng.integers(0, 9, (60, 2)).astype(float)
    values[rng.random((60, 2)) < 0.3] = np.nan
    grids = [analytics.Grid(1, 0, 10)] * 2
    result = analytics.dry_run(analytics.Moments(grids, missing="skip"), shares_of(rng, values))
    assert np.array_equal(result.n, (~np.isnan(values)).sum(axis=0))
    assert np.allclose(result.mean, np.nanmean(values, axis=0), rtol=1e-15)
    assert np.allclose(result.variance, np.nanvar(values, axis=0, ddof=1), rtol=1e-14)
    with pytest.raises(InputError, match="in every row"):
        analytics.dry_run(analytics.Moments(grids), [(values,)])
    empty = analytics.dry_run(analytics.Moments(grids, missing="skip"), [(np.full((3, 2), np.nan),)])
    assert np.isnan(empty.mean).all()


@given(seed=SEEDS, bins=st.integers(2, 40), n=st.integers(3, 90))
def test_quantiles_are_numpys_inverted_cdf(seed, bins, n):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-700, 700, n)
    p = (*np.round(rng.random(4), 3), 0.0, 0.5, 1.0)
    question = analytics.Quantiles(analytics.Grid(0.5, -350, 350), p, bins=bins)
    result = analytics.dry_run(question, shares_of(rng, numbers * 0.5))
    assert np.array_equal(result.values, np.quantile(numbers, p, method="inverted_cdf") * 0.5)
    assert np.array_equal(result.low, result.high)
    assert result.steps <= np.ceil(np.log(1401) / np.log(bins)) + 1
    assert result.n == n


def test_quantiles_stop_before_few_values(rng):
    numbers = rng.integers(0, 10_000, 500)
    question = analytics.Quantiles(analytics.Grid(1, 0, 10_000), (0.05, 0.5), bins=8, stop_below=20)
    result = analytics.dry_run(question, shares_of(rng, numbers))
    exact = np.quantile(numbers, (0.05, 0.5), method="inverted_cdf")
    assert ((result.low <= exact) & (exact <= result.high)).all()
    for low, high in zip(result.low, result.high, strict=True):
        assert low < high
        assert ((numbers >= low) & (numbers <= high)).sum() >= 20


def test_kmeans_from_given_centers_is_lloyd_on_the_pooled_rows(rng):
    rows = np.concatenate([rng.integers(-20, 20, (80, 2)) + c for c in ([0, 0], [60, 10], [-50, 40])])
    initial = ((1.0, 2.0), (30.0, 5.0), (-10.0, 10.0))
    question = analytics.KMeans(3, analytics.Grid(1, -200, 200), 2, initial=initial)
    result = analytics.dry_run(question, shares_of(rng, rows))
    centers, labels, _, _ = lloyd(rows.astype(float), np.array(initial), 100)
    order = np.lexsort(centers.T[::-1])
    assert result.converged
    assert np.allclose(result.centers, centers[order], rtol=1e-14)
    assert np.array_equal(result.counts, np.bincount(labels)[order])
    assert result.inertia == pytest.approx(((rows - centers[labels]) ** 2).sum(), rel=1e-12)
    assert np.array_equal(np.bincount(result.labels(rows)), result.counts)


@given(seed=SEEDS)
@settings(max_examples=12)  # of thirty rounds each
def test_kmeans_does_not_depend_on_how_rows_are_split(seed):
    check_kmeans(seed)


@pytest.mark.slow
@given(seed=SEEDS)
@settings(max_examples=300)
def test_kmeans_does_not_depend_on_how_rows_are_split_in_many_ways(seed):
    check_kmeans(seed)


def check_kmeans(seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 30, (90, 3))
    question = analytics.KMeans(4, analytics.Grid(0.5, -300, 300), 3, seed=seed, small_cells=analytics.SmallCells(1))
    pooled = analytics.dry_run(question, [(rows,)])
    split_up = analytics.dry_run(question, shares_of(rng, rows))
    assert (split_up.n_sites, pooled.n_sites) == (3, 1)
    assert bits(dataclasses.replace(split_up, n_sites=1)) == bits(pooled)
    assert pooled.counts.sum() == 90


def test_pca_equals_the_pooled_svd(rng):
    rows = np.rint(rng.normal(0, 40, (150, 5)) @ rng.normal(0, 1, (5, 5)))
    grids = [analytics.Grid(1, -2000, 2000)] * 5
    result = analytics.dry_run(analytics.PCA(3, grids), shares_of(rng, rows))
    centred = rows - rows.mean(axis=0)
    _, s, v = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(result.variances, s[:3] ** 2 / 149, rtol=1e-12)
    assert np.allclose(np.abs(np.sum(result.components * v[:3], axis=1)), 1, atol=1e-12)
    assert np.allclose(result.explained, (s**2 / (s**2).sum())[:3], rtol=1e-12)
    assert np.allclose(np.abs(result.scores(rows)), np.abs(centred @ v[:3].T), atol=1e-8)


def test_power_iteration_equals_the_covariance(rng):
    """Gaps between variances of at least 2, so 200 steps are far more than enough for sines below 1e-7."""
    rows = np.rint(rng.normal(0, 1, (300, 12)) * 2.0 ** np.arange(12, 0, -1))
    exact = analytics.dry_run(analytics.PCA(3, [analytics.Grid(1, -50_000, 50_000)] * 12), [(rows,)])
    question = analytics.PowerPCA(3, analytics.Grid(1, -50_000, 50_000), 12)
    result = analytics.dry_run(question, shares_of(rng, rows))
    assert 2 < result.steps < 100
    assert np.allclose(result.components, exact.components, atol=1e-6)
    assert np.allclose(result.variances, exact.variances, rtol=1e-9)
    assert np.allclose(result.explained, exact.explained, rtol=1e-9)
    assert np.array_equal(result.mean, exact.mean)


@given(seed=SEEDS, groups=st.integers(1, 3))
def test_survival_is_the_pooled_curve_to_the_bit(seed, groups):
    rng = np.random.default_rng(seed)
    n = 120
    days, died = rng.integers(1, 60, n), rng.random(n) < 0.6
    died[:2] = True
    names = [f"g{i}" for i in range(groups)]
    group = rng.choice(names, n)
    columns = (days, died) if groups == 1 else (days, died, group)
    question = analytics.KaplanMeier(1, 100, names)
    result = analytics.dry_run(question, shares_of(rng, *columns))
    for name in names:
        own = group == name
        if not own.any():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            times, survival, (low, high) = kaplan_meier_estimator(died[own], days[own], conf_type="log-log")
        curve = result.curves[name]
        assert np.array_equal(curve.times, times)
        assert np.array_equal(curve.survival, survival)
        inside = (survival > 0) & (survival < 1)
        for mine, theirs in zip(curve.interval(), (low, high), strict=True):
            assert np.allclose(mine[inside], theirs[inside], rtol=1e-10)
    if groups > 1 and len(set(group)) == groups:
        y = np.array(list(zip(died, days, strict=True)), dtype=[("event", bool), ("time", float)])
        statistic, p = compare_survival(y, group)
        assert result.log_rank.statistic == pytest.approx(statistic, rel=1e-9, abs=1e-12)
        assert result.log_rank.p == pytest.approx(p, rel=1e-9)


def test_greenwoods_variance_by_hand():
    """Five patients: events at 1 and 3, left at 2; variance = S^2 * sum(d / (n (n - d)))."""
    result = analytics.dry_run(analytics.KaplanMeier(1, 10), [([1, 2, 3, 4, 5], [1, 0, 1, 0, 0])])
    curve = result.curves["all"]
    assert curve.survival.tolist() == [0.8, 0.8, 0.8 * (1 - 1 / 3), 0.8 * (1 - 1 / 3), 0.8 * (1 - 1 / 3)]
    s = 0.8 * (2 / 3)
    assert curve.variance[0] == pytest.approx(0.8**2 * (1 / 20), rel=1e-15)
    assert curve.variance[2] == pytest.approx(s**2 * (1 / 20 + 1 / 6), rel=1e-15)
    assert (curve.at(0.5), curve.at(1), curve.at(2.9)) == (1.0, 0.8, 0.8)
    assert curve.at([0.5, 1, 2.9]).tolist() == [1.0, 0.8, 0.8]
    several = np.array([[0.5, 1.0], [-1.0, np.nan], [2.9, 1e9]])
    assert np.array_equal(curve.at(several), [[curve.at(float(t)) for t in row] for row in several], equal_nan=True)
    assert curve.at([]).shape == (0,)
    assert curve.median == np.inf


def test_later_than_the_horizon_is_censored_there():
    result = analytics.dry_run(analytics.KaplanMeier(1, 10), [([5, 11, 500], [1, 1, 0])])
    assert result.curves["all"].events.tolist() == [1, 0]
    assert result.curves["all"].censored.tolist() == [0, 2]


def test_suppressed_curves_have_no_small_step(rng):
    days, died = rng.integers(1, 200, 300), rng.random(300) < 0.5
    shown = analytics.KaplanMeier(1, 200, small_cells=analytics.SmallCells(10, "suppress"))
    fine = analytics.dry_run(analytics.KaplanMeier(1, 200), [(days, died)]).curves["all"]
    curve = analytics.dry_run(shown, [(days, died)]).curves["all"]
    assert len(curve.times) > 5
    assert (curve.events.sum(), curve.censored.sum()) == (died.sum(), (~died).sum())
    for time, survival in zip(curve.times, curve.survival, strict=True):
        assert fine.at(time) == survival


@pytest.mark.parametrize("rare", [0.02, 0.1, 0.5, 0.97])
def test_no_number_of_a_suppressed_result_is_a_small_count(rng, rare):
    """Nor is a difference of two of them: of those at risk, of a group and its events, of all groups and some."""
    for _ in range(40):
        n, below = int(rng.integers(1, 150)), int(rng.integers(2, 12))
        days, died = rng.integers(0, 30, n), rng.random(n) < rare
        arm = rng.choice(["a", "b", "c"], n, p=[0.6, 0.35, 0.05])
        rule = analytics.SmallCells(below, "suppress")
        result = analytics.dry_run(analytics.KaplanMeier(1, 30, ["a", "b", "c"], rule), [(days, died, arm)])
        told: list[int] = []
        sizes = {g: curve.n for g, curve in result.curves.items()}
        known = [size for size in sizes.values() if size is not np.ma.masked]
        told += [*known] if len(known) == 3 else [*known, n - sum(known)] if n >= below else []
        for group, curve in result.curves.items():
            if sizes[group] is np.ma.masked or np.ma.is_masked(curve.events):
                assert np.ma.getmaskarray(curve.events).all()
                assert np.isnan([*curve.survival, *curve.lowest, *curve.variance, curve.at(10), curve.median]).all()
                assert curve.events.data.tolist() == [0]
                continue
            told += [*curve.events, *curve.censored, *curve.at_risk, *-np.diff(curve.at_risk)]
        if (test := result.log_rank) is not None:
            masks = np.ma.getmaskarray(test.observed)
            assert np.array_equal(masks, np.isnan(test.expected))
            for group, events, masked in zip(result.curves, test.observed, masks, strict=True):
                told += [] if masked else [events, sizes[group] - events]
        assert not [count for count in told if 0 < count < below]


def test_the_sum_of_hidden_cells_is_not_small_either():
    rule = analytics.SmallCells(5, "suppress")
    question = analytics.Counts({"x": ["a", "b", "c", "d"]}, rule)
    result = analytics.dry_run(question, [(["a"] * 9 + ["b"] + ["c"] + ["d"] * 20,)])
    assert result.counts.tolist() == [None, None, None, 20]  # b and c alone would be two, so one each


@pytest.mark.parametrize(("x", "df"), [(0.0, 1), (3.84, 1), (3.84, 2), (7.0, 3), (0.5, 4), (40.0, 7), (11.3, 10)])
def test_chi_square_tail(x, df):
    from scipy.stats import chi2

    assert chi_square_tail(x, df) == pytest.approx(chi2.sf(x, df), rel=1e-12)


def test_a_power_iteration_that_does_not_converge_says_so(rng):
    rows = np.rint(rng.normal(0, 1000, (400, 6)))
    question = analytics.PowerPCA(2, analytics.Grid(1, -9000, 9000), 6, tolerance=1e-9, max_steps=5)
    with pytest.raises(InputError, match="no convergence in 5 rounds"):
        analytics.dry_run(question, [(rows,)])


def test_components_without_variance_come_out(rng):
    """More components are kept than the rows have directions."""
    rows = np.rint(rng.normal(0, 30, (50, 1))) * [1, 2, 0, -1]
    result = analytics.dry_run(analytics.PowerPCA(3, analytics.Grid(1, -900, 900), 4), shares_of(rng, rows))
    assert result.variances[1:] == pytest.approx([0, 0], abs=1e-6)
    assert result.explained[0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("days", "step", "at"),
    [
        ([100, 120, 130, 200, 300], 90, {0: 1.0, 90: 1.0, 180: 0.4, 270: 0.2, 360: 0.0}),
        ([3, 10, 14], 30, {0: 1.0, 30: 0}),
    ],
)
def test_on_a_coarse_grid_nobody_dies_before_it_happened(days, step, at):
    curve = analytics.dry_run(analytics.KaplanMeier(step, 360), [(days, [1] * len(days))]).curves["all"]
    assert {time: curve.at(time) for time in at} == pytest.approx(at)
    assert np.array_equal(curve.lowest, curve.survival)  # nobody left without the event


def test_steps_that_no_float_holds_are_the_same_grid():
    """Ten tenths are 1.0000000000000002 in one order of adding and 0.9999999999999999 in another."""
    question = analytics.KaplanMeier(0.1, 1)
    tenths = [0.1 + 0.2, 0.3, 0.7 - 0.4, 1.1 - 0.8]
    curve = analytics.dry_run(question, [(tenths, [1] * 4)]).curves["all"]
    assert curve.events.tolist() == [4]
    assert (curve.at(0.2), curve.at(0.3), curve.at(0.1 + 0.2)) == (1.0, 0.0, 0.0)


def test_after_the_horizon_nothing_is_known():
    curve = analytics.dry_run(analytics.KaplanMeier(7, 30), [([3, 36, 500], [1, 1, 0])]).curves["all"]
    assert curve.horizon == 35  # put up to the grid
    assert curve.at(35) == pytest.approx(2 / 3)
    assert np.isnan(curve.at(36))
    assert np.isnan(curve.at(-1))


def test_a_group_without_patients_leaves_the_test_to_the_others(rng):
    days, died, arm = rng.integers(1, 60, 90), rng.random(90) < 0.6, rng.choice(["a", "b"], 90)
    two = analytics.dry_run(analytics.KaplanMeier(1, 60, ["a", "b"]), shares_of(rng, days, died, arm))
    asked = analytics.KaplanMeier(1, 60, ["a", "nobody", "b"], analytics.SmallCells(5, "suppress"))
    three = analytics.dry_run(asked, shares_of(rng, days, died, arm))
    assert (three.log_rank.df, two.log_rank.df) == (1, 1)
    assert three.log_rank.statistic == pytest.approx(two.log_rank.statistic, rel=1e-12)
    assert np.isnan(three.curves["nobody"].at(10))
    assert np.isnan(three.curves["nobody"].median)
    assert (three.curves["nobody"].n, three.n, three.curves["a"].n) == (0, 90, (arm == "a").sum())


def test_a_search_that_stops_at_once_gives_a_short_interval_and_no_value():
    question = analytics.Quantiles(analytics.Grid(1, -100, 100), (0.5,), stop_below=5)
    result = analytics.dry_run(question, [(np.arange(20),)])
    assert np.isnan(result.values).all()
    assert result.low[0] <= 9 <= result.high[0] <= result.low[0] + 8
    few = analytics.dry_run(question, [([3, 4],)])  # too few for any interval
    assert (few.low[0], few.high[0]) == (-100, 100)


def test_values_at_the_bounds_of_a_grid_are_within_it():
    """45 / 10 and 205 / 10 are halves, which round to even."""
    grid = analytics.Grid(10, 45, 205)
    assert grid.integers(np.array([45.0, 205.0])).tolist() == [grid.first, grid.last]
    for step in (10, 3, 0.1, 0.3, 7):
        for low in range(-50, 50, 3):
            bounds = np.array([low / 2, low / 2 + 31.5])
            grid = analytics.Grid(step, *bounds)
            assert grid.integers(bounds).tolist() == [grid.first, grid.last]


def test_sums_beyond_63_bits_do_not_wrap_around():
    rows = np.full((5000, 1), 2.0**51)
    result = analytics.dry_run(analytics.Moments([analytics.Grid(1, 0, 2**52)]), [(rows,)])
    assert result.mean.tolist() == [2.0**51]
    start = ((2.0**51,),)
    clusters = analytics.dry_run(analytics.KMeans(1, analytics.Grid(1, 0, 2**52), 1, initial=start), [(rows,)])
    assert clusters.centers.tolist() == [[2.0**51]]
    assert clusters.inertia == 0.0


def test_inertia_far_from_zero_does_not_cancel():
    rows = 2.0**40 + np.array([[0.0], [1.0], [0.0], [1.0]])
    loose = analytics.SmallCells(1)
    question = analytics.KMeans(1, analytics.Grid(1, 0, 2**41), 1, initial=((0.0,),), small_cells=loose)
    assert analytics.dry_run(question, [(rows,)]).inertia == 1.0


def test_rows_between_two_centers_are_counted_where_their_labels_are():
    """In whatever order the centers came."""
    rows = np.array([[0.0]] * 3 + [[5.0]] * 4 + [[10.0]] * 3)
    grid, loose = analytics.Grid(1, 0, 10), analytics.SmallCells(1)
    for first, second in ((0.0, 10.0), (10.0, 0.0)):
        question = analytics.KMeans(2, grid, 1, initial=((first,), (second,)), small_cells=loose)
        result = analytics.dry_run(question, [(rows,)])
        assert result.counts.tolist() == np.bincount(result.labels(rows)).tolist() == [7, 3]
