"""Cox models from sums at several hospitals, against R's package survival and statsmodels on the pooled patients."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from sksurv.linear_model import CoxnetSurvivalAnalysis

from client_sdk import analytics
from he_agg import InputError
from tests.client_sdk.analytics.cohorts import COHORTS, cohort
from tests.client_sdk.analytics.comparing import bits

BY_R = json.loads((Path(__file__).parent / "by_r.json").read_text())
LOOSE = analytics.SmallCells(1)
MONTH = 30

pytestmark = pytest.mark.filterwarnings("ignore::client_sdk.analytics.SmallCellWarning")


def dealt(columns, site, hospitals):
    return [tuple(column[site == k] for column in columns) for k in range(hospitals)]


def pooled_fit(times, x, died, start=None, **options):
    """statsmodels' fit of all patients; its steps are not halved, so that far from the maximum they may go astray."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sm.PHReg(times, x, np.asarray(died).astype(int), **{"ties": "efron", **options})
        return model.fit(start_params=start, method="newton", tol=1e-14, maxiter=100, disp=0)


CASES = [case for case in BY_R if case.split()[0] in COHORTS and "incidence" not in case]


@pytest.mark.parametrize("case", CASES)
def test_everything_equals_r_on_clinical_data(case):
    """Coefficients, errors, likelihoods, three tests, proportionality, concordant pairs, survival and its error."""
    name, ties, kind = case.split()
    r, data = BY_R[case], cohort(name)
    step = 1 if kind == "hospitals" else MONTH
    columns: list[Any] = [data.days, data.died, data.features]
    strata: Any = {"hospitals": "site", "labels": ["0", "1", "2", "3"]}.get(kind)
    if kind == "labels":
        columns.append(data.site.astype(str))
    if kind == "weighted":
        columns.append(np.arange(data.days.size) % 4 / 2)
    if kind == "late":
        columns.append(np.floor(np.ceil(data.days / MONTH) / 3) * MONTH)

    def fitted(trend, hospitals):
        asked = analytics.CoxRegression(
            data.features.shape[1],
            step,
            data.days.max(),
            strata=strata,
            ties=ties,
            late_entry=kind == "late",
            l2=20.0 * (kind == "ridge"),
            weights=analytics.Grid(0.5, 0, 2) if kind == "weighted" else None,
            trend=trend,
            small_cells=LOOSE,
        )
        site = data.site if hospitals > 1 else np.zeros_like(data.site)
        return analytics.dry_run(asked, dealt(columns, site, hospitals))

    fit = fitted("identity", 4)
    assert np.abs(fit.coefficients - r["coefficients"]).max() < 1e-9
    assert np.allclose(fit.errors, r["errors"], rtol=1e-9)
    assert np.allclose([fit.null_log_likelihood, fit.log_likelihood], r["log_likelihoods"], rtol=1e-11)
    if kind == "ridge":  # R's tests are others
        assert all(np.isnan(test.p) for test in (fit.likelihood_ratio, fit.wald, fit.score, *fit.proportionality.each))
        return
    tests = [fit.likelihood_ratio, fit.wald, fit.score]
    assert np.allclose([test.statistic for test in tests], r["tests"], rtol=1e-9)
    for trend in ("identity", "log"):
        proportional = (fit if trend == "identity" else fitted(trend, 4)).proportionality
        found = [test.statistic for test in (*proportional.each, proportional.together)]
        assert np.allclose(found, r[trend], rtol=1e-8)
    # Pairs across hospitals are in no sum, so the pooled figure needs one hospital, or strata that are hospitals.
    if "pairs" in r:
        pairs = (fit if strata else fitted("identity", 1)).concordance
        assert [pairs.concordant, pairs.discordant, pairs.tied] == r["pairs"]
    if "times" in r:
        curves = fit.survival(data.features[[0, 4]])
        at = np.searchsorted(curves.times, np.array(r["times"]) * step)
        assert np.allclose(curves.survival[:, at], r["survival"], rtol=1e-10)
        assert np.allclose(np.sqrt(curves.variance[:, at]), r["hazard_errors"], rtol=1e-9)


@pytest.mark.parametrize("name", COHORTS)
@pytest.mark.parametrize("strata", [None, "site"])
def test_one_to_eight_hospitals_of_unlike_size_one_without_events(name, strata):
    data = cohort(name)
    for hospitals in (1, 2, 3, 5, 8) if len(data.days) < 1000 else (1, 8):
        site = np.minimum(np.random.default_rng(hospitals).geometric(0.45, data.days.size) - 1, hospitals - 1)
        died = data.died & ((site != hospitals - 1) | (hospitals == 1))
        question = analytics.CoxRegression(
            data.features.shape[1], MONTH, data.days.max(), strata=strata, small_cells=LOOSE
        )
        fit = analytics.dry_run(question, dealt([data.days, died, data.features], site, hospitals))
        months = np.ceil(data.days / MONTH)
        pooled = pooled_fit(months, data.features, died, 0.9 * fit.coefficients, strata=site if strata else None)
        assert np.abs(fit.coefficients - pooled.params).max() < 1e-6
        assert np.allclose(fit.errors, pooled.bse, rtol=1e-6)
        assert np.isclose(fit.log_likelihood, pooled.llf, rtol=1e-9)
        assert (fit.n, fit.events, fit.n_sites) == (data.days.size, died.sum(), hospitals)


def test_a_hospital_has_a_baseline_of_its_own():
    """Without ties Efron's hazard is Breslow's, which statsmodels has."""
    data = cohort("veterans")
    days = data.days + np.arange(data.days.size) / 200
    question = analytics.CoxRegression(8, 0.005, days.max(), small_cells=LOOSE)
    shares = dealt([days, data.died, data.features], data.site, 4)
    fit = analytics.dry_run(question, shares)
    own = question.own_baseline(fit, *shares[2])
    pooled = pooled_fit(days, data.features, data.died, strata=data.site, ties="breslow")
    times, hazard, _ = pooled.baseline_cumulative_hazard[2]  # just before each time
    before = np.searchsorted(np.rint(own.times / 0.005), np.rint(times / 0.005))
    assert np.allclose(np.append(0, own.hazard)[before], hazard, rtol=1e-9)
    curve = fit.survival(np.zeros((1, 8)), baseline=own).survival[0]
    assert np.allclose(np.append(1, curve)[before], np.exp(-hazard), rtol=1e-9)
    with pytest.raises(InputError, match="each hospital has its own"):
        fit.survival(np.zeros((1, 8)))


PENALTIES = [(20.0, 0.0), (15.0, 15.0), (60.0, 5.0)]


@pytest.mark.parametrize("name", COHORTS)
@pytest.mark.parametrize(("l1", "l2"), PENALTIES)
def test_a_lasso_and_an_elastic_net_are_scikit_survivals(name, l1, l2):
    data, n = cohort(name), len(cohort(name).days)
    question = analytics.CoxRegression(
        data.features.shape[1], MONTH, data.days.max(), strata=None, ties="breslow", l1=l1, l2=l2, small_cells=LOOSE
    )
    fit = analytics.dry_run(question, dealt([data.days, data.died, data.features], data.site, 4))
    outcome = np.array(
        list(zip(data.died, np.ceil(data.days / MONTH), strict=True)), [("event", bool), ("time", float)]
    )
    pooled = CoxnetSurvivalAnalysis(alphas=[(l1 + l2) / n], l1_ratio=l1 / (l1 + l2), tol=1e-14, max_iter=10**6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where no coefficient is left
        pooled.fit(data.features, outcome)
    assert np.abs(fit.coefficients - pooled.coef_[:, 0]).max() < 1e-6
    assert np.array_equal(fit.coefficients == 0, pooled.coef_[:, 0] == 0)
    assert np.isnan(fit.errors).all()
    assert fit.survival(data.features[:1]).survival.size


def test_a_patient_of_weight_3_is_three_by_breslows_method(rng):
    data = cohort("whas500")
    times = rng.integers(0, 4, data.days.size)
    columns, p = [data.days, data.died, data.features], data.features.shape[1]
    for strata in (None, "site"):
        asked: Any = {"strata": strata, "ties": "breslow", "small_cells": LOOSE}
        weighted = analytics.CoxRegression(p, MONTH, data.days.max(), weights=analytics.Grid(1, 0, 5), **asked)
        fit = analytics.dry_run(weighted, dealt([*columns, times], data.site, 4))
        again = np.repeat(np.arange(times.size), times)
        plain = analytics.CoxRegression(p, MONTH, data.days.max(), **asked)
        repeated = analytics.dry_run(plain, dealt([c[again] for c in columns], data.site[again], 4))
        assert np.allclose(fit.coefficients, repeated.coefficients, atol=1e-9)
        assert np.allclose(fit.covariance, repeated.covariance, rtol=1e-9)
        assert fit.log_likelihood == pytest.approx(repeated.log_likelihood, rel=1e-12)
        assert fit.proportionality.together.statistic == pytest.approx(
            repeated.proportionality.together.statistic, rel=1e-9
        )
        assert (fit.n, repeated.n) == ((times > 0).sum(), times.sum())


def test_a_penalty_gives_an_answer_where_features_tell_who_is_next():
    question = analytics.CoxRegression(1, 1, 60, l2=1.0, small_cells=LOOSE)
    fit = analytics.dry_run(question, [(DAYS, DAYS > 0, -X)])
    assert fit.errors > 0
    none = analytics.dry_run(analytics.CoxRegression(1, 1, 60, l1=1e4, small_cells=LOOSE), [(DAYS, DAYS > 0, -X)])
    assert none.coefficients.tolist() == [0.0]
    assert none.log_likelihood == pytest.approx(none.null_log_likelihood)


def test_two_patients_by_hand():
    """exp(b) / (exp(b) + 2) for the first event, 1 / 2 for the second: b = 0 at first, hazard 1/3 and then 1/2."""
    times, died, x = np.array([1, 2, 3]), np.array([1, 1, 0]), np.array([[1.0], [0.0], [1.0]])
    asked = analytics.CoxRegression(1, 1, 3, strata=None, small_cells=LOOSE)
    fit = analytics.dry_run(asked, [(times, died, x)])
    b = fit.coefficients[0]
    p, q = 2 * np.exp(b) / (2 * np.exp(b) + 1), np.exp(b) / (np.exp(b) + 1)
    assert (1 - p) + (0 - q) == pytest.approx(0, abs=1e-9)
    assert fit.errors[0] == pytest.approx((p * (1 - p) + q * (1 - q)) ** -0.5, rel=1e-9)
    assert fit.null_log_likelihood == pytest.approx(-np.log(6))
    assert (fit.concordance.concordant, fit.concordance.discordant, fit.concordance.tied) == (1, 1, 1)
    assert fit.concordance.value == 0.5


def test_newton_halves_steps_that_overshoot():
    """One patient far out: the first step from 0 goes too far, and the likelihood falls."""
    x = np.array([0.0] * 20 + [0.01] * 20 + [9.9])[:, None]
    times, died = np.r_[np.arange(1, 41), 20], np.r_[np.tile([1, 0], 20), 1]
    fit = analytics.dry_run(analytics.CoxRegression(1, 1, 50, small_cells=LOOSE), [(times, died, x)])
    assert fit.coefficients == pytest.approx(pooled_fit(times, x, died).params, abs=1e-6)


X = np.linspace(-1, 1, 30)[:, None]
DAYS = np.arange(1, 31)
WRONG: dict[str, tuple[tuple[Any, ...], str]] = {
    "the features tell who is next": ((DAYS, DAYS > 0, -X), "tell who has the event next"),
    "one event": ((DAYS, DAYS == 3, X), "tell who has the event next"),
    "a category without events": ((DAYS, DAYS % 2, (DAYS % 2 == 0)[:, None]), "tell who has the event next"),
    "dependent columns": ((DAYS, DAYS % 3 > 0, np.column_stack([X**2, 2 * X**2])), "depend on each other"),
    "a constant": ((DAYS, DAYS % 3 > 0, np.column_stack([X**2, np.ones(30)])), "the same for all who are at risk"),
    "no events": ((DAYS, DAYS == 0, X), "expected events"),
    "events after the horizon": ((DAYS + 100, DAYS > 0, X), "expected events"),
    "nobody": (([], [], np.empty((0, 1))), "expected patients"),
}


@pytest.mark.parametrize("strata", [None, "site"])
@pytest.mark.parametrize("name", WRONG)
def test_data_without_an_answer_get_a_sentence(name, strata):
    (times, died, x), message = WRONG[name]
    question = analytics.CoxRegression(x.shape[1], 1, 60, strata=strata, small_cells=LOOSE)
    with pytest.raises(InputError, match=message) as caught:
        analytics.dry_run(question, [(times, died, x), ([], [], np.empty((0, x.shape[1])))])
    assert caught.value.hint


def test_a_stratum_in_which_nothing_happened_is_named_and_changes_nothing(rng):
    x, days, died = rng.normal(0, 1, (90, 1)), rng.integers(1, 30, 90), rng.random(90) < 0.6
    label = rng.choice(["a", "b"], 90)
    two = analytics.CoxRegression(1, 1, 30, strata=["a", "b"], small_cells=LOOSE)
    three = analytics.CoxRegression(1, 1, 30, strata=["a", "nobody", "b"], small_cells=LOOSE)
    with pytest.warns(UserWarning, match="nobody of stratum nobody had the event"):
        fit = analytics.dry_run(three, [(days, died, x, label)])
    assert bits(fit.coefficients) == bits(analytics.dry_run(two, [(days, died, x, label)]).coefficients)
    with pytest.raises(InputError, match="got 'nobody'"):
        fit.survival([[0.0]], "nobody")


def test_hazards_too_far_apart_to_be_summed_get_a_sentence():
    """A coefficient of about 9 and features from 0 to 9: exp(40) times the average."""
    rng = np.random.default_rng(3)
    x = np.round(np.abs(rng.normal(0, 0.4, 400)), 1).clip(0, 9)
    x[:4] = [9, 9, 9, 8]
    times = np.argsort(np.argsort(np.log(rng.exponential(1, 400)) - 6 * np.minimum(x, 5))) + 1
    with pytest.raises(InputError, match="maximum of the partial likelihood"):
        analytics.dry_run(
            analytics.CoxRegression(1, 1, 500, strata=None, small_cells=LOOSE),
            [(times, np.ones(400), x[:, None])],
        )


def test_small_cells_end_it_before_any_feature_is_sent(rng):
    """By day a risk set less the next one is a patient; the question ends after counts, and a coarser step helps."""
    x, days, died = rng.normal(0, 1, (300, 2)).clip(-9, 9), rng.integers(1, 90, 300), rng.random(300) < 0.7
    rule = analytics.SmallCells(10, "suppress")
    by_day = analytics.CoxRegression(2, 1, 90, strata=None, small_cells=rule)
    own = by_day.prepared(days, died, x)
    first = by_day.contribution(by_day.start(), own)
    told = [name for name in first._fields if np.any(getattr(first, name))]
    assert told == ["n", "events", "cells", "deaths"]
    with pytest.raises(InputError, match=r"at least 10 events at the same grid time.* no sum of features was sent"):
        analytics.dry_run(by_day, [(days, died, x)])
    fit = analytics.dry_run(analytics.CoxRegression(2, 15, 90, strata=None, small_cells=rule), [(days, died, x)])
    assert min(np.ravel(fit.baselines["all"].events)) >= 10
    with pytest.warns(analytics.SmallCellWarning, match="events at the same grid time"):
        analytics.dry_run(analytics.CoxRegression(2, 1, 90, strata=None), [(days, died, x)])


def test_what_the_page_says_about_neighbouring_risk_sets():
    """The worked example of docs/analytics.md: a difference of two sums is the patient who left in between."""
    days, died = np.array([3, 5, 8, 8]), np.array([1, 1, 0, 1])
    x = np.array([[0.7, 1.0], [0.1, 0.0], [-0.4, 1.0], [0.2, 0.0]])
    asked = analytics.CoxRegression(2, 1, 10, strata=None, ties="breslow", small_cells=LOOSE)
    own = asked.prepared(days, died, x)
    start = asked.start()
    counted: Any = asked.advance(start, asked.contribution(start, own), 1)
    sums = asked.contribution(counted, own)  # at b = 0
    features = np.vectorize(lambda number: int(number) / 2**40)(sums.features)
    assert features[3] - features[5] == pytest.approx([0.7, 1.0])
    alone = analytics.CoxRegression(2, 1, 10, small_cells=LOOSE)
    sent = alone.contribution(alone.start(), alone.prepared(days, died, x))
    assert all(getattr(sent, name).size == 0 for name in ("deaths", "weights", "features", "products"))


def test_late_patients_are_not_at_risk_before_they_came():
    question = analytics.CoxRegression(1, 1, 10, strata=None, late_entry=True, small_cells=LOOSE)
    columns = ([2, 4, 6, 8], [1, 1, 1, 1], [[0.0], [1.0], [0.0], [1.0]], [0, 3, 1, 4])
    fit = analytics.dry_run(question, [columns])
    # statsmodels has those at risk who come at the time of an event; R, and we, only who came before.
    pooled = pooled_fit(columns[0], np.array(columns[2]), columns[1], entry=np.array(columns[3]) + 0.5)
    assert fit.coefficients == pytest.approx(pooled.params, abs=1e-6)
    with pytest.raises(InputError, match="before its time, got 1 at or after it, the first at position 2"):
        question.prepared(columns[0], columns[1], columns[2], [0, 3, 6, 4])
    away = question.prepared([2, 400], [1, 1], [[0.0], [1.0]], [0, 300])  # came after the horizon: not in it
    assert len(away.rows) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: analytics.CoxRegression(0, 1, 10),
        lambda: analytics.CoxRegression(1, 1, 10, strata="hospital"),
        lambda: analytics.CoxRegression(1, 1, 10, strata=["a", "a"]),
        lambda: analytics.CoxRegression(1, 1, 10, ties="exact"),  # type: ignore[arg-type]
        lambda: analytics.CoxRegression(1, 0, 10),
        lambda: analytics.CoxRegression(1, 1, 10, l1=-1.0),
        lambda: analytics.CoxRegression(1, 1, 10, weights=analytics.Grid(1, -1, 1)),
        lambda: analytics.CumulativeIncidence(1, 10, []),
        lambda: analytics.CumulativeIncidence(1, 10, ["a"], ["b", "b"]),
    ],
)
def test_questions_that_make_no_sense(make):
    with pytest.raises(InputError):
        make()
