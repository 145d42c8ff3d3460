"""Quantiles by histograms that get finer around each of them, round by round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import Analysis, Finished
from client_sdk.analytics.checks import MAX_ROWS, Grid, check_rows, matrix, refuse
from client_sdk.analytics.integers import Field

__all__ = ["QuantileResult", "Quantiles"]

Intervals = tuple[tuple[int, int, int], ...]
"""Per quantile: first grid point that it can be, one past the last, and how many values are below the first."""


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
    """

    probabilities: tuple[float, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: int
    steps: int

    @property
    def values(self) -> NDArray[np.float64]:
        """The quantiles; the middle of the interval where the search stopped early."""
        return np.where(self.low == self.high, self.low, (self.low + self.high) / 2)


@dataclass(frozen=True)
class Quantiles(Analysis[NDArray[np.int64], "tuple[int, int, Intervals]", QuantileResult]):
    """Quantiles to the resolution of a grid: `numpy.quantile(..., method="inverted_cdf")` of the pooled values.

    Each round counts the values in `bins` equal parts of the interval in which a quantile must lie, then goes on in
    the right one: after ``log(points) / log(bins)`` rounds one grid point is left.

    **Every hospital learns** these counts. A quantile to full resolution is some patient's value (the median patient's,
    say), and the last counts are of few patients: with `stop_below` the search ends at the last interval that holds at
    least so many values, and the result says which interval that is. Since the outermost quantiles are single patients
    anyway, ask for 0.05 and 0.95 rather than for 0 and 1.

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
        object.__setattr__(self, "probabilities", tuple(float(p) for p in self.probabilities))
        if not self.probabilities or not all(0 <= p <= 1 for p in self.probabilities) or self.bins < 2:
            raise refuse("Quantiles: expected probabilities from 0 to 1 and at least two bins")

    @property
    def fields(self) -> BinCounts[Field]:
        """One row of bins per quantile, and how many values there are."""
        return BinCounts(counts=Field((len(self.probabilities), self.bins), self.max_rows), n=Field((), self.max_rows))

    def prepared(self, *data: Any) -> NDArray[np.int64]:
        """Return grid numbers of the site's values, ascending."""
        (values,) = data
        flat = matrix(np.ravel(values), 1)[:, 0]
        check_rows(flat.size, self.max_rows)
        return np.sort(self.grid.integers(flat))

    def start(self) -> tuple[int, int, Intervals]:
        """Return a state in which every quantile may be anywhere."""
        return 0, 0, tuple((self.grid.first, self.grid.last + 1, 0) for _ in self.probabilities)

    def contribution(self, state: tuple[int, int, Intervals], data: NDArray[np.int64]) -> BinCounts[NDArray[Any]]:
        """Return the site's counts in each quantile's bins."""
        counts = [np.diff(np.searchsorted(data, self._edges(low, high), side="left")) for low, high, _ in state[2]]
        return BinCounts(np.array(counts, dtype=np.int64), np.array(data.size))

    def fold(
        self,
        state: tuple[int, int, Intervals],
        sums: BinCounts[NDArray[Any]],
        n_sites: int,  # noqa: ARG002
    ) -> tuple[int, int, Intervals] | Finished[QuantileResult]:
        """Return narrower intervals, or the quantiles."""
        step, _, intervals = state
        n = int(sums.n)
        if n == 0:
            raise refuse("Quantiles: expected values, the sites have none")
        after = []
        for p, interval, counts in zip(self.probabilities, intervals, sums.counts, strict=True):
            after.append(self._narrowed(p, interval, counts, n))
        if all(new == old or new[1] - new[0] <= 1 for new, old in zip(after, intervals, strict=True)):
            low = np.array([first for first, _, _ in after]) * self.grid.step
            high = np.array([end - 1 for _, end, _ in after]) * self.grid.step
            return Finished(QuantileResult(self.probabilities, low, high, n, step + 1))
        return step + 1, n, tuple(after)

    def _edges(self, low: int, high: int) -> NDArray[np.int64]:
        width = -(-(high - low) // self.bins)
        return np.minimum(low + width * np.arange(self.bins + 1, dtype=np.int64), high)

    def _narrowed(
        self, p: float, interval: tuple[int, int, int], counts: NDArray[np.int64], n: int
    ) -> tuple[int, int, int]:
        low, high, below = interval
        if high - low <= 1:
            return interval
        rank = max(math.ceil(n * p - 1), 0)  # as NumPy rounds it
        reached = below + np.cumsum(counts)
        chosen = int(np.searchsorted(reached, rank, side="right"))
        if int(counts[chosen]) < self.stop_below:
            return interval
        edges = self._edges(low, high)
        return int(edges[chosen]), int(edges[chosen + 1]), int(reached[chosen] - counts[chosen])
