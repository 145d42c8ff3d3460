"""Logistic regression by Newton's method: sums of gradients and Hessians instead of patients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import Analysis, Finished
from client_sdk.analytics.checks import MAX_ROWS, TOO_FEW, check_rows
from client_sdk.analytics.chi_square import normal_tail
from client_sdk.analytics.integers import Field
from client_sdk.columns import expected, flags, refuse, table
from he_agg.errors import InputError, Reason

__all__ = ["LogisticRegression", "LogisticResult"]

FRACTION_BITS = 40
"""Binary places to which each site rounds its sums: an error of 2^-41 a site, 1e-12 in a sum of two."""

_MAX_LOSS = 64
"""Largest mean loss of a site that is told; coefficients that are worse than none never have it."""

_FIRM = 1e6
"""How many times the rounding of the Hessian its smallest eigenvalue must be: coefficients to 1e-6 follow."""

_DEPENDENT = "columns depend on each other or on the constant, or there are fewer patients than columns"
_SEPARATED = "the features separate the outcomes, or nearly so: coefficients would grow without end"


T = TypeVar("T")


class NewtonSums(NamedTuple, Generic[T]):
    """Rows, gradient, upper half of the Hessian, loss."""

    n: T
    gradient: T
    hessian: T
    loss: T


@dataclass(frozen=True)
class LogisticData:
    """A site's rows with the constant in front, and their outcomes."""

    rows: NDArray[np.float64]
    outcomes: NDArray[np.float64]


@dataclass(frozen=True)
class LogisticState:
    """What is public between steps.

    Attributes:
        step: rounds taken in.
        beta: coefficients that the next sums are for, the intercept first.
        before: coefficients of the best loss so far, from which `beta` is a Newton step.
        loss: penalised loss there.
    """

    step: int
    beta: NDArray[np.float64]
    before: NDArray[np.float64]
    loss: float


@dataclass(frozen=True)
class LogisticResult:
    """A fitted model, the same as the pooled fit.

    Attributes:
        intercept: log odds where all features are 0.
        coefficients: log odds ratios. Shape: (features,)
        errors: standard errors, the intercept's first. Shape: (features + 1,)
        p_values: Wald tests, the intercept's first. Shape: (features + 1,)
        loss: mean negative log likelihood, without penalty.
        n: rows of all sites together.
        steps: rounds it took.
        n_sites: how many sites are in it.
    """

    intercept: float
    coefficients: NDArray[np.float64]
    errors: NDArray[np.float64]
    p_values: NDArray[np.float64]
    loss: float
    n: int
    steps: int
    n_sites: int

    def probability(self, rows: Any) -> NDArray[np.float64]:
        """Return the probability of the outcome for one's own rows.

        Args:
            rows: Shape: (rows, features)
        """
        return _sigmoid(table(rows, self.coefficients.size, "rows") @ self.coefficients + self.intercept)


@dataclass(frozen=True)
class LogisticRegression(Analysis[LogisticData, LogisticState, LogisticResult]):
    """Logistic regression, maximum likelihood or with a ridge penalty, by Newton's method with step halving.

    Each round sums gradient, Hessian and loss at the current coefficients, rounded to 2^-40 at each site. There is a
    result only if a maximum provably exists and the Hessian is so far from singular that coefficients equal the pooled
    ones to 1e-6; otherwise the error says whether columns depend on each other or separate the outcomes.

    **Every hospital learns** in each round the gradient, the Hessian and the loss over all hospitals at known
    coefficients: about as much as the second moments of the features, weighted. With as many rounds as rows they would
    determine the rows; Newton's method needs five to ten rounds.

    Attributes:
        features: how many columns.
        feature_bound: largest absolute value of a feature; scale columns by agreed constants to about 1.
        l2: penalty l2/2 * |coefficients|^2 on the summed loss, the intercept left out. scikit-learn's C is 1/l2.
        tolerance: stop when no coefficient moves by more.
        max_steps: rounds at most.
        max_rows: most rows of a site.
    """

    features: int
    feature_bound: float = 10.0
    l2: float = 0.0
    tolerance: float = 1e-9
    max_steps: int = 50
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features < 1 or not 0 < self.feature_bound < 2**30 or self.l2 < 0:
            raise refuse("LogisticRegression: expected at least one feature, a bound below 2^30 and l2 >= 0")

    @property
    def fields(self) -> NewtonSums[Field]:
        """Rows, gradient, upper half of the Hessian, loss."""
        p = self.features + 1
        x = max(1, math.ceil(self.feature_bound))
        scale = self.max_rows << FRACTION_BITS
        return NewtonSums(
            n=Field((), self.max_rows),
            gradient=Field((p,), scale * x),
            hessian=Field((p * (p + 1) // 2,), scale * x * x),
            loss=Field((), scale * _MAX_LOSS),
        )

    def prepared(self, *data: Any) -> LogisticData:
        """Return the site's rows.

        Args:
            data: features, shape (rows, features), and outcomes 0 or 1, shape (rows,).
        """
        features, outcomes = expected(data, "LogisticRegression", "features", "outcomes")
        rows = table(features, self.features, "features")
        if rows.size and np.abs(rows).max() > self.feature_bound:
            raise InputError(
                Reason.BEYOND_CLIP,
                f"features: expected absolute values up to {self.feature_bound:g}, got one beyond it",
                "scale the columns by constants that all sites agree on, or agree on a larger feature_bound",
            )
        y = flags(outcomes, "outcomes", len(rows))
        check_rows(len(rows), self.max_rows)
        return LogisticData(np.column_stack([np.ones(len(rows)), rows]), y.astype(np.float64))

    def start(self) -> LogisticState:
        """Return coefficients that are all 0."""
        zero = np.zeros(self.features + 1)
        return LogisticState(0, zero, zero, math.inf)

    def contribution(self, state: LogisticState, data: LogisticData) -> NewtonSums[NDArray[Any]]:
        """Return the site's gradient, Hessian and loss at the current coefficients."""
        x, y = data.rows, data.outcomes
        eta = x @ state.beta
        p = _sigmoid(eta)
        gradient = x.T @ (y - p)
        hessian = (x * (p * (1 - p))[:, None]).T @ x
        loss = min(float((np.logaddexp(0.0, eta) - y * eta).sum()), float(_MAX_LOSS * self.max_rows))
        return NewtonSums(
            n=np.array(len(y)),
            gradient=_whole(gradient),
            hessian=_whole(hessian[np.triu_indices(len(gradient))]),
            loss=_whole(np.array(loss)),
        )

    def advance(
        self,
        state: LogisticState,
        sums: NewtonSums[NDArray[Any]],
        n_sites: int,
    ) -> LogisticState | Finished[LogisticResult]:
        """Take a Newton step, or half of the last one if the loss rose, or return the fit."""
        n, size = int(sums.n), self.features + 1
        if n == 0:
            raise refuse("LogisticRegression: expected patients, the sites have none", TOO_FEW)
        penalty = np.full(size, self.l2)
        penalty[0] = 0.0
        raw_loss = float(_real(sums.loss))
        loss = raw_loss + 0.5 * float(penalty @ state.beta**2)
        rounding = n_sites * 2.0 ** -(FRACTION_BITS + 1)
        if loss > state.loss + 2 * rounding + 1e-12 * abs(state.loss):
            half = _grid((state.beta + state.before) / 2)
            return LogisticState(self._next(state), half, state.before, state.loss)
        gradient = _real(sums.gradient) - penalty * state.beta
        upper = np.triu_indices(size)
        hessian = np.diag(penalty)
        values = _real(sums.hessian)
        hessian[upper] += values
        hessian.T[upper] = hessian[upper]
        least = float(np.linalg.eigvalsh(hessian)[0])
        if not least > _FIRM * size * (rounding + 2.0**-50 * float(np.abs(hessian).max())):
            raise _no_fit(_DEPENDENT if state.step == 0 else _SEPARATED)
        inverse = np.linalg.inv(hessian)
        move = inverse @ gradient
        beta = _grid(state.beta + move)
        if not np.isfinite(beta).all() or np.abs(beta).max() * self.feature_bound > 2**40:
            raise _no_fit(_SEPARATED)
        still = np.abs(beta - state.beta).max() <= max(self.tolerance, size * rounding / least)
        if still and self._exists(float(gradient @ move), least, rounding):
            errors = np.sqrt(np.diag(inverse))
            p_values = np.array([normal_tail(z) for z in beta / errors])
            mean_loss = raw_loss / n
            fit = LogisticResult(float(beta[0]), beta[1:], errors, p_values, mean_loss, n, state.step + 1, n_sites)
            return Finished(fit)
        return LogisticState(self._next(state), beta, state.beta, loss)

    def _exists(self, decrement: float, least: float, rounding: float) -> bool:
        """Tell whether there is a maximum at all: no direction in which the likelihood rises for ever.

        Along such a direction d, of length 1, each patient adds r (1 - p) to the slope and r^2 p (1 - p) to the
        curvature, with 0 <= r <= R, the length of the longest row. So slope >= curvature / R, and the Newton decrement
        g' H^-1 g >= slope^2 / curvature >= curvature / R^2 >= (least eigenvalue of H) / R^2. One that is smaller proves
        that there is none, whatever was rounded.

        Args:
            decrement: g' H^-1 g.
            least: smallest eigenvalue of the Hessian.
            rounding: how far an entry of the gradient can be off.
        """
        size = self.features + 1
        largest = np.sqrt(max(decrement, 0.0)) + rounding * np.sqrt(size / least)
        return bool(largest**2 * (1 + self.features * self.feature_bound**2) < least)

    def _next(self, state: LogisticState) -> int:
        if state.step + 1 >= self.max_steps:
            raise _no_fit(f"no convergence in {self.max_steps} rounds")
        return state.step + 1


def _no_fit(what: str) -> InputError:
    return InputError(
        Reason.BAD_ARGUMENT,
        f"LogisticRegression: expected a maximum of the likelihood, got none: {what}",
        "drop columns or give l2, a penalty under which there always is one; scale tiny columns up",
    )


def _sigmoid(eta: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0.0, -eta)))


def _whole(values: NDArray[np.float64]) -> NDArray[Any]:
    flat = [round(math.ldexp(value, FRACTION_BITS)) for value in np.ravel(values).tolist()]
    whole = np.empty(len(flat), dtype=object)
    whole[:] = flat
    return whole.reshape(np.shape(values))


def _real(values: Any) -> NDArray[np.float64]:
    flat = [int(value) / 2**FRACTION_BITS for value in np.ravel(values)]
    return np.array(flat).reshape(np.shape(values))


def _grid(beta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round coefficients to 2^-44, so that sites on unlike machines rarely differ in the last bit."""
    return np.asarray(np.ldexp(np.rint(np.ldexp(beta, 44)), -44))
