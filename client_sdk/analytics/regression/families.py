"""Families of generalised linear models: a link, a variance, a loss. Links are the canonical ones.

With a canonical link the gradient of the log likelihood is X' W (y - mean) and minus its second derivative X' W V X
with V = variance(mean), whatever the family: newton.py needs no more.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.columns import column, flags, position, refuse

__all__ = ["Binomial", "Family", "Poisson"]

Floats = NDArray[np.float64]

_NONE = 1e-11
"""Smallest mean that is no rounding."""

_FAR = 80.0
"""Linear predictors beyond count as this: e^80 is more than any sum that is told."""


class Family(ABC):
    """How outcomes depend on the linear predictor."""

    starts_at_mean: bool
    """Whether the first step is to the common mean: where Newton's first step from 0 would overshoot by far."""

    constant: str
    """What it means if the common mean has no finite linear predictor."""

    runaway: str
    """What it means if coefficients grow without end."""

    @abstractmethod
    def outcomes(self, values: Any, rows: int) -> Floats:
        """Check the outcomes of so many rows."""

    @abstractmethod
    def mean(self, eta: Floats) -> Floats:
        """Apply the inverse link to linear predictors."""

    @abstractmethod
    def variance(self, mean: Floats) -> Floats:
        """Return the variance of outcomes with these means."""

    @abstractmethod
    def common(self, slope: float, curvature: float) -> float | None:
        """Return the linear predictor of the common mean, from the intercept's sums where coefficients are 0.

        Exact for rates; for odds without offsets, and near with them. None if it is not finite.
        """

    @abstractmethod
    def loss(self, outcomes: Floats, eta: Floats) -> Floats:
        """Return half the deviance of each row, at least 0."""

    @abstractmethod
    def saturated(self, outcomes: Floats) -> Floats:
        """Return the log likelihood of each row if its mean were its outcome."""

    @abstractmethod
    def start_loss(self, offset: float) -> float:
        """Bound a row's loss where all coefficients are 0 and its offset is at most this."""

    @abstractmethod
    def spread(self, loss: float) -> float:
        """Bound |outcome - mean| and the variance of a row, or their mean over rows, whose loss is at most this."""


@dataclass(frozen=True)
class Binomial(Family):
    """Yes or no, by log odds."""

    starts_at_mean = False
    constant = "all outcomes are the same"
    runaway = "the features separate the outcomes, or nearly so: coefficients would grow without end"

    def outcomes(self, values: Any, rows: int) -> Floats:
        """Take True and False, or 1 and 0."""
        return flags(values, "outcomes", rows).astype(np.float64)

    def mean(self, eta: Floats) -> Floats:
        """Return probabilities."""
        return np.asarray(np.exp(-np.logaddexp(0.0, -eta)))

    def variance(self, mean: Floats) -> Floats:
        """Return p (1 - p)."""
        return mean * (1 - mean)

    def common(self, slope: float, curvature: float) -> float | None:
        """Return log odds."""
        p = 0.5 + slope / (4 * curvature)
        return math.log(p / (1 - p)) if _NONE < p < 1 - _NONE else None

    def loss(self, outcomes: Floats, eta: Floats) -> Floats:
        """Return minus the log likelihood."""
        return np.asarray(np.logaddexp(0.0, eta) - outcomes * eta)

    def saturated(self, outcomes: Floats) -> Floats:
        """Return zeros: a mean of 0 or 1 is certain of its outcome."""
        return np.zeros_like(outcomes)

    def start_loss(self, offset: float) -> float:
        """Return log 2, or more with an offset."""
        return math.log(2) + offset

    def spread(self, loss: float) -> float:  # noqa: ARG002 - whatever the loss
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Poisson(Family):
    """Counts, by log rates.

    Attributes:
        largest: no count is larger.
    """

    largest: int
    starts_at_mean = True
    constant = "all outcomes are 0"
    runaway = (
        "all counts are 0 in a group of rows that the features single out, or nearly so: coefficients would grow "
        "without end"
    )

    def outcomes(self, values: Any, rows: int) -> Floats:
        """Take whole numbers from 0."""
        counts = column(values, "outcomes")
        if counts.size != rows:
            raise refuse(f"outcomes: expected {rows} of them, one per row, got {counts.size}", "hand in the same rows")
        wrong = (counts < 0) | (counts > self.largest) | (counts != np.floor(counts))
        if wrong.any():
            raise refuse(
                f"outcomes: expected whole numbers from 0 to {self.largest}, got something else in {int(wrong.sum())} "
                f"rows, the first at position {position(wrong)}",
                "count events per row; agree on a larger largest_count with the other sites",
            )
        return counts

    def mean(self, eta: Floats) -> Floats:
        """Return expected counts."""
        return np.asarray(np.exp(np.minimum(eta, _FAR)))

    def variance(self, mean: Floats) -> Floats:
        """Return the mean."""
        return mean

    def common(self, slope: float, curvature: float) -> float | None:
        """Return the log rate: means at 0 and what counts exceed them by are the counts."""
        ratio = (curvature + slope) / curvature
        return math.log(ratio) if ratio > _NONE else None

    def loss(self, outcomes: Floats, eta: Floats) -> Floats:
        """Return mean - y - y log(mean / y)."""
        return np.asarray(np.maximum(self.mean(eta) - outcomes - outcomes * (eta - _log(outcomes)), 0.0))

    def saturated(self, outcomes: Floats) -> Floats:
        """Return y log y - y - log y!."""
        factorials = np.fromiter((math.lgamma(y + 1) for y in outcomes.tolist()), float, outcomes.size)
        return np.asarray(outcomes * _log(outcomes) - outcomes - factorials)

    def start_loss(self, offset: float) -> float:
        """Return what the largest count or the largest rate can have."""
        return self.largest * (math.log(self.largest) + offset + 1) + math.exp(offset)

    def spread(self, loss: float) -> float:
        """Use that t - 1 - log t >= t / 2 from t = 6 on, so mean <= 6 y + 2 loss."""
        return 7 * self.largest + 2 * loss


def _log(counts: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(counts, 1.0)))  # times 0 where the count is 0
