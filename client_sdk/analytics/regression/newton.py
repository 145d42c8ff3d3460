"""Newton's method by sums: what a site tells about coefficients, and what everybody makes of the sums.

One machine for every family and penalty, and for many fits at once (cross-validation): `tell` is a site's part, `step`
everybody's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.checks import Grid
from client_sdk.analytics.integers import Field
from client_sdk.analytics.regression.families import Family
from client_sdk.analytics.regression.penalty import Penalty, moved
from client_sdk.analytics.regression.rows import Rows
from he_agg.errors import InputError, Reason

__all__ = ["FRACTION_BITS", "Curve", "Fit", "Newton", "Solved", "real", "whole"]

FRACTION_BITS = 40
"""Binary places to which each site rounds its sums: an error of 2^-41 a site, 1e-12 in a sum of two."""

_MOST_LOSS = 128
"""Largest loss of a site that is told, in units of what its rows can have where all coefficients are 0; coefficients
that are worse than none never have it."""

_FIRM = 1e6
"""How many times the rounding of the Hessian its smallest eigenvalue must be: coefficients to 1e-6 follow."""

_DEPENDENT = "columns depend on each other or on the constant, or there are fewer patients than columns"

Floats = NDArray[np.float64]
T = TypeVar("T")


class Curve(NamedTuple, Generic[T]):
    """Loss at some coefficients, its slope, and its curvature (upper half)."""

    gradient: T
    hessian: T
    loss: T


@dataclass(frozen=True)
class Fit:
    """Where a fit stands.

    Attributes:
        step: rounds taken in.
        beta: coefficients that the next sums are for, the intercept first.
        before: coefficients of the best loss so far, from which `beta` is a step.
        loss: penalised loss there.
    """

    step: int
    beta: Floats
    before: Floats
    loss: float


@dataclass(frozen=True)
class Solved:
    """A fit that is finished.

    Attributes:
        beta: its coefficients, the intercept first.
        inverse: of the penalised Hessian; None with l1, under which it says nothing of errors.
        loss: half the deviance, without penalty.
    """

    beta: Floats
    inverse: Floats | None
    loss: float


@dataclass(frozen=True)
class Newton:
    """What is the same in all steps of an analysis.

    Attributes:
        who: the analysis, for errors.
        features: columns besides the constant.
        feature_bound: largest absolute value of a feature.
        offset: largest absolute value of an offset.
        weights: their grid; None for ones.
        tolerance: stop when no coefficient moves by more.
        max_steps: rounds at most.
        max_rows: most rows of a site.
        starts_at_mean: whether the first step is to the common mean.
    """

    who: str
    family: Family
    features: int
    feature_bound: float
    offset: float
    weights: Grid | None
    tolerance: float
    max_steps: int
    max_rows: int
    starts_at_mean: bool

    @property
    def step_of_weights(self) -> float:
        """Return what a weight of one step is."""
        return 1.0 if self.weights is None else self.weights.step

    @property
    def most_steps(self) -> int:
        """Bound the weights of a site's rows together, in steps."""
        return self.max_rows * (1 if self.weights is None else self.weights.bound)

    @property
    def most_weight(self) -> float:
        """Bound the weights of a site's rows together."""
        return self.most_steps * self.step_of_weights

    @property
    def most_loss(self) -> float:
        """Bound the loss of a site that is told."""
        return _MOST_LOSS * self.family.start_loss(self.offset) * self.most_weight

    def curve(self) -> Curve[Field]:
        """Return the fields of one fit."""
        p, x = self.features + 1, max(1.0, self.feature_bound)
        spread = self.family.spread(_MOST_LOSS * self.family.start_loss(self.offset)) * self.most_weight
        return Curve(
            gradient=Field((p,), bound(spread * x)),
            hessian=Field((p * (p + 1) // 2,), bound(spread * x * x)),
            loss=Field((), bound(self.most_loss)),
        )

    def tell(self, rows: Rows, beta: Floats) -> Curve[NDArray[Any]]:
        """Return a site's sums at some coefficients; only the largest loss where it is beyond all bounds."""
        eta = rows.x @ beta + rows.offset
        loss = float(rows.weight @ self.family.loss(rows.y, eta))
        p = self.features + 1
        if not loss < self.most_loss:
            return Curve(whole(np.zeros(p)), whole(np.zeros(p * (p + 1) // 2)), whole(np.array(self.most_loss)))
        mean = self.family.mean(eta)
        gradient = rows.x.T @ (rows.weight * (rows.y - mean))
        hessian = (rows.x * (rows.weight * self.family.variance(mean))[:, None]).T @ rows.x
        return Curve(whole(gradient), whole(hessian[np.triu_indices(p)]), whole(np.array(loss)))

    def begin(self) -> Fit:
        """Return coefficients that are all 0."""
        zero = np.zeros(self.features + 1)
        return Fit(0, zero, zero, math.inf)

    def step(self, fit: Fit, sums: Curve[NDArray[Any]], penalty: Penalty, n_sites: int) -> Fit | Solved:
        """Take a Newton step, or half of the last one if the loss rose, or return the fit.

        Raises:
            InputError: there is no maximum, or none that is well enough determined.
        """
        size, rounding = self.features + 1, n_sites * 2.0 ** -(FRACTION_BITS + 1)
        raw_loss = float(real(sums.loss))
        loss = raw_loss + penalty.value(fit.beta)
        if loss > fit.loss + 2 * rounding + 1e-12 * abs(fit.loss):
            return Fit(self._next(fit), on_grid((fit.beta + fit.before) / 2), fit.before, fit.loss)
        gradient, curvature = real(sums.gradient), symmetric(real(sums.hessian), size)
        hessian = penalty.ridged(curvature)
        least_firm = _FIRM * size * (rounding + 2.0**-50 * float(np.abs(hessian).max()))
        first = fit.step == 0
        if first and self.starts_at_mean:
            beta = self._mean(gradient, curvature)
            if not penalty.l1 and not least_of(hessian) > least_firm:
                raise self.no_fit(_DEPENDENT)
            return Fit(self._next(fit), beta, fit.beta, loss)
        lost = _DEPENDENT if first else self.family.runaway
        if penalty.l1 and not curvature[0, 0] > least_firm:
            raise self.no_fit(self.family.runaway)
        beta, firm = moved(fit.beta, gradient, curvature, penalty)
        least = least_of(firm)
        if not least > least_firm:
            raise self.no_fit(lost)
        beta = on_grid(beta)
        if not np.isfinite(beta).all() or np.abs(beta).max() * self.feature_bound > 2**40:
            raise self.no_fit(self.family.runaway)
        still = np.abs(beta - fit.beta).max() <= max(self.tolerance, size * rounding / least)
        if still and self._exists(gradient, curvature, penalty, rounding):
            inverse = None if penalty.l1 else np.asarray(np.linalg.inv(hessian), dtype=np.float64)
            return Solved(beta, inverse, raw_loss)
        return Fit(self._next(fit), beta, fit.beta, loss)

    def _mean(self, gradient: Floats, curvature: Floats) -> Floats:
        """Return the coefficients of the common mean: the intercept alone."""
        common = self.family.common(float(gradient[0]), float(curvature[0, 0])) if curvature[0, 0] > 0 else None
        if common is None:
            raise self.no_fit(self.family.constant)
        beta = np.zeros_like(gradient)
        beta[0] = common
        return on_grid(beta)

    def _exists(self, gradient: Floats, curvature: Floats, penalty: Penalty, rounding: float) -> bool:
        """Tell whether there is a maximum at all: no direction in which the likelihood rises for ever.

        Along such a direction d, of length 1, each patient adds r m to the slope and at most r^2 m to the curvature,
        with 0 <= r <= R, the length of the longest row, and m >= 0 (1 - p of outcomes 1 and p of outcomes 0; means of
        counts 0; times weights). So slope >= curvature / R, and the Newton decrement g' H^-1 g >= slope^2 / curvature
        >= curvature / R^2 >= (least eigenvalue of H) / R^2. One that is smaller proves that there is none, whatever
        was rounded. What a penalty is on cannot rise for ever: with one, the intercept is the only direction.

        Args:
            rounding: how far an entry of the gradient can be off.
        """
        free = 1 if penalty else len(gradient)
        slope, h = gradient[:free], curvature[:free, :free]
        least = least_of(h)
        decrement = float(slope @ np.linalg.solve(h, slope))
        largest = np.sqrt(max(decrement, 0.0)) + rounding * np.sqrt(free / least)
        return bool(largest**2 * (1 + (free - 1) * self.feature_bound**2) < least)

    def _next(self, fit: Fit) -> int:
        if fit.step + 1 >= self.max_steps:
            raise self.no_fit(f"no convergence in {self.max_steps} rounds")
        return fit.step + 1

    def no_fit(self, what: str) -> InputError:
        """Return the error for data without a fit."""
        return InputError(
            Reason.BAD_ARGUMENT,
            f"{self.who}: expected a maximum of the likelihood, got none: {what}",
            "drop columns or give l2, a penalty under which there always is one unless all outcomes are the same; "
            "scale tiny columns up",
        )


def least_of(matrix: Floats) -> float:
    """Return the smallest eigenvalue of a symmetric matrix; infinite if it has no rows."""
    return float(np.linalg.eigvalsh(matrix)[0]) if matrix.size else math.inf


def symmetric(upper: Floats, size: int) -> Floats:
    """Return the matrix with this upper half, row by row."""
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = upper
    matrix.T[np.triu_indices(size)] = upper
    return matrix


def bound(largest: float) -> int:
    """Bound what a site tells of a sum that is at most this."""
    return math.ceil(largest) << FRACTION_BITS


def whole(values: Floats) -> NDArray[Any]:
    """Round to FRACTION_BITS places, as Python's integers."""
    flat = [round(math.ldexp(value, FRACTION_BITS)) for value in np.ravel(values).tolist()]
    numbers = np.empty(len(flat), dtype=object)
    numbers[:] = flat
    return numbers.reshape(np.shape(values))


def real(values: Any) -> Floats:
    """Return what `whole` made, or a sum of it."""
    flat = [int(value) / 2**FRACTION_BITS for value in np.ravel(values)]
    return np.array(flat).reshape(np.shape(values))


def on_grid(beta: Floats) -> Floats:
    """Round coefficients to 2^-44, so that sites on unlike machines rarely differ in the last bit."""
    return np.asarray(np.ldexp(np.rint(np.ldexp(beta, 44)), -44))
