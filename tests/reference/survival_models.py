"""Cox models, late entry, competing events on awkward follow-up, against plain loops, statsmodels, scikit-survival.

The loops take every event time by itself and every patient at risk by name; the libraries take the pooled rows.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import statsmodels.api as sm
from scipy.optimize import linprog
from sksurv.nonparametric import cumulative_incidence_competing_risks
from statsmodels.duration.survfunc import SurvfuncRight

from client_sdk import analytics
from tests.reference.hospitals import NoAnswerError, asked, awkward, dealt, refused

LOOSE = analytics.SmallCells(1)


class Patients(NamedTuple):
    """On the grid, pooled."""

    x: np.ndarray
    came: np.ndarray
    left: np.ndarray
    event: np.ndarray
    stratum: np.ndarray
    hospital: np.ndarray
    weight: np.ndarray

    def take(self, rows):
        return Patients(*(column[rows] for column in self))

    def sets(self):
        """Each event time: who is at risk, and who has the event."""
        for stratum in np.unique(self.stratum):
            for time in np.unique(self.left[self.event & (self.stratum == stratum)]):
                at_risk = (self.stratum == stratum) & (self.came < time) & (time <= self.left)
                yield time, at_risk, at_risk & self.event & (self.left == time)


class Loops(NamedTuple):
    """The partial likelihood, its derivatives, and those with respect to a trend in time."""

    log: float
    gradient: np.ndarray
    information: np.ndarray
    hazard: dict


def loops(patients, b, efron, clock=None):
    """Sum over event times, event by event."""
    p = patients.x.shape[1]
    size = p if clock is None else 2 * p
    log, gradient, information, hazard = 0.0, np.zeros(size), np.zeros((size, size)), {}
    middle = patients.x.mean(axis=0)
    for time, at_risk, events in patients.sets():
        x = patients.x - middle
        z = x if clock is None else np.column_stack([x, x * clock(time)])
        w = np.where(at_risk, patients.weight * np.exp(np.where(at_risk, x @ b, 0)), 0)
        log += patients.weight[events] @ (x[events] @ b)
        gradient += patients.weight[events] @ z[events]
        load = patients.weight[events].mean()
        for order in range(int(events.sum())):
            share = np.where(events, 1 - order / events.sum(), 1.0) * w if efron else w
            mean = share @ z / share.sum()
            log -= load * np.log(share.sum())
            gradient -= load * mean
            information += load * ((z - mean) * (share / share.sum())[:, None]).T @ (z - mean)
            key = patients.stratum[events][0], time
            hazard[key] = hazard.get(key, 0.0) + load / share.sum()
    return Loops(log, gradient, information, hazard)


def monotone(patients):
    """Whether a direction has whoever has the event ahead of all at risk, some by more than nothing."""
    rows = [np.zeros((0, patients.x.shape[1]))]
    for _, at_risk, events in patients.sets():
        rows += [event - patients.x[at_risk] for event in patients.x[events]]
    design = np.unique(np.concatenate(rows), axis=0)
    scale = np.abs(design).max(axis=0, initial=0)
    design = design / np.where(scale > 0, scale, 1)
    program = linprog(-design.sum(axis=0), A_ub=-design, b_ub=np.zeros(len(design)), bounds=[(-1, 1)] * design.shape[1])
    return program.status == 0 and -program.fun > 1e-7


def follow_up(rng, n, most):
    """Times of leaving, of coming, and the grid's step."""
    left = rng.integers(1, int(rng.choice([4, 30, most])), n)
    came = np.floor(left * rng.random(n) * float(rng.choice([0.2, 0.9]))).astype(int)
    return left, came, int(rng.choice([1, 1, 3, 10]))


def cox(rng):
    n, p = int(rng.integers(0, 80 if rng.random() < 0.8 else 300)), int(rng.integers(1, 4))
    x = np.column_stack([awkward(rng, n, 0.01) for _ in range(p)]).reshape(n, p)
    if rng.random() < 0.85:
        x = np.round(rng.normal(0, float(rng.choice([0.1, 1, 2])), (n, p)), int(rng.integers(0, 3)))
    if rng.random() < 0.15 and p > 1:
        x[:, 1] = x[:, 0] + rng.normal(0, 10.0 ** -int(rng.integers(1, 8)), n)
    x = x.clip(-9.9, 9.9)
    left, came, step = follow_up(rng, n, 200)
    if rng.random() < 0.5 and n:  # hazards that depend on the features
        risk = (x @ rng.normal(0, 0.7, p)).clip(-5, 5)
        left = np.ceil(rng.exponential(30, n) * np.exp(-risk)).clip(1, 200).astype(int)
        came = np.minimum(came, left - 1)
    event = rng.random(n) < float(rng.choice([0.02, 0.3, 0.6, 1]))
    label = rng.choice(["a", "b", "c"], n, p=[0.6, 0.39, 0.01])
    kind, late, ties = (
        rng.choice(["site", "all", "labels"]),
        bool(rng.random() < 0.4),
        rng.choice(["efron", "breslow"]).item(),
    )
    horizon = int(rng.choice([40, 210]))
    weighted, l1, l2 = bool(rng.random() < 0.3), float(rng.choice([0, 0, 1, 10])), float(rng.choice([0, 0, 0, 2]))
    weight = rng.integers(0, 4, n) / 2 if weighted else np.ones(n)
    shares = dealt(rng, n, left)
    hospital = np.zeros(n, dtype=int)
    for number, share in enumerate(shares):
        hospital[share] = number
    last = -(-horizon // step)
    put = -(-left // step)
    everybody = Patients(
        x,
        came // step if late else np.full(n, -1),
        np.minimum(put, last),
        event & (put <= last),
        hospital if kind == "site" else np.searchsorted(["a", "b", "c"], label) * (kind == "labels"),
        hospital,
        weight,
    )
    strata = {"site": "site", "all": None, "labels": ["a", "b", "c"]}[kind]
    trend: Any = str(rng.choice(["identity", "log"]))
    question: Any = analytics.CoxRegression(
        p,
        step,
        horizon,
        strata=strata,
        ties=ties,
        late_entry=late,
        l1=l1,
        l2=l2,
        weights=analytics.Grid(0.5, 0, 2) if weighted else None,
        trend=trend,
        small_cells=LOOSE,
    )
    columns = [left, event.astype(int), x, *[label] * (kind == "labels"), *[weight] * weighted, *[came] * late]
    there = (everybody.came < last) & (weight > 0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            result, rows = asked(rng, question, *columns, shares=shares)
    except NoAnswerError as error:
        why_no_cox(error, everybody.take(error.rows[there[error.rows]]), ties == "efron", l1, l2)
        return
    rows = rows[there[rows]]
    patients = everybody.take(rows)
    assert (result.n, result.events) == (len(rows), patients.event.sum())
    b, efron = result.coefficients, ties == "efron"
    exact = loops(patients, b, efron)
    at_maximum(result, exact, l1, l2)
    assert np.isclose(result.log_likelihood, exact.log, rtol=1e-9, atol=1e-9)
    null = loops(patients, np.zeros(p), efron)
    assert np.isclose(result.null_log_likelihood, null.log, rtol=1e-9, atol=1e-9)
    concordance(result, patients)
    if not l1 and not l2:
        assert not monotone(patients)
        score = null.gradient @ np.linalg.solve(null.information, null.gradient)
        assert np.isclose(result.score.statistic, score, rtol=1e-5, atol=1e-6)
        trend_test(result, patients, efron, trend, last)
        if not weighted:
            pooled_fit(b, patients, late, kind, ties)
    for i, name in enumerate(("all",) if kind == "all" else "abc" if kind == "labels" else ()):
        own = {time: step for (stratum, time), step in exact.hazard.items() if stratum == i}
        assert len(own) == (result.baselines[name].times.size if name in result.baselines else 0)
        if own:
            ratio = np.exp((result.centre - patients.x.mean(axis=0)) @ b)
            steps = np.cumsum([own[time] for time in sorted(own)]) * ratio
            assert np.allclose(result.baselines[name].hazard, steps, rtol=1e-6)


def at_maximum(result, exact, l1, l2):
    """The gradient is at its threshold where a coefficient is not 0, to 1e-6 of it, and within it elsewhere."""
    b, slope = result.coefficients, exact.gradient - l2 * result.coefficients
    information = exact.information + l2 * np.eye(b.size)
    active = (b != 0) | (l1 == 0)
    off = np.linalg.solve(information[np.ix_(active, active)], (slope - l1 * np.sign(b))[active])
    assert np.abs(off).max(initial=0) <= 1e-6
    assert (np.abs(slope[~active]) <= l1 + 1e-6 * max(1, np.abs(information).max())).all()
    if l1:
        assert np.isnan(result.covariance).all()
    else:
        covariance = np.linalg.inv(information)
        assert np.allclose(result.covariance, covariance, rtol=1e-5, atol=1e-7 * np.abs(covariance).max())


def pooled_fit(b, patients, late, kind, ties):
    """statsmodels' fit of the pooled patients, from nearby."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entry = patients.came + 0.5 if late else None
        strata = patients.stratum if kind != "all" else None
        model = sm.PHReg(patients.left, patients.x, patients.event.astype(int), entry=entry, strata=strata, ties=ties)
        fit = model.fit(start_params=b * 0.9, method="newton", tol=1e-14, maxiter=200, disp=0)
    if np.isfinite(fit.params).all():  # its steps are not halved
        assert (np.abs(b - fit.params) <= 2e-6 * np.maximum(1, np.abs(b))).all(), (b, fit.params)


def trend_test(result, patients, efron, trend, last):
    """The score test of b + c g(t), from the loops' derivatives with respect to both."""

    def clock(time):
        return np.log(time) / np.log(max(last, 2)) if trend == "log" else time / last

    p = patients.x.shape[1]
    with_trend = loops(patients, result.coefficients, efron, clock)
    for k, test in enumerate(result.proportionality.each):
        own = [*range(p), p + k]
        among = with_trend.information[np.ix_(own, own)]
        left_over = among[p, p] - among[p, :p] @ np.linalg.solve(among[:p, :p], among[:p, p])
        if left_over > 1e-6 * among[p, p] > 1e-15:  # else all events are at one time, or the feature varies at one only
            assert np.isclose(test.statistic, with_trend.gradient[p + k] ** 2 / left_over, rtol=1e-3, atol=1e-5)


def concordance(result, patients):
    """Pair by pair, within hospitals and strata."""
    risk = np.zeros(len(patients.x))
    for column, middle, coefficient in zip(patients.x.T, result.centre, result.coefficients, strict=True):
        risk += (column - middle) * coefficient
    counts = np.zeros(3, dtype=int)
    for i in np.flatnonzero(patients.event):
        later = (patients.left > patients.left[i]) | ((patients.left == patients.left[i]) & ~patients.event)
        others = later & (patients.came < patients.left[i])
        others &= (patients.hospital == patients.hospital[i]) & (patients.stratum == patients.stratum[i])
        counts += [(risk[others] < risk[i]).sum(), (risk[others] > risk[i]).sum(), (risk[others] == risk[i]).sum()]
    found = result.concordance
    assert [found.concordant, found.discordant, found.tied] == counts.tolist()


def why_no_cox(error, patients, efron, l1, l2):
    """Judge a refusal."""
    p = patients.x.shape[1]
    if not len(patients.x):
        refused(error, "expected patients" in error.message, "no patients")
    if not patients.event.any():
        refused(error, "expected events" in error.message, "no events")
    null = loops(patients, np.zeros(p), efron)
    if l2:  # nothing is left but hazards too far apart, which no features within 10 have under it
        refused(error, False, "a ridge has a maximum")
    if l1:
        spread = np.sqrt(np.maximum(np.diag(null.information), 1e-300))
        least = np.linalg.eigvalsh(null.information / np.multiply.outer(spread, spread))[0]
        refused(error, least < 1e-4, "columns alike: a lasso leaves them open")
    if np.linalg.matrix_rank(null.information, tol=1e-9 * max(np.trace(null.information), 1)) < p:
        refused(error, "depend" in error.message, "columns depend on each other")
    if monotone(patients):
        refused(error, True, "the features tell who is next")
    # There is a maximum, but so flat, or with hazards so far apart, that it cannot be vouched for.
    b = np.zeros(p)
    for _ in range(200):
        at = loops(patients, b, efron)
        move = np.linalg.lstsq(at.information, at.gradient, rcond=None)[0]
        size = 1.0
        while loops(patients, b + size * move, efron).log < at.log - 1e-10 and size > 1e-6:
            size /= 2
        b = b + size * move
        if np.abs(move).max() < 1e-9:
            break
    least = np.linalg.eigvalsh(loops(patients, b, efron).information)[0]
    spread = np.ptp(patients.x @ b)
    refused(error, least < 0.02 or spread > 12, "nearly separated or dependent, or hazards too far apart")


def late_entry(rng):
    """Kaplan-Meier curves of patients who come late."""
    n = int(rng.integers(0, 120))
    left, came, step = follow_up(rng, n, 300)
    died = rng.random(n) < float(rng.choice([0, 0.1, 0.6, 1]))
    horizon = int(rng.choice([20, 300]))
    question = analytics.KaplanMeier(step, horizon, late_entry=True)
    result, rows = asked(rng, question, left, died.astype(int), came, by=left)
    last = -(-horizon // step)
    exits, entries = np.minimum(-(-left[rows] // step), last), came[rows] // step
    happened = died[rows] & (-(-left[rows] // step) <= last)
    kept = entries < last
    exits, entries, happened = exits[kept], entries[kept], happened[kept]
    curve = result.curves["all"]
    assert result.n == kept.sum()
    product, lowest = 1.0, 1.0
    for i, time in enumerate(np.unique(exits)):
        events, there = (happened & (exits == time)).sum(), ((entries < time) & (time <= exits)).sum()
        product *= 1 - events / there
        assert (curve.events[i], curve.at_risk[i]) == (events, there)
        assert abs(curve.survival[i] - product) <= 1e-12
        fine = 1.0
        own = rows[kept]
        for exact in np.unique(left[own][died[own] & (left[own] <= time * step)]):
            at_risk = ((came[own] < exact) & (exact <= left[own])).sum()
            fine *= 1 - (died[own] & (left[own] == exact)).sum() / at_risk
        lowest = curve.lowest[i]
        assert lowest - 1e-12 <= fine <= curve.survival[i] + 1e-12
    if happened.any():
        pooled = SurvfuncRight(exits.astype(float), happened.astype(int), entry=entries.astype(float))
        at = np.searchsorted(np.rint(curve.times / step), pooled.surv_times)
        assert np.allclose(curve.survival[at], pooled.surv_prob, rtol=1e-10)


def competing(rng):
    """Cumulative incidence of two or three events."""
    n, causes = int(rng.integers(0, 120)), int(rng.integers(2, 4))
    left, came, step = follow_up(rng, n, 300)
    late = bool(rng.random() < 0.4)
    cause = rng.choice(causes + 1, n, p=rng.dirichlet(np.full(causes + 1, 0.7)))
    horizon = int(rng.choice([20, 300]))
    names = ["relapse", "death", "other"][:causes]
    question = analytics.CumulativeIncidence(step, horizon, names, late_entry=late)
    result, rows = asked(rng, question, left, cause, *[came] * late, by=left)
    last = -(-horizon // step)
    put = -(-left[rows] // step)
    exits, entries = np.minimum(put, last), came[rows] // step if late else np.full(rows.size, -1)
    had = np.where(put <= last, cause[rows], 0)
    kept = entries < last
    exits, entries, had = exits[kept], entries[kept], had[kept]
    curve = result.curves["all"]
    assert result.n == curve.n == kept.sum()
    survival, incidence = 1.0, np.zeros(causes)
    for i, time in enumerate(np.unique(exits)):
        there = ((entries < time) & (time <= exits)).sum()
        events = np.array([((exits == time) & (had == k + 1)).sum() for k in range(causes)])
        incidence = incidence + survival * events / there
        survival *= 1 - events.sum() / there
        assert np.array_equal(curve.events[:, i], events)
        assert np.allclose(curve.incidence[:, i], incidence, rtol=1e-12, atol=1e-15)
        assert abs(curve.survival[i] - survival) <= 1e-12
    if not late and set(range(1, causes + 1)) <= set(had.tolist()):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            _, pooled, bounds = cumulative_incidence_competing_risks(
                had, exits.astype(float), conf_type="log-log", var_type="Dinse_Approx"
            )
        assert np.allclose(curve.incidence, pooled[1:], rtol=1e-10)
        # Where all who are left have an event, it divides by zero and has no variance at any time.
        known = (curve.at_risk > curve.events.sum(axis=0)).all()
        for name, (low, high) in zip(names, bounds[1:] if known else (), strict=bool(known)):
            mine = curve.interval(name)
            inside = np.isfinite(low) & (curve.incidence[names.index(name)] > 0) & (curve.survival > 0)
            assert np.allclose(mine[0][inside], low[inside], rtol=1e-6, atol=1e-9)
            assert np.allclose(mine[1][inside], high[inside], rtol=1e-6, atol=1e-9)


CASES = {f.__name__: f for f in (cox, late_entry, competing)}
