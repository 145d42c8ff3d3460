"""Kaplan-Meier curves with Greenwood's variance, and the log-rank test, from counts at common times. One round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.checks import MAX_ROWS
from client_sdk.analytics.chi_square import chi_square_tail
from client_sdk.analytics.small_cells import SmallCells
from client_sdk.analytics.survival.curve import Curve
from client_sdk.analytics.survival.exits import ExitCounts, Exits
from client_sdk.analytics.survival.followup import at_risk
from client_sdk.columns import flags

__all__ = ["KaplanMeier", "LogRank", "SurvivalResult"]


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
class KaplanMeier(ExitCounts[SurvivalResult]):
    """Kaplan-Meier curves by group, and the log-rank test between groups.

    Times are put on a grid from 0 on that all sites share: what happens in (t - step, t] belongs to t. With the step in
    which times were noted (days) the curves are the pooled ones to the bit. With a coarser one they are exact at
    grid points where nobody left without the event in between, and otherwise the result says how far they can be off
    (`Curve.lowest`); the log-rank test is that of the coarsened times.

    **Every hospital learns** how many patients of each group had the event, and how many left, at every grid time, over
    all hospitals. At one patient a day that is a list of survival times without names: somebody who knows when a
    neighbour died may find the row. Take months or quarters where groups are small (and see `SmallCells`, which
    coarsens the curves that are shown).

    With `late_entry` patients count from the time on at which they came under observation (left truncation), put down
    to the grid. Where few are watched early on, the curve jumps, or falls to 0 for good: look at `Curve.at_risk`.

    Attributes:
        step: of the time grid. Units: those of the times, days for instance.
        horizon: longest time, put up to the grid. Longer ones are censored there.
        groups: names of the groups; one curve of everybody if there is only one name.
        small_cells: with "suppress" curves are shown so coarse that in each step no patients, or at least `below`, had
            the event, and likewise left without or came; where that cannot be, they are hidden.
        late_entry: whether patients have a time from which on they are watched; hospitals then also learn how many
            came at each grid time.
        max_rows: most patients of a site.
    """

    step: float
    horizon: float
    groups: Sequence[str] = ("all",)
    small_cells: SmallCells = SmallCells(below=1)  # noqa: RUF009
    late_entry: bool = False
    max_rows: int = MAX_ROWS

    column = "events"
    kinds = 1

    def kind_of(self, values: Any, rows: int) -> NDArray[np.int64]:
        """Take whether each one left with the event."""
        return flags(values, "events", rows).astype(np.int64)

    def result(self, sums: Exits[NDArray[np.int64]], n_sites: int) -> SurvivalResult:
        """Return curves and test."""
        events, censored = sums.events[:, 0], sums.censored
        there = at_risk(events + censored, sums.entered)
        rule, sizes = self.small_cells, (events + censored).sum(axis=1)
        unknown = np.ma.getmaskarray(rule.applied(sizes, "patients of a group"))
        curves = {}
        for i, group in enumerate(self.groups):
            curve = _curve(self, events[i], censored[i], sums.entered[i], there[i])
            if rule.action == "suppress":
                curve = curve.hidden(shows_n=False) if unknown[i] else curve.coarsened(rule.below)
            elif curve.times.size:
                counts = [curve.events, curve.censored, *[curve.entered] * self.late_entry]
                rule.applied(np.stack(counts), f"patients leaving or coming, group {group}")
            curves[group] = curve
        test = _log_rank(events, there)
        if test is not None and rule.action == "suppress":
            small = rule.of(test.observed) | rule.of(sizes - test.observed) | unknown
            shown = np.ma.MaskedArray(np.where(small, 0, test.observed), mask=small, fill_value=0)
            test = replace(test, observed=shown, expected=np.where(small, np.nan, test.expected))
        return SurvivalResult(curves, test, int(sizes.sum()), n_sites)


def _curve(
    asked: KaplanMeier,
    events: NDArray[np.int64],
    censored: NDArray[np.int64],
    entered: NDArray[np.int64],
    there: NDArray[np.int64],
) -> Curve:
    seen = events + censored > 0
    d, c, n = events[seen], censored[seen], there[seen]
    # Who leaves first had come since the start; a step's late patients may have come after its events.
    came = np.diff(n, prepend=0) + np.concatenate([[0], (d + c)[:-1]])
    within = np.concatenate([[0], entered[:-1]])[seen] if entered.size else 0
    survival = np.asarray(np.cumprod(1.0 - d / n), dtype=np.float64)
    lowest = np.asarray(np.cumprod(1.0 - d / np.maximum(n - c - within, np.maximum(d, 1))), dtype=np.float64)
    # Where all who are left have the event, the curve is 0 and so is its variance.
    last = d == n
    with np.errstate(divide="ignore"):
        terms = np.where(last, 0.0, d / (n * np.where(last, 1, n - d)))
    variance: NDArray[np.float64] = survival**2 * np.cumsum(terms)
    return Curve(asked.step, asked.horizon, asked.grid.times[seen], d, c, came, n, survival, lowest, variance)


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
