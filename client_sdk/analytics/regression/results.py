"""Results of regressions: coefficients and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.regression.families import Binomial
from client_sdk.analytics.regression.student import student_quantile
from client_sdk.columns import column, refuse, table

__all__ = ["LinearResult", "LogisticResult", "PoissonResult", "RegressionResult"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RegressionResult:
    """A fitted model, the same as the pooled fit.

    With a penalty, errors are those of the penalised likelihood and leave its bias out; with `l1` there are none, and
    no p values (NaN). AIC is NaN with any penalty.

    Attributes:
        intercept: the linear predictor where all features are 0.
        coefficients: Shape: (features,)
        errors: standard errors, the intercept's first. Shape: (features + 1,)
        p_values: Wald tests, the intercept's first. Shape: (features + 1,)
        deviance: twice the log likelihood that the model lacks of one with a mean for each row; of a linear
            regression the residual sum of squares.
        log_likelihood: of the outcomes, without penalty.
        aic: Akaike's criterion.
        n: rows of all sites together.
        weight: their weights together; n without weights.
        steps: rounds it took.
        n_sites: how many sites are in it.
    """

    intercept: float
    coefficients: Floats
    errors: Floats
    p_values: Floats
    deviance: float
    log_likelihood: float
    aic: float
    n: int
    weight: float
    steps: int
    n_sites: int

    @property
    def _all(self) -> Floats:
        return np.concatenate([[self.intercept], self.coefficients])

    def intervals(self, level: float = 0.95) -> Floats:
        """Return Wald's intervals, the intercept's first.

        Args:
            level: how often such intervals have the coefficient in them.

        Shape: (features + 1, 2)
        """
        if not 0 < level < 1:
            raise refuse(f"intervals: expected a level between 0 and 1, got {level}", "take 0.95, for instance")
        far = self._quantile(0.5 + level / 2) * self.errors
        return np.column_stack([self._all - far, self._all + far])

    def _quantile(self, p: float) -> float:
        return NormalDist().inv_cdf(p)

    def _predictor(self, rows: Any) -> Floats:
        return table(rows, self.coefficients.size, "rows") @ self.coefficients + self.intercept


@dataclass(frozen=True)
class LogisticResult(RegressionResult):
    """A fitted logistic regression: coefficients are log odds ratios."""

    @property
    def odds_ratios(self) -> Floats:
        """Odds ratios of the features."""
        return np.exp(self.coefficients)

    def odds_ratio_intervals(self, level: float = 0.95) -> Floats:
        """Return intervals of the odds ratios, low and high."""
        return np.exp(self.intervals(level)[1:])

    def probability(self, rows: Any) -> Floats:
        """Return the probability of the outcome for one's own rows, without an offset.

        Args:
            rows: Shape: (rows, features)
        """
        return Binomial().mean(self._predictor(rows))


@dataclass(frozen=True)
class PoissonResult(RegressionResult):
    """A fitted Poisson regression: coefficients are log rate ratios.

    Attributes:
        dispersion: Pearson's chi-square over its degrees of freedom: well above 1, counts vary more than Poisson's,
            and errors are too small by its square root. NaN without degrees of freedom.
    """

    dispersion: float

    @property
    def rate_ratios(self) -> Floats:
        """Rate ratios of the features."""
        return np.exp(self.coefficients)

    def rate_ratio_intervals(self, level: float = 0.95) -> Floats:
        """Return intervals of the rate ratios, low and high."""
        return np.exp(self.intervals(level)[1:])

    def expected(self, rows: Any, exposures: Any = None) -> Floats:
        """Return expected counts of one's own rows.

        Args:
            rows: Shape: (rows, features)
            exposures: 1 unless given. Shape: (rows,)
        """
        rates = np.exp(self._predictor(rows))
        return rates if exposures is None else rates * column(exposures, "exposures")


@dataclass(frozen=True)
class LinearResult(RegressionResult):
    """A fitted linear regression. Tests and intervals are Student's.

    Attributes:
        df: degrees of freedom of the residuals.
        sigma: standard deviation of the residuals.
        r_squared: share of the variance that the model explains; NaN if outcomes are all the same.
    """

    df: float
    sigma: float
    r_squared: float

    def _quantile(self, p: float) -> float:
        return student_quantile(p, self.df)

    def predicted(self, rows: Any) -> Floats:
        """Return the expected outcomes of one's own rows.

        Args:
            rows: Shape: (rows, features)
        """
        return self._predictor(rows)
