"""Cox's proportional hazards model by Newton's method, with the hospitals' own risk sets or with everybody's."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import Analysis, Finished
from client_sdk.analytics.checks import MAX_ROWS, TOO_FEW, Grid
from client_sdk.analytics.integers import Field
from client_sdk.analytics.regression.newton import FRACTION_BITS, on_grid, real, symmetric
from client_sdk.analytics.regression.penalty import Penalty
from client_sdk.analytics.regression.rows import cells as feature_cells
from client_sdk.analytics.regression.rows import features_of, rows_of, weights_of
from client_sdk.analytics.regression.small import check_cells
from client_sdk.analytics.small_cells import SmallCells
from client_sdk.analytics.survival.concordance import Concordance, concordance_of
from client_sdk.analytics.survival.cox_newton import FAR, MOST_RISK, Fit, no_fit, stepped
from client_sdk.analytics.survival.cox_result import Baseline, ChiSquare, CoxResult, Proportionality
from client_sdk.analytics.survival.cox_site import own_derivatives, own_terms, shared_sums
from client_sdk.analytics.survival.cox_state import CoxData, CoxState, CoxSums, risk_of
from client_sdk.analytics.survival.cox_sums import Moments, Terms, terms_of
from client_sdk.analytics.survival.followup import TimeGrid, groups_of
from client_sdk.columns import expected, flags, refuse

__all__ = ["CoxRegression"]

_MOST_LOSS = 64
"""Largest mean loss of a site that is told."""

_MOST_SPREAD = 500
"""Largest difference of linear predictors at one hospital."""


@dataclass(frozen=True)
class CoxRegression(Analysis[CoxData, CoxState, CoxResult]):
    """Cox regression of time to event, with the same coefficients as the pooled fit to 1e-6.

    Times are put on the grid of `KaplanMeier`. There is a result only if a maximum of the partial likelihood provably
    exists and its information is so far from singular that rounding moves no coefficient by 1e-6; otherwise the error
    says whether columns depend on each other or tell who has the event next.

    `strata="site"`, the default, gives each hospital a baseline hazard of its own. It is the usual model of studies at
    several sites, and the one that tells least: risk sets stay at home. With `strata=None`, or with strata by a
    variable, hospitals share risk sets, whose sums travel. That is WebDISCO's way; see what it reveals.

    **Every hospital learns**, with strata by hospital, in each of about six rounds the gradient, the information and
    the logarithm of the partial likelihood over all hospitals at known coefficients, and at the end the sums of
    residuals with time and the numbers of concordant pairs: nothing per time and nothing per patient. **Otherwise** it
    learns how many had the event at each grid time (with weights, also what they weigh together) and, in each round,
    three sums over the patients of all hospitals at risk at each event time: of exp(x'b), of that times x, and times
    the products of x. *Two neighbouring risk sets differ by those who left in between. If that was one patient, the
    difference is this patient's features.* By day it is most of those who had the event. So take months or quarters,
    and `SmallCells(10, "suppress")`, with which nothing but counts is sent unless at least 10 had the event wherever
    anybody had.

    Attributes:
        features: how many columns.
        step: of the time grid. Units: those of the times, days for instance.
        horizon: longest time, put up to the grid. Longer ones are censored there.
        strata: "site" for one per hospital, None for one in all, or the labels of a variable.
        ties: "efron" or "breslow".
        late_entry: whether patients have a time from which on they are watched.
        feature_bound: largest absolute value of a feature; scale columns by agreed constants to about 1.
        l2: penalty l2/2 * |coefficients|^2 on the summed loss, minus the logarithm of the partial likelihood: theta of
            R's ridge(scale = FALSE).
        l1: penalty l1 * sum |coefficients|, likewise. alpha and l1_ratio of glmnet and of scikit-survival's
            CoxnetSurvivalAnalysis are (l1 + l2) / n and l1 / (l1 + l2); both handle ties by Breslow's method.
        weights: grid of a column of weights; None for none. By Breslow's method a patient of weight 3 is three; by
            Efron's, events at the same time have their mean weight each, as in R.
        trend: function of time for the test of proportional hazards; "log" needs events after time 0.
        small_cells: what to do where few patients have a feature, or few had the event at the same grid time.
        tolerance: stop when no coefficient moves by more.
        max_steps: rounds at most.
        max_rows: most patients of a site.
    """

    features: int
    step: float
    horizon: float
    strata: str | Sequence[str] | None = "site"
    ties: Literal["efron", "breslow"] = "efron"
    late_entry: bool = False
    feature_bound: float = 10.0
    l2: float = 0.0
    l1: float = 0.0
    weights: Grid | None = None
    trend: Literal["identity", "log"] = "identity"
    small_cells: SmallCells = SmallCells()  # noqa: RUF009
    tolerance: float = 1e-9
    max_steps: int = 50
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "horizon", TimeGrid.asked("CoxRegression", self.step, self.horizon).horizon)
        if self.features < 1 or not 0 < self.feature_bound < 2**20 or min(self.l1, self.l2) < 0:
            raise refuse("CoxRegression: expected at least one feature, a bound below 2^20, and l1 and l2 >= 0")
        if self.ties not in ("efron", "breslow") or self.trend not in ("identity", "log"):
            raise refuse("CoxRegression: expected ties 'efron' or 'breslow', and trend 'identity' or 'log'")
        if self.weights is not None and self.weights.low < 0:
            raise refuse(f"CoxRegression: expected weights from 0, got a grid from {self.weights.low:g}")
        labels = self._labels
        if (isinstance(self.strata, str) and self.strata != "site") or not labels or len(set(labels)) != len(labels):
            raise refuse("CoxRegression: expected strata 'site', None, or different labels, at least one")

    @property
    def _grid(self) -> TimeGrid:
        return TimeGrid(self.step, self.horizon)

    @property
    def _heaviest(self) -> int:
        return 1 if self.weights is None else max(1, math.ceil(self.weights.high))

    @property
    def _penalty(self) -> Penalty:
        return Penalty(self.l1, self.l2, intercept=False)

    @property
    def _points(self) -> int:
        return self._grid.last + 1

    @property
    def _shared(self) -> bool:
        """Whether hospitals share risk sets."""
        return self.strata != "site"

    @property
    def _labels(self) -> tuple[str, ...]:
        return ("all",) if self.strata is None or isinstance(self.strata, str) else tuple(self.strata)

    @property
    def fields(self) -> CoxSums[Field]:
        """Counts, sums over risk sets or the hospital's own derivatives, and what is asked at the end."""
        p, rows, x = self.features, self.max_rows, max(1, math.ceil(self.feature_bound))
        half = p * (p + 1) // 2
        scale = (rows << FRACTION_BITS) * self._heaviest
        most = scale * math.ceil(math.exp(MOST_RISK))
        keys = len(self._labels) * self._points if self._shared else 0
        tied = keys if self.ties == "efron" else 0
        own = 0 if self._shared else 1
        return CoxSums(
            n=Field((), rows),
            events=Field((), rows),
            beyond=Field((), rows),
            cells=Field((3, p + 1), rows),
            deaths=Field((keys,), rows),
            loads=Field((keys if self.weights else 0,), rows * self.weights.bound if self.weights else 0),
            weights=Field((keys,), most),
            features=Field((keys, p), most * x),
            products=Field((keys, half), most * x * x),
            tied_weights=Field((tied,), most),
            tied_features=Field((tied, p), most * x),
            tied_products=Field((tied, half), most * x * x),
            gradient=Field((p,), scale * 2 * x),
            hessian=Field((own, half), scale * x * x),
            loss=Field((own,), scale * _MOST_LOSS),
            trend=Field((p,), scale * 2 * x),
            trend_hessian=Field((2 * own, half), scale * x * x),
            pairs=Field((3,), rows * rows),
        )

    def prepared(self, *data: Any) -> CoxData:
        """Return the site's patients.

        Args:
            data: times, whether each ended with the event, features (rows, p), with several strata the label of each
                patient, weights where the question has them, and with late entry the time from which on each was
                watched.
        """
        asked = (len(self._labels) > 1, self.weights is not None, self.late_entry)
        more = tuple(itertools.compress(("strata", "weights", "entries"), asked))
        times, events, features, *rest = expected(data, "CoxRegression", "times", "events", "features", *more)
        columns = dict(zip(more, rest, strict=True))
        patients = self._grid.follow_up(times, columns.get("entries"), self.max_rows)
        rows, kept = features_of(features, self.features, self.feature_bound), patients.kept
        happened = flags(events, "events", kept.size)[kept] & patients.happened
        if len(rows) != kept.size:
            raise refuse("features: expected one row per time", "hand in columns of the same rows, in the same order")
        start = groups_of(columns.get("strata"), self._labels, rows, "stratum")[kept] * self._points
        steps = weights_of(columns.get("weights"), self.weights, kept.size)[kept]
        if self.trend == "log" and (happened & (patients.exits == 0)).any():
            raise refuse("times: expected events after time 0, got one at it", 'take trend="identity"')
        exits, entries = start + patients.exits, start + patients.entries
        weight = steps.astype(np.float64) * self._weight
        own = CoxData(rows[kept], exits, entries, happened, self._clock(patients.exits), steps, weight)
        return own.of(steps > 0)

    @property
    def _weight(self) -> float:
        """Return what one step of a weight is."""
        return 1.0 if self.weights is None else self.weights.step

    def _clock(self, number: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the trend's function of time, from 0 to 1. Tests are the same for multiples of it."""
        if self.trend == "log":
            return np.asarray(np.log(np.maximum(number, 1)) / math.log(max(self._grid.last, 2)))
        return number / self._grid.last

    def start(self) -> CoxState:
        """Return coefficients that are all 0."""
        zero = np.zeros(self.features)
        none: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        stage: Literal["count", "fit"] = "count" if self._shared else "fit"
        return CoxState(0, stage, none, np.zeros(0), zero, zero, zero, math.inf, math.inf, 0.0)

    def contribution(self, state: CoxState, data: CoxData) -> CoxSums[NDArray[Any]]:
        """Return the site's counts, or its sums at the current coefficients."""
        fields = self.fields
        nothing = CoxSums(*(np.zeros(field.shape, dtype=np.int64) for field in fields))
        values = nothing._replace(n=np.array(len(data.rows)), events=np.array(int(data.events.sum())))
        if state.step == 0:
            ones = np.ones(len(data.rows), dtype=np.int64)
            rows = rows_of(data.rows, data.events.astype(np.float64), np.zeros(len(ones)), ones, 1.0, self.max_rows)
            values = values._replace(cells=feature_cells(rows))
        if state.stage == "count":
            np.add.at(values.deaths, data.exits[data.events], 1)
            if self.weights:
                np.add.at(values.loads, data.exits[data.events], data.steps[data.events])
            return values
        risk = risk_of(data.rows, state)
        beyond = int((risk > MOST_RISK).sum()) if self._shared else int(np.ptp(risk) > _MOST_SPREAD if risk.size else 0)
        if beyond:
            return values._replace(beyond=np.array(beyond))
        if self._shared:
            own: dict[str, NDArray[Any]] | None = shared_sums(fields, state, data, risk)
        else:
            own = own_derivatives(fields, state, data, risk, efron=self.ties == "efron")
        if own is None:
            return values._replace(beyond=np.array(1))
        values = values._replace(**own)
        if state.stage == "end":
            pairs = concordance_of(risk, data.entries, data.exits, data.events)
            values = values._replace(pairs=np.array([pairs.concordant, pairs.discordant, pairs.tied]))
        return values

    def own_baseline(self, result: CoxResult, *data: Any) -> Baseline:
        """Return a hospital's baseline hazard from its own patients, where strata are hospitals. Nothing is sent.

        Args:
            result: the fit.
            data: as for the analysis.
        """
        if self._shared:
            raise refuse("own_baseline: expected strata by hospital, got shared ones", "take `result.baselines`")
        own = self.prepared(*data)
        state = replace(self.start(), beta=result.coefficients, centre=result.centre)
        cells, deaths, terms = own_terms(own, np.exp(risk_of(own.rows, state)), efron=self.ties == "efron")
        return Baseline.of(self._grid.times[cells], deaths, terms, result.centre)

    def advance(
        self,
        state: CoxState,
        sums: CoxSums[NDArray[Any]],
        n_sites: int,
    ) -> CoxState | Finished[CoxResult]:
        """Count events, take a Newton step, or half of the last one if the likelihood fell, or return the fit."""
        if not int(sums.n):
            raise refuse("CoxRegression: expected patients, the sites have none", TOO_FEW)
        if not int(sums.events):
            raise refuse(
                "CoxRegression: expected events, the sites' patients had none up to the horizon",
                "ask when there have been some, or agree on a later horizon",
            )
        if state.step == 0:
            check_cells("CoxRegression", sums.cells, self.small_cells)
        if state.stage == "count":
            deaths = self._counted(sums)
            loads = sums.loads.astype(np.float64) * self._weight if self.weights else deaths.astype(np.float64)
            return replace(state, step=1, stage="fit", deaths=deaths, loads=loads)
        fit = None if int(sums.beyond) else self._fit(state, sums, n_sites)
        if state.stage == "end":
            if fit is None:
                raise no_fit(FAR)
            return Finished(self._result(state, sums, fit, n_sites))
        if state.step + 1 >= self.max_steps:
            raise no_fit(f"no convergence in {self.max_steps} rounds")
        slack = 0.0 if fit is None else 2 * fit.off + 1e-12 * abs(fit.loss)
        if fit is None or not fit.loss + self._penalty.value(state.beta) <= state.loss + slack:
            if fit is None and np.abs(state.beta - state.before).max() * self.feature_bound < 2.0**-6:
                raise no_fit(FAR)
            return replace(state, step=state.step + 1, beta=on_grid((state.beta + state.before) / 2))
        return stepped(state, fit, self._penalty, self.feature_bound, self.tolerance)

    def _fit(self, state: CoxState, sums: CoxSums[NDArray[Any]], n_sites: int) -> Fit | None:
        """Work out the partial likelihood and its derivatives; None if a sum is too small to be told from 0."""
        rounding = n_sites * 2.0 ** -(FRACTION_BITS + 1)
        events = float(state.loads.sum()) if self._shared else int(sums.events) * self._heaviest
        # float64's own: pairwise sums, exp and quotients; a risk set in which all have the event costs Efron 1 + log.
        own = 2.0**-47 * events * (1 + math.log(max(events, 1)))
        wide = 1 + self.feature_bound
        cells = np.flatnonzero(state.deaths)
        if not self._shared:
            off, hessian = (rounding + own) * wide, symmetric(real(sums.hessian)[0], self.features)
            loss = float(real(sums.loss)[0])
            return Fit(loss, real(sums.gradient), hessian, off, off * 3 * wide, cells, None, state.centre)
        at_risk = self._moments(sums, cells, "")
        tied = self._moments(sums, cells, "tied_") if self.ties == "efron" else None
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = terms_of(state.deaths[cells], state.loads[cells], at_risk, tied)
        told = real(sums.gradient)
        loss = float(terms.logs.sum() - (told - events * state.centre) @ state.beta)
        if not (math.isfinite(loss) and terms.hazard.min() > 0 and np.isfinite(terms.covariances).all()):
            return None
        off = rounding + (2 * rounding * float(terms.hazard.sum()) + own) * 2 * wide
        hessian = symmetric(terms.covariances.sum(axis=0), self.features)
        largest = int(np.argmax(at_risk.weights))
        centre = on_grid(at_risk.features[largest] / at_risk.weights[largest])
        return Fit(loss, told - terms.means.sum(axis=0), hessian, off, off * 3 * wide, cells, terms, centre)

    def _moments(self, sums: CoxSums[NDArray[Any]], cells: NDArray[np.intp], prefix: str) -> Moments:
        parts = (getattr(sums, prefix + name)[cells] for name in ("weights", "features", "products"))
        return Moments(*(real(part) for part in parts))

    def _counted(self, sums: CoxSums[NDArray[Any]]) -> NDArray[np.int64]:
        """Return events by key, if they may be looked at closer."""
        deaths = np.asarray(sums.deaths, dtype=np.int64)
        for label, own in zip(self._labels, deaths.reshape(len(self._labels), -1), strict=True):
            if not own.any():
                warnings.warn(f"CoxRegression: nobody of stratum {label} had the event", UserWarning, stacklevel=2)
        self._guarded(deaths[deaths > 0])
        return deaths

    def _guarded(self, counts: NDArray[np.int64]) -> None:
        """Refuse to go on, or warn, if sums over risk sets would be about few patients."""
        rule = self.small_cells
        small = int(rule.of(counts).sum())
        if small and rule.action == "suppress":
            raise refuse(
                f"CoxRegression: expected at least {rule.below} events at the same grid time, got fewer in {small} of "
                f"{counts.size}; no sum of features was sent",
                'agree on a coarser step, or on strata="site", where no sum is about one time',
            )
        rule.applied(counts, "events at the same grid time")

    def _result(self, state: CoxState, sums: CoxSums[NDArray[Any]], fit: Fit, n_sites: int) -> CoxResult:
        p, baselines = self.features, {}
        trend = real(sums.trend)
        if fit.terms is None:
            late = real(sums.trend_hessian)
        else:
            clock = self._clock(fit.cells % self._points)
            trend = trend - clock @ fit.terms.means
            late = np.stack([clock, clock**2]) @ fit.terms.covariances
            for i, label in enumerate(self._labels):
                own = fit.cells // self._points == i
                terms = Terms(*(getattr(fit.terms, name)[own] for name in Terms.__dataclass_fields__))
                if own.any():
                    times = self._grid.times[fit.cells[own] % self._points]
                    baselines[label] = Baseline.of(times, state.deaths[fit.cells[own]], terms, state.centre)
        cross, square_ = (symmetric(half, p) for half in late)
        information = np.block([[fit.hessian, cross], [cross, square_]])
        ridged = np.full((p, p), math.nan) if self.l1 else self._penalty.ridged(fit.hessian)
        return CoxResult(
            coefficients=state.beta,
            covariance=np.asarray(np.linalg.inv(ridged), dtype=np.float64),
            log_likelihood=-fit.loss,
            null_log_likelihood=-state.null,
            score=ChiSquare.of(math.nan if self._penalty else state.score, p),
            concordance=Concordance(*(int(count) for count in sums.pairs)),
            proportionality=Proportionality.unknown(p) if self._penalty else Proportionality.of(trend, information, p),
            centre=state.centre,
            baselines=baselines,
            events=int(sums.events),
            n=int(sums.n),
            steps=state.step + 1,
            n_sites=n_sites,
        )
