"""Logistic and Poisson regression: the questions that Newton's method answers."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import Analysis, Finished
from client_sdk.analytics.checks import MAX_ROWS, TOO_FEW, Grid
from client_sdk.analytics.chi_square import normal_tail
from client_sdk.analytics.integers import Field
from client_sdk.analytics.regression.families import Binomial, Family, Poisson
from client_sdk.analytics.regression.newton import Curve, Fit, Newton, Solved, bound, real, whole
from client_sdk.analytics.regression.penalty import Penalty
from client_sdk.analytics.regression.results import LogisticResult, PoissonResult
from client_sdk.analytics.regression.rows import (
    Rows,
    bounded,
    cells,
    exposures,
    features_of,
    one_each,
    rows_of,
    weights_of,
)
from client_sdk.analytics.regression.small import check_cells
from client_sdk.analytics.small_cells import SmallCells
from client_sdk.columns import column, expected, refuse

__all__ = ["LogisticRegression", "NewtonRegression", "PoissonRegression", "RegressionSums"]

T = TypeVar("T")
R = TypeVar("R")

_PEARSON = 2.0**20
"""Largest mean contribution of a row to Pearson's chi-square that is told."""


class RegressionSums(NamedTuple, Generic[T]):
    """Rows, their weights, cells, gradient, upper half of the Hessian, loss, what the loss leaves out, chi-square."""

    n: T
    weight: T
    cells: T
    gradient: T
    hessian: T
    loss: T
    saturated: T
    pearson: T


@dataclass(frozen=True)
class NewtonRegression(Analysis[Rows, Fit, R]):
    """A regression by Newton's method. Subclasses say which family, and what the result is."""

    features: int
    feature_bound: float = 10.0
    l2: float = 0.0
    l1: float = 0.0
    offset: float = 0.0
    weights: Grid | None = None
    tolerance: float = 1e-9
    max_steps: int = 50
    max_rows: int = MAX_ROWS
    small_cells: SmallCells = SmallCells()  # noqa: RUF009

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features < 1 or not 0 < self.feature_bound < 2**30 or min(self.l1, self.l2) < 0:
            raise refuse(f"{self._who}: expected at least one feature, a bound below 2^30, and l1 and l2 >= 0")
        if not 0 <= self.offset <= 30:
            raise refuse(f"{self._who}: expected offsets of at most 0 to 30, got {self.offset:g}")
        if self.weights is not None and self.weights.low < 0:
            raise refuse(f"{self._who}: expected weights from 0, got a grid from {self.weights.low:g}")

    @property
    def _who(self) -> str:
        return type(self).__name__

    @property
    @abstractmethod
    def family(self) -> Family:
        """Link, variance and loss."""

    @abstractmethod
    def _result(self, plain: dict[str, Any], pearson: float) -> R:
        """Make the result of what all families have."""

    @property
    def newton(self) -> Newton:
        """What is the same in all steps."""
        return Newton(
            self._who,
            self.family,
            self.features,
            self.feature_bound,
            self._offset,
            self.weights,
            self.tolerance,
            self.max_steps,
            self.max_rows,
            self.family.starts_at_mean,
        )

    @property
    def _offset(self) -> float:
        return self.offset

    @property
    def fields(self) -> RegressionSums[Field]:
        """Rows, weights, cells, gradient, Hessian, loss, saturated log likelihood, chi-square."""
        newton = self.newton
        return RegressionSums(
            Field((), self.max_rows),
            Field((), newton.most_steps),
            Field((3, self.features + 1), self.max_rows),
            *newton.curve(),
            saturated=Field((), bound(newton.most_loss)),
            pearson=Field((), bound(_PEARSON * newton.most_weight)),
        )

    @property
    def _names(self) -> tuple[str, ...]:
        """Name the columns of data that come after features and outcomes."""
        return ("offsets",) * (self.offset > 0) + ("weights",) * (self.weights is not None)

    def prepared(self, *data: Any) -> Rows:
        """Return the site's rows.

        Args:
            data: features, shape (rows, features), and outcomes, shape (rows,); then, where the question has them,
                offsets (or exposures) and weights.
        """
        features, outcomes, *more = expected(data, self._who, "features", "outcomes", *self._names)
        x = features_of(features, self.features, self.feature_bound)
        y = self.family.outcomes(outcomes, len(x))
        columns = dict(zip(self._names, more, strict=True))
        steps = weights_of(columns.get("weights"), self.weights, len(x))
        return rows_of(x, y, self._offsets(columns, len(x)), steps, self.newton.step_of_weights, self.max_rows)

    def _offsets(self, columns: dict[str, Any], rows: int) -> NDArray[np.float64]:
        if "offsets" not in columns:
            return np.zeros(rows)
        offset = column(columns["offsets"], "offsets")
        one_each(offset, rows, "offsets")
        bounded(offset, self.offset, "offsets", "agree on a larger bound of offsets with the other sites")
        return offset

    def start(self) -> Fit:
        """Return coefficients that are all 0."""
        return self.newton.begin()

    def contribution(self, state: Fit, data: Rows) -> RegressionSums[NDArray[Any]]:
        """Return the site's sums at the current coefficients."""
        newton, family = self.newton, self.family
        mean = family.mean(data.x @ state.beta + data.offset)
        spread = np.maximum(family.variance(mean), 2.0**-1000)
        pearson = min(float(data.weight @ ((data.y - mean) ** 2 / spread)), _PEARSON * newton.most_weight)
        return RegressionSums(
            np.array(len(data.y)),
            np.array(int(data.steps.sum())),
            cells(data),
            *newton.tell(data, state.beta),
            saturated=whole(np.array(float(data.weight @ family.saturated(data.y)))),
            pearson=whole(np.array(pearson)),
        )

    def advance(self, state: Fit, sums: RegressionSums[NDArray[Any]], n_sites: int) -> Fit | Finished[R]:
        """Take a Newton step, or half of the last one if the loss rose, or return the fit."""
        if int(sums.n) == 0:
            raise refuse(f"{self._who}: expected patients, the sites have none", TOO_FEW)
        if state.step == 0:
            check_cells(self._who, sums.cells, self.small_cells)
        penalty = Penalty(self.l1, self.l2)
        curve = Curve(sums.gradient, sums.hessian, sums.loss)
        after = self.newton.step(state, curve, penalty, n_sites)
        if isinstance(after, Fit):
            return after
        return Finished(self.result_of(after, sums, state.step + 1, n_sites, penalty))

    def result_of(
        self, fit: Solved, sums: RegressionSums[NDArray[Any]], steps: int, n_sites: int, penalty: Penalty
    ) -> R:
        """Make a result of a fit."""
        n, weight = int(sums.n), int(sums.weight) * self.newton.step_of_weights
        size = self.features + 1
        errors = np.full(size, math.nan) if fit.inverse is None else np.sqrt(np.diag(fit.inverse))
        likelihood = float(real(sums.saturated)) - fit.loss
        plain = {
            "intercept": float(fit.beta[0]),
            "coefficients": fit.beta[1:],
            "errors": errors,
            "p_values": np.array([normal_tail(z) for z in fit.beta / errors]),
            "deviance": 2 * fit.loss,
            "log_likelihood": likelihood,
            "aic": math.nan if penalty else 2 * size - 2 * likelihood,
            "n": n,
            "weight": weight,
            "steps": steps,
            "n_sites": n_sites,
        }
        return self._result(plain, float(real(sums.pearson)))


@dataclass(frozen=True)
class LogisticRegression(NewtonRegression[LogisticResult]):
    """Logistic regression: maximum likelihood, or with a ridge, lasso or elastic net, by Newton's method.

    Each round sums gradient, Hessian and loss at the current coefficients, rounded to 2^-40 at each site; if the loss
    rose, the step is halved. There is a result only if a maximum provably exists and the Hessian is so far from
    singular that coefficients equal the pooled ones to 1e-6; otherwise the error says whether columns depend on each
    other or separate the outcomes.

    **Every hospital learns** in each round the gradient, the Hessian and the loss over all hospitals at known
    coefficients: about as much as the second moments of the features, weighted. With as many rounds as rows they would
    determine the rows; Newton's method needs five to ten rounds. And how many rows have a feature that is not 0, with
    and without the outcome: with a column that is 1 for a treatment, the table of treatment by outcome. Such counts are
    guarded by `small_cells`.

    For instance, WHAS500 (500 patients) with a column that is 1 for women: the intercept's first gradient is -35, so
    215 died; the column's cells say that 104 of them were women and that 96 women lived, so 111 men died and 189 lived.

    Attributes:
        features: how many columns.
        feature_bound: largest absolute value of a feature; scale columns by agreed constants to about 1.
        l2: penalty l2/2 * |coefficients|^2 on the summed loss, the intercept left out. scikit-learn's C is 1/l2.
        l1: penalty l1 * sum |coefficients|, likewise. scikit-learn's C is 1/(l1 + l2), its l1_ratio l1/(l1 + l2).
        offset: largest absolute value of a column of offsets; 0 for none.
        weights: grid of a column of frequency weights: a row of weight 3 is three rows. None for none.
        tolerance: stop when no coefficient moves by more.
        max_steps: rounds at most.
        max_rows: most rows of a site.
        small_cells: what to do about columns that few rows have; "suppress" gives no result.
    """

    @property
    def family(self) -> Family:
        """Yes or no, by log odds."""
        return Binomial()

    def _result(self, plain: dict[str, Any], pearson: float) -> LogisticResult:  # noqa: ARG002
        return LogisticResult(**plain)


@dataclass(frozen=True)
class PoissonRegression(NewtonRegression[PoissonResult]):
    """Poisson regression of counts, maximum likelihood or penalised, by Newton's method; rates if exposures are given.

    The first step is to the common rate, the next ones are Newton's as in `LogisticRegression`, with the same proofs:
    there is a result only if a maximum exists and coefficients equal the pooled ones to 1e-6; otherwise the error says
    whether columns depend on each other, all counts are 0, or all counts of some group are.

    **Every hospital learns** in each round the gradient, the Hessian and the loss over all hospitals at known
    coefficients, the first time the sum of all counts and of all exposures, with each column that is 1 for a group
    those of the group; Pearson's chi-square and the sum of log y!; and how many rows of each column have no event, and
    how many have one or more. Such counts are guarded by `small_cells`.

    Attributes:
        features: how many columns.
        feature_bound: largest absolute value of a feature; scale columns by agreed constants to about 1.
        l2: penalty l2/2 * |coefficients|^2 on the summed loss, the intercept left out; scikit-learn's alpha is l2 / n.
        l1: penalty l1 * sum |coefficients|, likewise.
        offset: largest absolute value of a column of offsets; 0 for none.
        exposure: smallest and largest value of a column of exposures, whose logarithm is the offset; take a unit in
            which they are near 1.
        largest_count: no row has more events.
        weights: grid of a column of frequency weights: a row of weight 3 is three rows. None for none.
        tolerance: stop when no coefficient moves by more.
        max_steps: rounds at most.
        max_rows: most rows of a site.
        small_cells: what to do about columns that few rows have; "suppress" gives no result.
    """

    largest_count: int = 1000
    exposure: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.largest_count < 2**30:
            raise refuse(f"PoissonRegression: expected largest_count from 1 to 2^30, got {self.largest_count}")
        if self.exposure is None:
            return
        if self.offset or len(self.exposure) != 2 or not 1e-9 <= self.exposure[0] <= self.exposure[1] <= 1e9:
            raise refuse(
                "PoissonRegression: expected offset or exposure, and exposure as smallest and largest value from 1e-9 "
                f"to 1e9, got {self.exposure}"
            )

    @property
    def family(self) -> Family:
        """Counts, by log rates."""
        return Poisson(self.largest_count)

    @property
    def _offset(self) -> float:
        return self.offset if self.exposure is None else max(abs(math.log(value)) for value in self.exposure)

    @property
    def _names(self) -> tuple[str, ...]:
        return ("exposures",) * (self.exposure is not None) + super()._names

    def _offsets(self, columns: dict[str, Any], rows: int) -> NDArray[np.float64]:
        if self.exposure is None:
            return super()._offsets(columns, rows)
        return exposures(columns["exposures"], *self.exposure, rows)

    def _result(self, plain: dict[str, Any], pearson: float) -> PoissonResult:
        df = plain["weight"] - self.features - 1
        return PoissonResult(**plain, dispersion=pearson / df if df > 0 else math.nan)
