"""k-means by Lloyd's steps: a round for the seeds, then one per step."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import Analysis, Finished
from client_sdk.analytics.checks import MAX_ROWS, TOO_FEW, Grid, check_rows
from client_sdk.analytics.integers import Field
from client_sdk.analytics.moments import exact_dot, exact_sum
from client_sdk.analytics.small_cells import SmallCells
from client_sdk.columns import expected, refuse, table

__all__ = ["KMeans", "KMeansResult"]


T = TypeVar("T")


class ClusterSums(NamedTuple, Generic[T]):
    """Rows and their sums per start and cluster, and squares of columns."""

    counts: T
    sums: T
    squares: T


@dataclass(frozen=True)
class KMeansState:
    """What is public between steps.

    Attributes:
        step: how many rounds are taken in.
        centers: of every start; None before the seeds are drawn. Shape: (starts, clusters, columns)
    """

    step: int
    centers: NDArray[np.float64] | None


@dataclass(frozen=True)
class KMeansResult:
    """Clusters of all sites' rows.

    Attributes:
        centers: ordered by their first coordinates; NaN where the count was suppressed. Shape: (clusters, columns)
        counts: rows per cluster; masked where suppressed.
        inertia: sum of squared distances to the centers, of the last assignment. Units: squared values.
        steps: Lloyd's steps.
        converged: whether the last step changed nothing.
        n: rows of all sites together.
        n_sites: how many sites are in it.
    """

    centers: NDArray[np.float64]
    counts: NDArray[Any]
    inertia: float
    steps: int
    converged: bool
    n: int
    n_sites: int

    def labels(self, rows: Any) -> NDArray[np.intp]:
        """Return the cluster of each row of one's own data.

        Args:
            rows: Shape: (rows, columns)
        """
        return _nearest(table(rows, self.centers.shape[1], "rows"), self.centers)


@dataclass(frozen=True)
class KMeans(Analysis[NDArray[np.int64], KMeansState, KMeansResult]):
    """k-means of all sites' rows, the same centers as Lloyd's algorithm on the pooled, gridded rows from these seeds.
    A row that is equally near to two centers belongs to the one that comes first by its coordinates.

    **Seeds.** k-means++ and its relatives take patients' rows as seeds, which would publish them. Here the first round
    sums counts, values and squares, and the seeds are drawn around the common mean with the common spread from a public
    seed: they say nothing that the moments do not. Several starts travel in one vector and the best one wins. Known
    centers (from the literature, or from an earlier run) can be given instead.

    **Every hospital learns** the moments of each column and, in every step and start, the number of rows in each
    cluster and their sum: a cluster of one patient is that patient's row. Take few clusters, and look at the warning.
    Bring the columns to comparable scales beforehand, by agreed constants.

    Attributes:
        clusters: how many.
        grid: of all columns.
        columns: how many columns rows have.
        starts: how many seeds are tried at once.
        seed: of the public generator.
        initial: known centers instead of seeds. Shape: (clusters, columns)
        max_steps: Lloyd's steps at most.
        small_cells: what to do about small clusters in the result.
        max_rows: most rows of a site.
    """

    clusters: int
    grid: Grid
    columns: int
    starts: int = 8
    seed: int = 0
    initial: tuple[tuple[float, ...], ...] | None = None
    max_steps: int = 100
    small_cells: SmallCells = SmallCells()  # noqa: RUF009
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.clusters, self.columns, self.starts, self.max_steps) < 1:
            raise refuse("KMeans: expected at least one cluster, column, start and step")
        if self.initial is not None and np.shape(self.initial) != (self.clusters, self.columns):
            raise refuse(f"KMeans: expected {self.clusters} x {self.columns} initial centers")

    @property
    def fields(self) -> ClusterSums[Field]:
        """Rows and sums per start and cluster, squares for the inertia and the seeds."""
        shape = (1 if self.initial is not None else self.starts, self.clusters)
        bound = self.grid.bound
        return ClusterSums(
            counts=Field(shape, self.max_rows),
            sums=Field((*shape, self.columns), self.max_rows * bound),
            squares=Field((self.columns,), self.max_rows * bound**2),
        )

    def prepared(self, *data: Any) -> NDArray[np.int64]:
        """Return grid numbers of the site's rows."""
        (values,) = expected(data, "KMeans", "values")
        rows = self.grid.integers(table(values, self.columns))
        check_rows(len(rows), self.max_rows)
        return rows

    def start(self) -> KMeansState:
        """Return the known centers, or none yet."""
        if self.initial is None:
            return KMeansState(0, None)
        return KMeansState(0, np.asarray([self.initial], dtype=np.float64) / self.grid.step)

    def contribution(self, state: KMeansState, data: NDArray[np.int64]) -> ClusterSums[NDArray[Any]]:
        """Return rows and their sums per cluster of each start; before the seeds, of all rows in the first one."""
        counts = np.zeros(self.fields.counts.shape, dtype=np.int64)
        totals = np.zeros(self.fields.sums.shape, dtype=object)
        for start in range(counts.shape[0]):
            if state.centers is None:
                labels = np.zeros(len(data), dtype=np.intp)
            else:
                labels = _nearest(data.astype(np.float64), state.centers[start])
            counts[start] = np.bincount(labels, minlength=self.clusters)
            for cluster in np.flatnonzero(counts[start]):
                totals[start, cluster] = [exact_sum(column) for column in data[labels == cluster].T]
        exact = [exact_dot(column, column) for column in np.ascontiguousarray(data.T)]
        return ClusterSums(counts, totals, np.array(exact, dtype=object).reshape(self.columns))

    def advance(
        self,
        state: KMeansState,
        sums: ClusterSums[NDArray[Any]],
        n_sites: int,
    ) -> KMeansState | Finished[KMeansResult]:
        """Move the centers to the means of their rows; an empty cluster stays where it is."""
        counts = sums.counts.astype(np.float64)[:, :, None]
        totals = sums.sums.astype(np.float64)
        squares = sum(int(square) for square in sums.squares)
        if state.centers is None:
            return KMeansState(1, self._seeds(int(sums.counts[0, 0]), sums.sums[0, 0], sums.squares))
        centers = np.where(counts > 0, totals / np.maximum(counts, 1), state.centers)
        converged = bool(np.array_equal(centers, state.centers))
        steps = state.step + (self.initial is not None)
        if not converged and steps < self.max_steps:
            return KMeansState(state.step + 1, centers)
        inertias = [self._inertia(squares, c, t) for c, t in zip(sums.counts, sums.sums, strict=True)]
        best = int(np.argmin(inertias))
        order = np.lexsort(centers[best].T[::-1])
        shown = self.small_cells.applied(sums.counts[best][order].astype(np.int64), "clusters")
        inertia = inertias[best] * self.grid.step * self.grid.step
        # The center of a cluster of one is a patient's row: it goes with its count.
        mask = np.ma.getmaskarray(shown)
        means = np.where(mask[:, None], np.nan, centers[best][order] * self.grid.step)
        n = int(sums.counts[best].sum())
        return Finished(KMeansResult(means, shown, inertia, steps, converged, n, n_sites))

    def _seeds(self, n: int, totals: Any, squares: Any) -> NDArray[np.float64]:
        if n < self.clusters:
            raise refuse(f"KMeans: expected at least {self.clusters} rows, all sites together have {n}", TOO_FEW)
        mean = np.array([int(total) / n for total in totals])
        # In whole numbers: nothing cancels, however far the values are from 0.
        spreads = [(n * int(square) - int(total) ** 2) / n**2 for square, total in zip(squares, totals, strict=True)]
        spread = np.sqrt(np.array(spreads))
        # A public choice that every site repeats, not a secret and not noise.
        draws = np.random.default_rng(self.seed).standard_normal((self.starts, self.clusters, self.columns))
        return np.asarray(mean + spread * draws)

    @staticmethod
    def _inertia(squares: int, counts: NDArray[np.int64], totals: Any) -> float:
        """Sum of squares less the clusters' own: a fraction of whole numbers, rounded once."""
        within = Fraction(squares)
        for n, total in zip(counts, totals, strict=True):
            if n:
                within -= Fraction(sum(int(value) ** 2 for value in total), int(n))
        return float(within)


def _nearest(rows: NDArray[np.float64], centers: NDArray[np.float64]) -> NDArray[np.intp]:
    """Find the nearest center; of equals the first by coordinates, in whatever order the centers come.

    Each row's answer depends on no other row.
    """
    distance = np.zeros((len(rows), len(centers)))
    for column in range(rows.shape[1]):
        distance += (rows[:, column, None] - centers[None, :, column]) ** 2
    order = np.lexsort(centers.T[::-1])
    first: NDArray[np.intp] = np.argmin(np.where(np.isnan(distance), np.inf, distance)[:, order], axis=1)
    return np.asarray(order[first])
