"""Late entry and competing events in curves, against R, statsmodels and scikit-survival on the pooled patients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sksurv.nonparametric import cumulative_incidence_competing_risks
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from client_sdk import analytics
from he_agg import InputError
from tests.client_sdk.analytics.clinical import unlike
from tests.client_sdk.analytics.cohorts import competing

BY_R = json.loads((Path(__file__).parent / "by_r.json").read_text())


@pytest.mark.parametrize("hospitals", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("name", ["bmt", "cgvhd"])
def test_incidence_is_the_pooled_one(rng, name, hospitals):
    """Two events and three; hospitals of unlike size, of which one has no events: R's figures and scikit-survival's."""
    data = competing(name)
    groups = np.unique(data.group).tolist()
    question = analytics.CumulativeIncidence(1, data.times.max(), data.causes, groups)
    columns = (data.times, data.cause, data.group)
    parts = unlike(rng, hospitals, data.cause, *columns)
    result = analytics.dry_run(question, parts)
    assert (result.n, result.n_sites) == (len(data.times), hospitals)
    assert hospitals == 1 or any(not (part[1] > 0).any() for part in parts)
    for group, curve in result.curves.items():
        own = data.group == group
        with np.errstate(all="ignore"):  # where all who are left have an event it has no variance
            times, pooled, (_, *bounds) = cumulative_incidence_competing_risks(
                data.cause[own], data.times[own].astype(float), conf_type="log-log", var_type="Dinse_Approx"
            )
        assert np.array_equal(curve.times, times)
        assert np.allclose(curve.incidence, pooled[1:], rtol=1e-13, atol=0)
        assert np.allclose(curve.survival, 1 - pooled[0], rtol=1e-12)
        if (curve.at_risk > curve.events.sum(axis=0)).all():
            for cause, (low, high) in zip(curve.causes, bounds, strict=True):
                inside = ~np.isnan(low)
                mine = curve.interval(cause)
                assert np.allclose(mine[0][inside], low[inside], rtol=1e-9)
                assert np.allclose(mine[1][inside], high[inside], rtol=1e-9)
        r = BY_R[f"{name} incidence {group}"]
        at = np.searchsorted(curve.times, r["times"])
        assert curve.at_risk[at].tolist() == r["at_risk"]
        assert np.allclose(np.vstack([curve.survival, curve.incidence])[:, at], r["shares"], rtol=1e-12, atol=1e-14)


def test_incidence_by_hand():
    """Four patients: the first event at 1, the other at 2, one leaves at 3, the first again at 4."""
    asked = analytics.CumulativeIncidence(1, 10, ["first", "other"])
    curve = analytics.dry_run(asked, [([1, 2], [1, 2]), ([3, 4], [0, 1])]).curves["all"]
    assert curve.incidence.tolist() == [[0.25, 0.25, 0.25, 0.75], [0.0, 0.25, 0.25, 0.25]]
    assert curve.survival.tolist() == [0.75, 0.5, 0.5, 0.0]
    assert [curve.at("first", t) for t in (0, 1, 3.9, 4, 10)] == [0.0, 0.25, 0.25, 0.75, 0.75]
    assert np.isnan(curve.at("first", 11))
    assert (curve.n, curve.at_risk.tolist()) == (4, [4, 3, 2, 1])


def test_small_counts_of_incidence_warn_or_are_an_error():
    data = ([1, 2, 3, 4], [1, 2, 0, 1])
    with pytest.warns(analytics.SmallCellWarning, match="leaving or coming"):
        analytics.dry_run(analytics.CumulativeIncidence(1, 9, ["a", "b"], small_cells=analytics.SmallCells(5)), [data])
    hidden = analytics.CumulativeIncidence(1, 9, ["a", "b"], small_cells=analytics.SmallCells(5, "suppress"))
    with pytest.raises(InputError, match="no count below 5, got 4"):
        analytics.dry_run(hidden, [data])


@pytest.mark.parametrize("hospitals", [1, 2, 5])
def test_curves_with_late_entry_are_the_pooled_ones(rng, hospitals):
    n = 300
    came = rng.integers(0, 20, n)
    left, died, arm = came + rng.integers(1, 40, n), rng.random(n) < 0.6, rng.choice(["a", "b"], n)
    asked = analytics.KaplanMeier(1, 60, ["a", "b"], late_entry=True)
    where = rng.integers(0, hospitals, n)
    result = analytics.dry_run(asked, [tuple(c[where == k] for c in (left, died, arm, came)) for k in range(hospitals)])
    for group, curve in result.curves.items():
        own = arm == group
        pooled = SurvfuncRight(left[own], died[own].astype(int), entry=came[own].astype(float))
        at = np.searchsorted(curve.times, pooled.surv_times)
        assert np.allclose(curve.survival[at], pooled.surv_prob, rtol=1e-12)
        assert np.array_equal(curve.at_risk[at], pooled.n_risk)
        assert (curve.n, curve.entered.sum()) == (own.sum(), own.sum())
    statistic, p = survdiff(left, died.astype(int), arm, entry=came.astype(float))
    assert result.log_rank.statistic == pytest.approx(statistic, rel=1e-9)
    assert result.log_rank.p == pytest.approx(p, rel=1e-9)


def test_on_a_coarse_grid_the_curve_of_exact_late_times_is_within_what_the_result_says(rng):
    for _ in range(20):
        came = rng.integers(0, 60, 80)
        left, died = came + rng.integers(1, 90, 80), rng.random(80) < 0.6
        columns = (left, died, came)
        fine, coarse = (
            analytics.dry_run(analytics.KaplanMeier(step, 150, late_entry=True), [columns]).curves["all"]
            for step in (1, 10)
        )
        for i, time in enumerate(coarse.times):
            assert coarse.lowest[i] - 1e-12 <= fine.at(time) <= coarse.survival[i] + 1e-12


def test_suppressed_curves_hide_small_numbers_of_late_patients_too(rng):
    came = rng.integers(0, 30, 400)
    left, died = came + rng.integers(1, 60, 400), rng.random(400) < 0.6
    asked = analytics.KaplanMeier(1, 90, small_cells=analytics.SmallCells(8, "suppress"), late_entry=True)
    curve = analytics.dry_run(asked, [(left, died, came)]).curves["all"]
    shown = np.concatenate([curve.events, curve.censored, curve.entered])
    assert len(curve.times) > 3
    assert not ((shown > 0) & (shown < 8)).any()
    assert curve.n == 400


@pytest.mark.parametrize(
    ("came", "left"), [([-1.0], [3.0]), ([3.0], [3.0]), ([4.0], [3.0]), ([np.nan], [3.0]), ([1.0, 2.0], [3.0])]
)
def test_entries_that_make_no_sense(came, left):
    with pytest.raises(InputError, match="entries"):
        analytics.KaplanMeier(1, 10, late_entry=True).prepared(left, [1] * len(left), came)
