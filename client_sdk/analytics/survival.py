"""Kaplan-Meier curves with Greenwood's variance, and the log-rank test, from counts at common times. One round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import OneRound
from client_sdk.analytics.checks import MAX_ROWS, Grid, check_rows, matrix, refuse
from client_sdk.analytics.chi_square import chi_square_tail
from client_sdk.analytics.counts import codes_of
from client_sdk.analytics.integers import Field
from client_sdk.analytics.small_cells import SmallCells

__all__ = ["Curve", "KaplanMeier", "LogRank", "SurvivalResult"]


T = TypeVar("T")


class Exits(NamedTuple, Generic[T]):
    """Patients who left, per group and grid time: with the event, and without."""

    events: T
    censored: T


@dataclass(frozen=True)
class Curve:
    """The Kaplan-Meier curve of one group: a step function that falls at `times`.

    Attributes:
        times: at which somebody had the event or left. Units: those of the grid.
        events: how many had the event. Shape: (times,)
        censored: how many left without. Shape: (times,)
        at_risk: how many were there just before. Shape: (times,)
        survival: the curve from each time on. Shape: (times,)
        variance: Greenwood's, of `survival`. Shape: (times,)
    """

    times: NDArray[np.float64]
    events: NDArray[np.int64]
    censored: NDArray[np.int64]
    at_risk: NDArray[np.int64]
    survival: NDArray[np.float64]
    variance: NDArray[np.float64]

    def at(self, time: float) -> float:
        """Return the curve at a time."""
        index = int(np.searchsorted(self.times, time, side="right"))
        return 1.0 if index == 0 else float(self.survival[index - 1])

    @property
    def median(self) -> float:
        """First time at which at most half survive; infinite if there is none."""
        reached = np.flatnonzero(self.survival <= 0.5)
        return float(self.times[reached[0]]) if reached.size else math.inf

    def interval(self, z: float = 1.959963984540054) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the pointwise confidence interval on the log-minus-log scale; the curve itself where undefined.

        Args:
            z: quantile of the normal distribution.

        Source: Kalbfleisch and Prentice, The Statistical Analysis of Failure Time Data, 1980.
        """
        inside = (self.survival > 0) & (self.survival < 1)
        s = np.where(inside, self.survival, 0.5)
        width = z * np.sqrt(self.variance) / (s * np.abs(np.log(s)))
        low, high = s ** np.exp(width), s ** np.exp(-width)
        return np.where(inside, low, self.survival), np.where(inside, high, self.survival)

    def coarsened(self, below: int) -> Curve:
        """Return the same curve shown at fewer times, so that at least `below` patients leave in each step.

        What is left over at the end joins the last step. The values at the times that stay are unchanged.
        """
        left = self.events + self.censored
        ends: list[int] = []
        run = 0
        for i, count in enumerate(left.tolist()):
            run += count
            if run >= below:
                ends.append(i)
                run = 0
        if run and ends:
            ends[-1] = len(left) - 1
        keep = np.array(ends or [len(left) - 1], dtype=np.intp)
        starts = np.concatenate([[0], keep[:-1] + 1])
        return Curve(
            self.times[keep],
            np.add.reduceat(self.events, starts),
            np.add.reduceat(self.censored, starts),
            self.at_risk[starts],
            self.survival[keep],
            self.variance[keep],
        )


@dataclass(frozen=True)
class LogRank:
    """The log-rank test: whether the groups have the same hazard.

    Attributes:
        statistic: chi-square distributed with `df` degrees of freedom if they have.
        df: groups less one.
        p: the test's p value.
        observed: events per group. Shape: (groups,)
        expected: events per group if the hazards were equal. Shape: (groups,)
    """

    statistic: float
    df: int
    p: float
    observed: NDArray[np.int64]
    expected: NDArray[np.float64]


@dataclass(frozen=True)
class SurvivalResult:
    """Curves of all sites' patients.

    Attributes:
        curves: by group.
        log_rank: None with one group, or where no event tells groups apart.
        n_sites: how many sites are in it.
    """

    curves: Mapping[str, Curve]
    log_rank: LogRank | None
    n_sites: int


@dataclass(frozen=True)
class KaplanMeier(OneRound[SurvivalResult]):
    """Kaplan-Meier curves by group, and the log-rank test between groups.

    Times are put on a grid from 0 on that all sites share; with the step in which they were recorded (days) the curves
    are the pooled ones to the bit, with a coarser one they are those of the coarsened data.

    **Every hospital learns** how many patients of each group had the event, and how many left, at every grid time, over
    all hospitals. At one patient a day that is a list of survival times without names: somebody who knows when a
    neighbour died may find the row. Take months or quarters where groups are small (and see `SmallCells`, which
    coarsens the curves that are shown).

    Attributes:
        step: of the time grid. Units: those of the times, days for instance.
        horizon: longest time. Longer ones are censored there.
        groups: names of the groups; one curve of everybody if there is only one name.
        small_cells: with "suppress" curves are shown so coarse that each step has at least `below` patients.
        max_rows: most patients of a site.
    """

    step: float
    horizon: float
    groups: Sequence[str] = ("all",)
    small_cells: SmallCells = SmallCells(below=1)  # noqa: RUF009
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        if not self.groups or len(set(self.groups)) != len(self.groups):
            raise refuse("KaplanMeier: expected different groups, at least one")
        object.__setattr__(self, "groups", tuple(self.groups))
        _ = self._grid

    @property
    def _grid(self) -> Grid:
        return Grid(self.step, 0.0, self.horizon)

    @property
    def fields(self) -> Exits[Field]:
        """Events and censored patients per group and grid time."""
        shape = (len(self.groups), self._grid.last + 1)
        return Exits(events=Field(shape, self.max_rows), censored=Field(shape, self.max_rows))

    def prepared(self, *data: Any) -> Exits[NDArray[np.int64]]:
        """Return the site's counts.

        Args:
            data: times, whether each ended with the event, and with several groups the group of each patient.
        """
        if len(data) != (2 if len(self.groups) == 1 else 3):
            raise refuse(f"KaplanMeier: expected times, events{', groups' * (len(self.groups) > 1)}; got {len(data)}")
        times = matrix(np.ravel(data[0]), 1, "times")[:, 0]
        happened = np.asarray(data[1])
        if happened.shape != times.shape or not np.isin(happened, (0, 1)).all():
            raise refuse("KaplanMeier: expected one event indicator, 0 or 1, per time")
        check_rows(times.size, self.max_rows)
        happened = happened.astype(bool) & ~(times > self.horizon)
        index = self._grid.integers(np.minimum(times, self.horizon), "times")
        groups = (
            codes_of(data[2], self.groups, "group") if len(self.groups) > 1 else np.zeros(times.size, dtype=np.int64)
        )
        if groups.shape != times.shape:
            raise refuse("KaplanMeier: expected one group per time")
        counts = Exits(*(np.zeros(field.shape, dtype=np.int64) for field in self.fields))
        np.add.at(counts.events, (groups[happened], index[happened]), 1)
        np.add.at(counts.censored, (groups[~happened], index[~happened]), 1)
        return counts

    def result(self, sums: Exits[NDArray[np.int64]], n_sites: int) -> SurvivalResult:
        """Return curves and test."""
        events, censored = sums
        at_risk = np.cumsum((events + censored)[:, ::-1], axis=1)[:, ::-1]
        times: NDArray[np.float64] = np.arange(events.shape[1], dtype=np.float64) * self.step
        curves = {}
        for i, group in enumerate(self.groups):
            curve = _curve(times, events[i], censored[i], at_risk[i])
            if curve.times.size:
                self.small_cells.applied(curve.events + curve.censored, f"patients leaving, group {group}")
            curves[group] = curve.coarsened(self.small_cells.below) if self.small_cells.action == "suppress" else curve
        return SurvivalResult(curves, _log_rank(events, at_risk), n_sites)


def _curve(
    times: NDArray[np.float64], events: NDArray[np.int64], censored: NDArray[np.int64], at_risk: NDArray[np.int64]
) -> Curve:
    seen = events + censored > 0
    d, n = events[seen], at_risk[seen]
    survival = np.asarray(np.cumprod(1.0 - d / n), dtype=np.float64)
    # Where all who are left have the event, the curve is 0 and so is its variance.
    last = d == n
    with np.errstate(divide="ignore"):
        terms = np.where(last, 0.0, d / (n * np.where(last, 1, n - d)))
    variance: NDArray[np.float64] = survival**2 * np.cumsum(terms)
    return Curve(times[seen], d, censored[seen], n, survival, variance)


def _log_rank(events: NDArray[np.int64], at_risk: NDArray[np.int64]) -> LogRank | None:
    df = len(events) - 1
    total, everybody = events.sum(axis=0), at_risk.sum(axis=0)
    if df == 0:
        return None
    seen = total > 0
    d, n = total[seen].astype(np.float64), everybody[seen].astype(np.float64)
    share = at_risk[:, seen] / n
    expected = (share * d).sum(axis=1)
    factor = d * (n - d) / np.maximum(n - 1, 1)
    covariance = np.diag((share * factor).sum(axis=1)) - (share * factor) @ share.T
    observed = events.sum(axis=1)
    difference = (observed - expected)[:df]
    if np.linalg.matrix_rank(covariance[:df, :df]) < df:
        return None
    statistic = float(difference @ np.linalg.solve(covariance[:df, :df], difference))
    return LogRank(statistic, df, chi_square_tail(max(statistic, 0.0), df), observed, expected)
