"""The Kaplan-Meier curve of one group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.survival.followup import TimeGrid

__all__ = ["Z95", "Curve", "log_minus_log"]

Z95 = 1.959963984540054
"""Quantile of the normal distribution for 95 %."""


@dataclass(frozen=True)
class Curve:
    """The Kaplan-Meier curve of one group: a step function that falls at `times`. Without patients there is none.

    What happened in (t - step, t] is counted at t. If nobody left without the event within a step (or if the step is
    the one in which times were noted), the curve at each grid point is that of the exact times; otherwise that one
    lies between `lowest` and `survival` there.

    Where small counts are suppressed, a curve that would show one however coarse it is is hidden as a whole: its counts
    are masked, and its values NaN.

    Attributes:
        step: of the grid. Units: those of the times.
        horizon: the last grid point; nothing is known after it.
        times: at which somebody had the event or left. Units: those of the grid.
        events: how many had the event. Shape: (times,)
        censored: how many left without. Shape: (times,)
        entered: how many had come under observation since the time before. Shape: (times,)
        at_risk: how many were there just before. Shape: (times,)
        survival: the curve from each time on. Shape: (times,)
        lowest: the least that the curve of the exact times can be: as if all who left without the event within a step
            had left before the step's events, and all who came within it had come after. Shape: (times,)
        variance: Greenwood's, of `survival`. Shape: (times,)
    """

    step: float
    horizon: float
    times: NDArray[np.float64]
    events: NDArray[np.int64]
    censored: NDArray[np.int64]
    entered: NDArray[np.int64]
    at_risk: NDArray[np.int64]
    survival: NDArray[np.float64]
    lowest: NDArray[np.float64]
    variance: NDArray[np.float64]

    @property
    def n(self) -> Any:
        """How many patients the group has; masked where that is suppressed."""
        if not self.entered.size:
            return 0
        return np.ma.masked if np.ma.is_masked(self.entered) else int(self.entered.sum())

    @property
    def _known(self) -> bool:
        return bool(self.times.size) and not np.isnan(self.survival).any()

    @overload
    def at(self, time: float) -> float: ...

    @overload
    def at(self, time: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]: ...

    def at(self, time: float | Sequence[float] | NDArray[Any]) -> float | NDArray[np.float64]:
        """Return the curve at the last grid point that is not after a time; NaN after the horizon or without patients.

        The curve of the exact times falls somewhere between two grid points: ask at grid points.

        Args:
            time: one, or as many as are wanted; the result has their shape.
        """
        found = TimeGrid(self.step, self.horizon).read(time, self.times, self.survival, 1.0)
        return found if found.ndim else float(found)

    @property
    def median(self) -> float:
        """First grid point at which at most half survive; infinite if there is none, NaN where nothing is known."""
        if not self._known:
            return math.nan
        reached = np.flatnonzero(self.survival <= 0.5)
        return float(self.times[reached[0]]) if reached.size else math.inf

    def interval(self, z: float = Z95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the pointwise confidence interval on the log-minus-log scale; the curve itself where undefined.

        Args:
            z: quantile of the normal distribution.
        """
        return log_minus_log(self.survival, self.variance, z)

    def coarsened(self, below: int) -> Curve:
        """Return the same curve shown at fewer times: in each step no patients, or at least `below`, of each kind.

        What is left over at the end joins the last steps. The values at the times that stay are unchanged; if there is
        no such time, the curve is hidden.
        """
        if not self.times.size:
            return self
        left = np.stack([self.events, self.censored, self.entered])
        ends = [-1]
        for i in range(left.shape[1]):
            if not _small(left[:, ends[-1] + 1 : i + 1], below):
                ends.append(i)
        while len(ends) > 1 and _small(left[:, ends[-2] + 1 :], below):
            del ends[-1]  # what follows joins the step before
        if len(ends) == 1:
            return self.hidden(shows_n=True)
        ends[-1] = left.shape[1] - 1
        keep = np.array(ends[1:], dtype=np.intp)
        starts = np.array(ends[:-1], dtype=np.intp) + 1
        return replace(
            self,
            times=self.times[keep],
            events=np.add.reduceat(self.events, starts),
            censored=np.add.reduceat(self.censored, starts),
            entered=np.add.reduceat(self.entered, starts),
            at_risk=self.at_risk[starts],
            survival=self.survival[keep],
            lowest=self.lowest[keep],
            variance=self.variance[keep],
        )

    def hidden(self, *, shows_n: bool) -> Curve:
        """Return a curve of which nothing is shown, or only how many patients it is about."""
        masked = np.ma.MaskedArray([0], mask=[True], fill_value=0)
        nothing = np.array([np.nan])
        return replace(
            self,
            times=np.array([self.horizon]),
            events=masked,
            censored=masked,
            entered=self.entered.sum(keepdims=True) if shows_n else masked,
            at_risk=masked,
            survival=nothing,
            lowest=nothing,
            variance=nothing,
        )


def log_minus_log(
    curve: NDArray[np.float64], variance: NDArray[np.float64], z: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pointwise confidence interval of a curve between 0 and 1; the curve itself at 0 and 1.

    Source: Kalbfleisch and Prentice, The Statistical Analysis of Failure Time Data, 1980.
    """
    inside = (curve > 0) & (curve < 1)
    c = np.where(inside, curve, 0.5)
    width = z * np.sqrt(variance) / (c * np.abs(np.log(c)))
    return np.where(inside, c ** np.exp(width), curve), np.where(inside, c ** np.exp(-width), curve)


def _small(left: NDArray[np.int64], below: int) -> bool:
    """Tell whether a step shows a small count, or nobody leaves in it."""
    each = left.sum(axis=1)
    return bool(((each > 0) & (each < below)).any()) or not each[:2].any()
