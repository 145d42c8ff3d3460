"""Cumulative incidence of competing events (Aalen and Johansen), from counts at common times. One round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.checks import MAX_ROWS
from client_sdk.analytics.small_cells import SmallCells
from client_sdk.analytics.survival.curve import Z95, log_minus_log
from client_sdk.analytics.survival.exits import ExitCounts, Exits
from client_sdk.analytics.survival.followup import TimeGrid, at_risk
from client_sdk.columns import classes, refuse

__all__ = ["CumulativeIncidence", "Incidence", "IncidenceResult"]


@dataclass(frozen=True)
class Incidence:
    """How likely each event has happened by a time, in one group: step functions that rise at `times`.

    Attributes:
        step: of the grid. Units: those of the times.
        horizon: the last grid point; nothing is known after it.
        causes: names of the events.
        times: at which somebody had an event or left. Shape: (times,)
        events: how many had each event. Shape: (causes, times)
        at_risk: how many were there just before. Shape: (times,)
        incidence: of each event from each time on. Shape: (causes, times)
        variance: of the incidence, by the delta method (Dinse and Larson). Shape: (causes, times)
        survival: without any event. Shape: (times,)
        n: how many patients the group has.
    """

    step: float
    horizon: float
    causes: tuple[str, ...]
    times: NDArray[np.float64]
    events: NDArray[np.int64]
    at_risk: NDArray[np.int64]
    incidence: NDArray[np.float64]
    variance: NDArray[np.float64]
    survival: NDArray[np.float64]
    n: int

    def at(self, cause: str, time: float) -> float:
        """Return an event's incidence at the last grid point that is not after a time; NaN after the horizon."""
        curve = self.incidence[self._place(cause)]
        return float(TimeGrid(self.step, self.horizon).read(time, self.times, curve, 0.0))

    def interval(self, cause: str, z: float = Z95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return an event's pointwise confidence interval on the log-minus-log scale; the curve itself where undefined.

        Args:
            cause: which event.
            z: quantile of the normal distribution.
        """
        place = self._place(cause)
        return log_minus_log(self.incidence[place], self.variance[place], z)

    def _place(self, cause: str) -> int:
        if cause not in self.causes:
            raise refuse(f"expected one of {', '.join(self.causes)}, got another cause", "take a name of the question")
        return self.causes.index(cause)


@dataclass(frozen=True)
class IncidenceResult:
    """Cumulative incidence among all sites' patients.

    Attributes:
        curves: by group.
        n: patients of all sites together.
        n_sites: how many sites are in it.
    """

    curves: Mapping[str, Incidence]
    n: int
    n_sites: int


@dataclass(frozen=True)
class CumulativeIncidence(ExitCounts[IncidenceResult]):
    """Cumulative incidence of events that rule each other out (Aalen-Johansen), by group.

    Times are put on the grid of `KaplanMeier`, with late entry if asked. What is called censored there is so here only
    for who left without any of the events: a Kaplan-Meier curve that censors the other events says too much.

    **Every hospital learns** how many patients of each group had each event, and how many left without, at every grid
    time, over all hospitals; with late entry also how many came. As with `KaplanMeier`, by day that is a list of days:
    take months or quarters where groups are small.

    Attributes:
        step: of the time grid. Units: those of the times, days for instance.
        horizon: longest time, put up to the grid. Longer ones are censored there.
        causes: names of the events.
        groups: names of the groups; one of everybody if there is only one name.
        small_cells: with "suppress" there is an error instead of a result if a count is small: a curve would show it.
        late_entry: whether patients have a time from which on they are watched.
        max_rows: most patients of a site.
    """

    step: float
    horizon: float
    causes: Sequence[str]
    groups: Sequence[str] = ("all",)
    small_cells: SmallCells = SmallCells(below=1)  # noqa: RUF009
    late_entry: bool = False
    max_rows: int = MAX_ROWS

    column = "causes"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.causes or len(set(self.causes)) != len(self.causes):
            raise refuse("CumulativeIncidence: expected different causes, at least one")

    @property
    def kinds(self) -> int:
        """How many causes there are."""
        return len(self.causes)

    def kind_of(self, values: Any, rows: int) -> NDArray[np.int64]:
        """Take the number of each one's event from 1, in the order of `causes`, and 0 for none."""
        return classes(values, "causes", len(self.causes) + 1, rows)

    def result(self, sums: Exits[NDArray[np.int64]], n_sites: int) -> IncidenceResult:
        """Return curves."""
        rule = self.small_cells
        small = sum(int(rule.of(part).sum()) for part in sums)
        if small and rule.action == "suppress":
            raise refuse(
                f"CumulativeIncidence: expected no count below {rule.below}, got {small}",
                "agree on a coarser step, or on fewer groups and causes",
            )
        curves = {}
        for i, group in enumerate(self.groups):
            rule.applied(np.concatenate([part[i].ravel() for part in sums]), f"patients leaving or coming, {group}")
            curves[group] = self._curve(*(part[i] for part in sums))
        return IncidenceResult(curves, sum(curve.n for curve in curves.values()), n_sites)

    def _curve(self, events: NDArray[np.int64], censored: NDArray[np.int64], entered: NDArray[np.int64]) -> Incidence:
        left = events.sum(axis=0) + censored
        seen = left > 0
        d, n = events[:, seen], at_risk(left, entered)[seen]
        everyone = d.sum(axis=0)
        survival: NDArray[np.float64] = np.cumprod(1.0 - everyone / n)
        before = np.concatenate([[1.0], survival[:-1]])
        steps = before * d / n
        incidence = np.cumsum(steps, axis=1)
        return Incidence(
            step=self.step,
            horizon=self.horizon,
            causes=tuple(self.causes),
            times=self.grid.times[seen],
            events=d,
            at_risk=n,
            incidence=incidence,
            variance=_variance(incidence, before, d, everyone, n),
            survival=survival,
            n=int(left.sum()),
        )


def _variance(
    incidence: NDArray[np.float64],
    before: NDArray[np.float64],
    events: NDArray[np.int64],
    everyone: NDArray[np.int64],
    n: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the delta method's variance of each incidence at each time.

    Source: Dinse and Larson, A note on semi-Markov models for partially censored data, Biometrika 73, 1986. With I the
    incidence at t, I(s) at an earlier time s, S(s-) the survival just before and d of n the events there, it sums over
    s: (I - I(s))^2 d / (n (n - d)), S(s-)^2 d_k (n - d_k) / n^3, and -2 (I - I(s)) S(s-) d_k / n^2.
    """
    # Where all who are left have an event, nothing rises afterwards.
    first = np.where(everyone == n, 0.0, everyone / (n * np.maximum(n - everyone, 1)))
    second = before**2 * events * (n - events) / n**3.0
    third = before * events / n**2.0
    # (I - I(s))^2 opened, so that each sum over s is a cumulative one.
    variance: NDArray[np.float64] = (
        incidence**2 * np.cumsum(first)
        - 2 * incidence * np.cumsum(incidence * first, axis=1)
        + np.cumsum(incidence**2 * first, axis=1)
        + np.cumsum(second, axis=1)
        - 2 * (incidence * np.cumsum(third, axis=1) - np.cumsum(incidence * third, axis=1))
    )
    return variance
