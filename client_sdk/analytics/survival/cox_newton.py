"""Newton's method on the partial likelihood: when to step, when to stop, and whether there is a maximum at all."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.regression.newton import least_of, on_grid
from client_sdk.analytics.regression.penalty import Penalty, moved
from client_sdk.analytics.survival.cox_state import CoxState
from client_sdk.analytics.survival.cox_sums import Terms
from he_agg.errors import InputError, Reason

__all__ = ["FAR", "MOST_RISK", "Fit", "no_fit", "stepped"]

OFF_BY = 1e-6
"""What coefficients may be off by."""

MOST_RISK = 16
"""Largest linear predictor, from the centre, whose weight exp() travels: a hazard nine million times the average."""

_DEPENDENT = "columns depend on each other, or a column is the same for all who are at risk together"
_SEPARATED = "features tell who has the event next, or nearly so: coefficients would grow without end"
FAR = f"features tell who has the event next, or nearly so: a hazard would be beyond exp({MOST_RISK}) times the average"


class Fit(NamedTuple):
    """The partial likelihood at a state's coefficients, and by how much an entry of its derivatives can be off."""

    loss: float
    gradient: NDArray[np.float64]
    hessian: NDArray[np.float64]
    off: float
    hessian_off: float
    cells: NDArray[np.intp]
    terms: Terms | None
    centre: NDArray[np.float64]


def stepped(state: CoxState, fit: Fit, penalty: Penalty, bound: float, tolerance: float) -> CoxState:
    """Take a Newton step; to the end, if it is small and there is a maximum.

    Args:
        state: at whose coefficients the likelihood is known.
        fit: there.
        penalty: on the loss; with one there always is a maximum.
        bound: largest absolute value of a feature.
        tolerance: how small.
    """
    p = fit.gradient.size
    beta, firm = moved(state.beta, fit.gradient, fit.hessian, penalty)
    least = least_of(firm)
    first = math.isinf(state.loss)
    if not least > max(fit.off * math.sqrt(p) / OFF_BY, 1e3 * p * fit.hessian_off):
        raise no_fit(_DEPENDENT if first else _SEPARATED)
    move = beta - state.beta
    beta = on_grid(beta)
    if not np.isfinite(beta).all() or np.abs(beta).max() * bound > 2**40:
        raise no_fit(_SEPARATED)
    decrement = float(fit.gradient @ move)
    loss = fit.loss + penalty.value(state.beta)
    after = replace(state, step=state.step + 1, beta=beta, before=state.beta, loss=float(f"{loss:.13g}"))
    if first:
        after = replace(after, null=after.loss, score=float(f"{decrement:.12g}"), centre=fit.centre)
    still = np.abs(move).max() <= max(tolerance, p * fit.off / least)
    return replace(after, stage="end") if still and (penalty or _exists(decrement, least, fit.off, p, bound)) else after


def _exists(decrement: float, least: float, off: float, p: int, bound: float) -> bool:
    """Tell whether there is a maximum at all: no direction in which the partial likelihood rises for ever.

    Along such a direction d, of length 1, whoever has the event has the largest d'x of all at risk, and so have
    those who have it at the same time. Be r >= 0 how far another one at risk is below, and R >= r the length of the
    longest difference of two rows. Each denominator adds the mean of r to the slope, and its variance to the
    curvature, which is at most R times the mean. So slope >= curvature / R, and the Newton decrement g' H^-1 g >=
    slope^2 / curvature >= curvature / R^2 >= (least eigenvalue of H) / R^2. One that is smaller proves that there
    is none, whatever was rounded.

    Args:
        decrement: g' H^-1 g.
        least: smallest eigenvalue of the information.
        off: how far an entry of the gradient can be off.
        p: how many features.
        bound: largest absolute value of a feature.
    """
    largest = math.sqrt(max(decrement, 0.0)) + off * math.sqrt(p / least)
    return bool(largest**2 * 4 * p * bound**2 < least)


def no_fit(what: str) -> InputError:
    """Return the error for data without a maximum that can be vouched for."""
    return InputError(
        Reason.BAD_ARGUMENT,
        f"CoxRegression: expected a maximum of the partial likelihood, got none: {what}",
        "drop columns or merge categories without events, or give l2, a penalty under which there always is one; scale "
        "tiny columns up",
    )
