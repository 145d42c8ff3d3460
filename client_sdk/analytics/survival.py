"""Kaplan-Meier curves with Greenwood's variance, and the log-rank test, from counts at common times. One round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import OneRound
from client_sdk.analytics.checks import MAX_ROWS, check_rows, steps_down, steps_up
from client_sdk.analytics.chi_square import chi_square_tail
from client_sdk.analytics.counts import codes_of
from client_sdk.analytics.integers import Field
from client_sdk.analytics.small_cells import SmallCells
from client_sdk.columns import column, expected, flags, position, refuse
from he_agg.errors import InputError, Reason

__all__ = ["Curve", "KaplanMeier", "LogRank", "SurvivalResult"]


T = TypeVar("T")


class Exits(NamedTuple, Generic[T]):
    """Patients who left, per group and grid time: with the event, and without."""

    events: T
    censored: T


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
        at_risk: how many were there just before. Shape: (times,)
        survival: the curve from each time on. Shape: (times,)
        lowest: the least that the curve of the exact times can be: as if all who left without the event within a step
            had left before the step's events. Shape: (times,)
        variance: Greenwood's, of `survival`. Shape: (times,)
    """

    step: float
    horizon: float
    times: NDArray[np.float64]
    events: NDArray[np.int64]
    censored: NDArray[np.int64]
    at_risk: NDArray[np.int64]
    survival: NDArray[np.float64]
    lowest: NDArray[np.float64]
    variance: NDArray[np.float64]

    @property
    def n(self) -> Any:
        """How many patients the group has; masked where that is suppressed."""
        if not self.at_risk.size:
            return 0
        return np.ma.masked if np.ma.is_masked(self.at_risk) else int(self.at_risk[0])

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
        asked = np.asarray(time, np.float64)
        known = np.isfinite(asked) & self._known
        times = np.where(known, asked, 0.0)
        last = int(steps_down(np.asarray(self.horizon), self.step))
        points = steps_down(times, self.step)
        known &= (points >= 0) & (steps_up(times, self.step) <= last)
        before = np.searchsorted(steps_up(self.times, self.step), points, side="right")
        found: NDArray[np.float64] = np.where(known, np.append(1.0, self.survival)[before], math.nan)
        return float(found) if found.ndim == 0 else found

    @property
    def median(self) -> float:
        """First grid point at which at most half survive; infinite if there is none, NaN where nothing is known."""
        if not self._known:
            return math.nan
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
        """Return the same curve shown at fewer times: in each step no patients, or at least `below`, of either kind.

        What is left over at the end joins the last steps. The values at the times that stay are unchanged; if there is
        no such time, the curve is hidden.
        """
        if not self.times.size:
            return self
        left = np.stack([self.events, self.censored])
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
            at_risk=self.at_risk[:1] if shows_n else masked,
            survival=nothing,
            lowest=nothing,
            variance=nothing,
        )


def _small(left: NDArray[np.int64], below: int) -> bool:
    """Tell whether a step shows a small count."""
    each = left.sum(axis=1)
    return bool(((each > 0) & (each < below)).any()) or not each.any()


@dataclass(frozen=True)
class LogRank:
    """The log-rank test: whether the groups have the same hazard. On the times as they are on the grid.

    Attributes:
        statistic: chi-square distributed with `df` degrees of freedom if they have.
        df: one less than the groups that were at risk at some event; the others say nothing and are left out.
        p: the test's p value.
        observed: events per group; masked where suppressed. Shape: (groups,)
        expected: events per group if the hazards were equal; 0 for a group that is left out, NaN where `observed` is
            masked. Shape: (groups,)
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
        log_rank: None where no event tells groups apart, as with one group.
        n: patients of all sites together.
        n_sites: how many sites are in it.
    """

    curves: Mapping[str, Curve]
    log_rank: LogRank | None
    n: int
    n_sites: int


@dataclass(frozen=True)
class KaplanMeier(OneRound[SurvivalResult]):
    """Kaplan-Meier curves by group, and the log-rank test between groups.

    Times are put on a grid from 0 on that all sites share: what happens in (t - step, t] belongs to t. With the step in
    which times were noted (days) the curves are the pooled ones to the bit. With a coarser one they are exact at
    grid points where nobody left without the event in between, and otherwise the result says how far they can be off
    (`Curve.lowest`); the log-rank test is that of the coarsened times.

    **Every hospital learns** how many patients of each group had the event, and how many left, at every grid time, over
    all hospitals. At one patient a day that is a list of survival times without names: somebody who knows when a
    neighbour died may find the row. Take months or quarters where groups are small (and see `SmallCells`, which
    coarsens the curves that are shown).

    Attributes:
        step: of the time grid. Units: those of the times, days for instance.
        horizon: longest time, put up to the grid. Longer ones are censored there.
        groups: names of the groups; one curve of everybody if there is only one name.
        small_cells: with "suppress" curves are shown so coarse that in each step no patients, or at least `below`, had
            the event, and likewise left without; where that cannot be, they are hidden.
        max_rows: most patients of a site.
    """

    step: float
    horizon: float
    groups: Sequence[str] = ("all",)
    small_cells: SmallCells = SmallCells(below=1)  # noqa: RUF009
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step > 0 or not self.step <= self.horizon <= 2**31 * self.step:
            raise refuse(f"KaplanMeier: expected 0 < step <= horizon, got step {self.step:g}, horizon {self.horizon:g}")
        object.__setattr__(self, "horizon", self._last * self.step)
        if not self.groups or len(set(self.groups)) != len(self.groups):
            raise refuse("KaplanMeier: expected different groups, at least one")

    @property
    def _last(self) -> int:
        """Number of the last grid point."""
        return int(steps_up(np.asarray(self.horizon), self.step))

    @property
    def fields(self) -> Exits[Field]:
        """Events and censored patients per group and grid time."""
        shape = (len(self.groups), self._last + 1)
        return Exits(events=Field(shape, self.max_rows), censored=Field(shape, self.max_rows))

    def prepared(self, *data: Any) -> Exits[NDArray[np.int64]]:
        """Return the site's counts.

        Args:
            data: times, whether each ended with the event, and with several groups the group of each patient.
        """
        expected(data, "KaplanMeier", "times", "events", *(["groups"] if len(self.groups) > 1 else []))
        times = column(data[0], "times")
        if (times < 0).any():
            raise InputError(
                Reason.BEYOND_CLIP,
                f"times: expected 0 or later, got {int((times < 0).sum())} before it, the first at position "
                f"{position(times < 0)}",
                "look for dates that were swapped",
            )
        happened = flags(data[1], "events", times.size)
        check_rows(times.size, self.max_rows)
        index = steps_up(np.minimum(times, 2 * self.horizon), self.step)  # far beyond is beyond
        happened &= index <= self._last
        index = np.minimum(index, self._last)
        groups = (
            codes_of(data[2], self.groups, "group") if len(self.groups) > 1 else np.zeros(times.size, dtype=np.int64)
        )
        if groups.shape != times.shape:
            raise refuse(
                "KaplanMeier: expected one group per time", "hand in columns of the same rows, in the same order"
            )
        counts = Exits(*(np.zeros(field.shape, dtype=np.int64) for field in self.fields))
        np.add.at(counts.events, (groups[happened], index[happened]), 1)
        np.add.at(counts.censored, (groups[~happened], index[~happened]), 1)
        return counts

    def result(self, sums: Exits[NDArray[np.int64]], n_sites: int) -> SurvivalResult:
        """Return curves and test."""
        events, censored = sums
        at_risk = np.cumsum((events + censored)[:, ::-1], axis=1)[:, ::-1]
        times: NDArray[np.float64] = np.arange(events.shape[1], dtype=np.float64) * self.step
        rule, sizes = self.small_cells, (events + censored).sum(axis=1)
        unknown = np.ma.getmaskarray(rule.applied(sizes, "patients of a group"))
        curves = {}
        for i, group in enumerate(self.groups):
            curve = _curve(self, times, events[i], censored[i], at_risk[i])
            if rule.action == "suppress":
                curve = curve.hidden(shows_n=False) if unknown[i] else curve.coarsened(rule.below)
            elif curve.times.size:
                rule.applied(np.stack([curve.events, curve.censored]), f"patients leaving, group {group}")
            curves[group] = curve
        test = _log_rank(events, at_risk)
        if test is not None and rule.action == "suppress":
            small = rule.of(test.observed) | rule.of(sizes - test.observed) | unknown
            shown = np.ma.MaskedArray(np.where(small, 0, test.observed), mask=small, fill_value=0)
            test = replace(test, observed=shown, expected=np.where(small, np.nan, test.expected))
        return SurvivalResult(curves, test, int(sizes.sum()), n_sites)


def _curve(
    asked: KaplanMeier,
    times: NDArray[np.float64],
    events: NDArray[np.int64],
    censored: NDArray[np.int64],
    at_risk: NDArray[np.int64],
) -> Curve:
    seen = events + censored > 0
    d, n = events[seen], at_risk[seen]
    survival = np.asarray(np.cumprod(1.0 - d / n), dtype=np.float64)
    lowest = np.asarray(np.cumprod(1.0 - d / np.maximum(n - censored[seen], 1)), dtype=np.float64)
    # Where all who are left have the event, the curve is 0 and so is its variance.
    last = d == n
    with np.errstate(divide="ignore"):
        terms = np.where(last, 0.0, d / (n * np.where(last, 1, n - d)))
    variance: NDArray[np.float64] = survival**2 * np.cumsum(terms)
    return Curve(asked.step, asked.horizon, times[seen], d, censored[seen], n, survival, lowest, variance)


def _log_rank(events: NDArray[np.int64], at_risk: NDArray[np.int64]) -> LogRank | None:
    total, everybody = events.sum(axis=0), at_risk.sum(axis=0)
    seen = total > 0
    d, n = total[seen].astype(np.float64), everybody[seen].astype(np.float64)
    share = at_risk[:, seen] / n
    expected = (share * d).sum(axis=1)
    factor = d * (n - d) / np.maximum(n - 1, 1)
    covariance = np.diag((share * factor).sum(axis=1)) - (share * factor) @ share.T
    observed = events.sum(axis=1)
    told = np.flatnonzero(at_risk[:, seen].any(axis=1))
    df = len(told) - 1
    among = np.ix_(told[:-1], told[:-1])
    if df < 1 or np.linalg.matrix_rank(covariance[among]) < df:
        return None
    difference = (observed - expected)[told[:-1]]
    statistic = float(difference @ np.linalg.solve(covariance[among], difference))
    return LogRank(statistic, df, chi_square_tail(max(statistic, 0.0), df), observed, expected)
