"""Quantiles by histograms that get finer around each of them, round by round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import Analysis, Finished
from client_sdk.analytics.checks import MAX_ROWS, Grid, check_rows
from client_sdk.analytics.integers import Field
from client_sdk.columns import column, expected, refuse

__all__ = ["QuantileResult", "Quantiles"]


class Interval(NamedTuple):
    """Where a quantile must lie.

    Attributes:
        low: first grid point that it can be.
        end: one past the last.
        below: how many values are below the first.
        stopped: whether the search ends here, because the parts have too few values.
    """

    low: int
    end: int
    below: int
    stopped: bool


class QuantileState(NamedTuple):
    """What is public between steps: how many are taken in, and an interval for each quantile."""

    step: int
    intervals: tuple[Interval, ...]


T = TypeVar("T")


class BinCounts(NamedTuple, Generic[T]):
    """Values per bin of each quantile, and how many there are."""

    counts: T
    n: T


@dataclass(frozen=True)
class QuantileResult:
    """Quantiles of all sites' values.

    Attributes:
        probabilities: as asked.
        low: the quantile, or the start of the interval it lies in where the search stopped early.
        high: the same grid point as `low`, or the last one of that interval.
        n: values of all sites together.
        steps: how many rounds it took.
        n_sites: how many sites are in it.
    """

    probabilities: tuple[float, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: int
    steps: int
    n_sites: int

    @property
    def values(self) -> NDArray[np.float64]:
        """The quantiles; NaN where the search stopped early: then `low` and `high` are all that is known."""
        return np.where(self.low == self.high, self.low, np.nan)


@dataclass(frozen=True)
class Quantiles(Analysis[NDArray[np.int64], QuantileState, QuantileResult]):
    """Quantiles to the resolution of a grid: `numpy.quantile(..., method="inverted_cdf")` of the pooled values.

    Each round counts the values in `bins` equal parts of the interval in which a quantile must lie, then goes on in
    the right one: after ``log(points) / log(bins)`` rounds one grid point is left.

    **Every hospital learns** these counts. A quantile to full resolution is some patient's value (the median patient's,
    say), and the last counts are of few patients: with `stop_below` the search goes into no part with fewer values, and
    the result is the shortest run of parts around the quantile that holds at least so many. Since the outermost
    quantiles are single patients anyway, ask for 0.05 and 0.95 rather than for 0 and 1.

    Attributes:
        grid: range and resolution.
        probabilities: from 0 to 1.
        bins: parts per round.
        stop_below: never go into an interval with fewer values; 0 to go all the way.
        max_rows: most values of a site.
    """

    grid: Grid
    probabilities: tuple[float, ...] = (0.25, 0.5, 0.75)
    bins: int = 64
    stop_below: int = 0
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.probabilities or not all(0 <= p <= 1 for p in self.probabilities) or self.bins < 2:
            raise refuse("Quantiles: expected probabilities from 0 to 1 and at least two bins")

    @property
    def fields(self) -> BinCounts[Field]:
        """One row of bins per quantile, and how many values there are."""
        return BinCounts(counts=Field((len(self.probabilities), self.bins), self.max_rows), n=Field((), self.max_rows))

    def prepared(self, *data: Any) -> NDArray[np.int64]:
        """Return grid numbers of the site's values, ascending."""
        (values,) = expected(data, "Quantiles", "values")
        flat = column(values)
        check_rows(flat.size, self.max_rows)
        return np.sort(self.grid.integers(flat))

    def start(self) -> QuantileState:
        """Return a state in which every quantile may be anywhere."""
        anywhere = Interval(self.grid.first, self.grid.last + 1, 0, False)
        return QuantileState(0, (anywhere,) * len(self.probabilities))

    def contribution(self, state: QuantileState, data: NDArray[np.int64]) -> BinCounts[NDArray[Any]]:
        """Return the site's counts in each quantile's bins; none where the search is over."""
        counts = np.zeros(self.fields.counts.shape, dtype=np.int64)
        for row, interval in zip(counts, state.intervals, strict=True):
            if not _is_over(interval):
                row[:] = np.diff(np.searchsorted(data, self._edges(interval), side="left"))
        return BinCounts(counts, np.array(data.size))

    def advance(
        self, state: QuantileState, sums: BinCounts[NDArray[Any]], n_sites: int
    ) -> QuantileState | Finished[QuantileResult]:
        """Return narrower intervals, or the quantiles."""
        n = int(sums.n)
        if n == 0:
            raise refuse("Quantiles: expected values, the sites have none")
        known = zip(self.probabilities, state.intervals, sums.counts, strict=True)
        after = tuple(self._narrowed(p, interval, counts, n) for p, interval, counts in known)
        if not all(_is_over(interval) for interval in after):
            return QuantileState(state.step + 1, after)
        low = np.array([interval.low for interval in after]) * self.grid.step
        high = np.array([interval.end - 1 for interval in after]) * self.grid.step
        return Finished(QuantileResult(self.probabilities, low, high, n, state.step + 1, n_sites))

    def _edges(self, interval: Interval) -> NDArray[np.int64]:
        width = -(-(interval.end - interval.low) // self.bins)
        return np.minimum(interval.low + width * np.arange(self.bins + 1, dtype=np.int64), interval.end)

    def _narrowed(self, p: float, interval: Interval, counts: NDArray[np.int64], n: int) -> Interval:
        if _is_over(interval):
            return interval
        rank = max(math.ceil(n * p - 1), 0)  # as NumPy rounds it
        before = interval.below + np.concatenate([[0], np.cumsum(counts)])
        chosen = int(np.searchsorted(before[1:], rank, side="right"))
        first, end = self._run(before, chosen)
        edges = self._edges(interval)
        return Interval(int(edges[first]), int(edges[end]), int(before[first]), end - first > 1)

    def _run(self, before: NDArray[np.int64], chosen: int) -> tuple[int, int]:
        """Find the shortest run of bins around the chosen one with enough values; all of them if there are too few.

        Args:
            before: how many values are below each edge.
        """
        runs = []
        for first in range(chosen, -1, -1):
            end = max(chosen + 1, int(np.searchsorted(before, before[first] + self.stop_below, side="left")))
            if end < len(before):
                runs.append((first, end))
        return min(runs, key=lambda run: run[1] - run[0], default=(0, len(before) - 1))


def _is_over(interval: Interval) -> bool:
    return interval.stopped or interval.end - interval.low <= 1
