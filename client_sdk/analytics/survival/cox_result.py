"""The answer of a Cox model: hazard ratios, tests, concordance, and the survival of patients with given features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.chi_square import chi_square_tail, normal_tail
from client_sdk.analytics.survival.concordance import Concordance
from client_sdk.analytics.survival.cox_sums import Terms
from client_sdk.analytics.survival.curve import Z95
from client_sdk.columns import refuse, table

__all__ = ["Baseline", "ChiSquare", "CoxResult", "Proportionality", "SurvivalCurves"]


@dataclass(frozen=True)
class ChiSquare:
    """A test whose statistic has the chi-square distribution.

    Attributes:
        statistic: the larger, the less the data look like the null hypothesis. NaN with a penalty, under which it has
            another distribution.
        df: degrees of freedom.
        p: the p value.
    """

    statistic: float
    df: int
    p: float

    @classmethod
    def of(cls, statistic: float, df: int) -> ChiSquare:
        """Return the test of a statistic."""
        return cls(statistic, df, chi_square_tail(max(statistic, 0.0), df))


@dataclass(frozen=True)
class Proportionality:
    """Whether hazard ratios stay the same over time: score tests from sums of Schoenfeld residuals.

    Each tests a coefficient that grows with a function g of time, b + c g(t), for c = 0. It is the test of `cox.zph` in
    R's package survival from version 3 on, with the variance at every event time rather than their average.

    Attributes:
        each: one test per feature.
        together: all features at once.
    """

    each: tuple[ChiSquare, ...]
    together: ChiSquare

    @classmethod
    def of(cls, residuals: NDArray[np.float64], information: NDArray[np.float64], p: int) -> Proportionality:
        """Return the tests.

        Args:
            residuals: sum of g times Schoenfeld residuals. Shape: (p,)
            information: of b and c, with sums of the covariance, times g, and times its square. Shape: (2 p, 2 p)
        """

        def test(which: list[int]) -> ChiSquare:
            own = [*range(p), *(p + k for k in which)]
            score = np.concatenate([np.zeros(p), residuals[which]])
            among = information[np.ix_(own, own)]
            scale = 1 / np.sqrt(np.maximum(np.diag(among), 1e-300))
            # A feature that does not vary over time's function has nothing to test: least squares leave it out.
            found = np.linalg.lstsq(among * np.outer(scale, scale), score * scale, rcond=1e-11)
            return ChiSquare.of(float((score * scale) @ found[0]), len(which))

        return cls(tuple(test([k]) for k in range(p)), test(list(range(p))))

    @classmethod
    def unknown(cls, p: int) -> Proportionality:
        """Return tests of which nothing is known."""
        return cls((ChiSquare.of(math.nan, 1),) * p, ChiSquare.of(math.nan, p))


@dataclass(frozen=True)
class SurvivalCurves:
    """Survival of patients with given features: step functions that fall at `times`.

    Attributes:
        times: event times. Shape: (times,)
        survival: from each time on. Shape: (patients, times)
        variance: of the cumulative hazard, with that of the coefficients. Shape: (patients, times)
    """

    times: NDArray[np.float64]
    survival: NDArray[np.float64]
    variance: NDArray[np.float64]

    def interval(self, z: float = Z95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the pointwise confidence interval on the scale of the cumulative hazard, at most 1.

        Args:
            z: quantile of the normal distribution.
        """
        width = z * np.sqrt(self.variance)
        return self.survival * np.exp(-width), np.minimum(self.survival * np.exp(width), 1.0)


@dataclass(frozen=True)
class Baseline:
    """Cumulative hazard of a patient with the features `centre`, of one stratum.

    Attributes:
        times: event times. Units: those of the grid. Shape: (times,)
        events: how many had the event. Shape: (times,)
        hazard: cumulative, by Breslow's estimate or by Efron's where ties are handled his way. Shape: (times,)
        squares: cumulated squares of its increments, its variance if coefficients were known. Shape: (times,)
        paths: cumulated increments times the risk sets' mean features, from the centre. Shape: (times, p)
    """

    times: NDArray[np.float64]
    events: NDArray[np.int64]
    hazard: NDArray[np.float64]
    squares: NDArray[np.float64]
    paths: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        times: NDArray[np.float64],
        events: NDArray[np.int64],
        terms: Terms,
        centre: NDArray[np.float64],
    ) -> Baseline:
        """Cumulate the terms of a stratum's cells."""
        paths = np.cumsum(terms.paths - terms.hazard[:, None] * centre, axis=0)
        return cls(times, events, np.cumsum(terms.hazard), np.cumsum(terms.squares), paths)


@dataclass(frozen=True)
class CoxResult:
    """A fitted Cox model, the same as the pooled fit.

    Attributes:
        coefficients: log hazard ratios. Shape: (p,)
        covariance: their variances and covariances, from the inverse of the observed information, with a ridge in it;
            NaN with a lasso, under which it says nothing of errors. Shape: (p, p)
        log_likelihood: partial, at the coefficients.
        null_log_likelihood: partial, at 0.
        score: Rao's test that all coefficients are 0; with one grouping feature and no ties the log-rank test.
        concordance: within hospitals and strata.
        proportionality: tests of proportional hazards.
        centre: features that the baselines are about. Shape: (p,)
        baselines: by stratum, "all" without strata; empty with strata by hospital, where each hospital has its own
            (`CoxRegression.own_baseline`).
        events: how many there were.
        n: patients of all sites together.
        steps: rounds it took.
        n_sites: how many sites are in it.
    """

    coefficients: NDArray[np.float64]
    covariance: NDArray[np.float64]
    log_likelihood: float
    null_log_likelihood: float
    score: ChiSquare
    concordance: Concordance
    proportionality: Proportionality
    centre: NDArray[np.float64]
    baselines: Mapping[str, Baseline]
    events: int
    n: int
    steps: int
    n_sites: int

    @property
    def errors(self) -> NDArray[np.float64]:
        """Standard errors of the coefficients. Shape: (p,)."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    @property
    def p_values(self) -> NDArray[np.float64]:
        """Wald's tests of each coefficient. Shape: (p,)."""
        return np.array([normal_tail(z) for z in self.coefficients / self.errors])

    @property
    def hazard_ratios(self) -> NDArray[np.float64]:
        """By how much the hazard is multiplied when a feature grows by one. Shape: (p,)."""
        return np.asarray(np.exp(self.coefficients))

    def interval(self, z: float = Z95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the confidence interval of the hazard ratios.

        Args:
            z: quantile of the normal distribution.
        """
        width = z * self.errors
        return np.exp(self.coefficients - width), np.exp(self.coefficients + width)

    @property
    def likelihood_ratio(self) -> ChiSquare:
        """Test that all coefficients are 0, by the likelihood's rise."""
        rise = 2 * (self.log_likelihood - self.null_log_likelihood)
        return ChiSquare.of(math.nan if self._penalised else rise, self.coefficients.size)

    @property
    def wald(self) -> ChiSquare:
        """Test that all coefficients are 0, by their distance from it."""
        statistic = float(self.coefficients @ np.linalg.solve(self.covariance, self.coefficients))
        return ChiSquare.of(math.nan if self._penalised else statistic, self.coefficients.size)

    @property
    def _penalised(self) -> bool:
        return math.isnan(self.score.statistic)

    def survival(self, rows: Any, stratum: str = "all", baseline: Baseline | None = None) -> SurvivalCurves:
        """Return the survival of patients with these features.

        Args:
            rows: Shape: (patients, p)
            stratum: whose baseline to take.
            baseline: another one, as of `CoxRegression.own_baseline`.
        """
        if baseline is None:
            if stratum not in self.baselines:
                known = ", ".join(self.baselines) or "none: each hospital has its own"
                raise refuse(
                    f"survival: expected a stratum with a baseline ({known}), got {stratum!r}",
                    "hand in `baseline=question.own_baseline(result, ...)` where strata are hospitals; a stratum "
                    "without events has no baseline",
                )
            baseline = self.baselines[stratum]
        away = table(rows, self.coefficients.size, "rows") - self.centre
        ratio = np.exp(away @ self.coefficients)
        hazard = ratio[:, None] * baseline.hazard
        paths = away[:, None, :] * baseline.hazard[None, :, None] - baseline.paths[None]
        spread = np.einsum("ntp,pq,ntq->nt", paths, self.covariance, paths)
        variance = ratio[:, None] ** 2 * (baseline.squares + spread)
        return SurvivalCurves(baseline.times, np.asarray(np.exp(-hazard)), variance)
