"""Count by category, by combination of categories, by bin. One round each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import OneRound
from client_sdk.analytics.checks import MAX_ROWS, check_rows, finite, matrix, refuse
from client_sdk.analytics.integers import Field
from client_sdk.analytics.small_cells import SmallCells
from he_agg.errors import InputError, Reason

__all__ = ["CountResult", "Counts", "Histogram", "HistogramResult", "codes_of"]


T = TypeVar("T")


class Cells(NamedTuple, Generic[T]):
    """How many in each cell."""

    counts: T


@dataclass(frozen=True)
class CountResult:
    """Counts of all sites together.

    Attributes:
        counts: exact; a masked array where small cells were suppressed. Shape: one axis per variable.
        n: rows of all sites together.
        n_sites: how many sites are in it.
    """

    counts: NDArray[Any]
    n: int
    n_sites: int


@dataclass(frozen=True)
class Counts(OneRound[CountResult]):
    """Counts by category, or by every combination of several variables' categories.

    **Every hospital learns** the count of each cell over all hospitals, nothing per hospital; with two hospitals, each
    can subtract its own and has the other's.

    Attributes:
        categories: for each variable the categories that can occur, in the order of the table's axes.
        small_cells: what to do about small counts.
        max_rows: most rows of a site.
    """

    categories: Mapping[str, Sequence[str | int]]
    small_cells: SmallCells = SmallCells()  # noqa: RUF009 - frozen
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        for name, labels in self.categories.items():
            if not labels or len(set(labels)) != len(labels):
                raise refuse(f"Counts: variable {name!r}: expected different categories, at least one")
        if not self.categories:
            raise refuse("Counts: expected at least one variable")

    @property
    def fields(self) -> Cells[Field]:
        """The table of counts."""
        return Cells(Field(tuple(len(labels) for labels in self.categories.values()), self.max_rows))

    def prepared(self, *data: Any) -> Cells[NDArray[np.int64]]:
        """Return the site's table.

        Args:
            data: one sequence of labels per variable, all of the same length.
        """
        if len(data) != len(self.categories):
            raise refuse(f"Counts: expected {len(self.categories)} sequences of labels, got {len(data)}")
        columns = [codes_of(labels, known, name) for (name, known), labels in zip(self.categories.items(), data)]  # noqa: B905
        if len({len(column) for column in columns}) != 1:
            raise refuse("Counts: expected sequences of the same length")
        check_rows(len(columns[0]), self.max_rows)
        table = np.zeros(self.fields.counts.shape, dtype=np.int64)
        np.add.at(table, tuple(columns), 1)
        return Cells(table)

    def result(self, sums: Cells[NDArray[np.int64]], n_sites: int) -> CountResult:
        """Return all sites' table."""
        counts = sums.counts
        shown = self.small_cells.applied(counts, " x ".join(self.categories))
        return CountResult(shown, int(counts.sum()), n_sites)


@dataclass(frozen=True)
class HistogramResult:
    """A histogram of all sites' values.

    Attributes:
        counts: exact; masked where suppressed. Shape: (len(edges) - 1,)
        edges: as asked.
        below: values under the first edge.
        above: values over the last edge.
        n_sites: how many sites are in it.
    """

    counts: NDArray[Any]
    edges: NDArray[np.float64]
    below: int
    above: int
    n_sites: int


@dataclass(frozen=True)
class Histogram(OneRound[HistogramResult]):
    """A histogram over agreed edges; bins are closed on the left, the last one on both sides, as in NumPy.

    **Every hospital learns** how many values of all hospitals together fall into each bin, below and above.

    Attributes:
        edges: ascending. Units: those of the values.
        small_cells: what to do about small counts.
        max_rows: most values of a site.
    """

    edges: tuple[float, ...]
    small_cells: SmallCells = SmallCells()  # noqa: RUF009
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        edges = np.asarray(self.edges, dtype=np.float64)
        if edges.ndim != 1 or edges.size < 2 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
            raise refuse("Histogram: expected at least two ascending finite edges")
        object.__setattr__(self, "edges", tuple(edges.tolist()))

    @property
    def fields(self) -> Cells[Field]:
        """Below, the bins, above."""
        return Cells(Field((len(self.edges) + 1,), self.max_rows))

    def prepared(self, *data: Any) -> Cells[NDArray[np.int64]]:
        """Return the site's histogram."""
        (values,) = data
        flat = matrix(np.ravel(values), 1)[:, 0]
        finite(flat, "values")
        check_rows(flat.size, self.max_rows)
        edges = np.asarray(self.edges)
        slots = np.searchsorted(edges, flat, side="right")
        slots[flat == edges[-1]] = len(edges) - 1
        return Cells(np.bincount(slots, minlength=len(edges) + 1).astype(np.int64))

    def result(self, sums: Cells[NDArray[np.int64]], n_sites: int) -> HistogramResult:
        """Return all sites' histogram."""
        counts = sums.counts
        shown = self.small_cells.applied(counts[1:-1], "histogram")
        return HistogramResult(shown, np.asarray(self.edges), int(counts[0]), int(counts[-1]), n_sites)


def codes_of(labels: Any, known: Sequence[str | int], name: str) -> NDArray[np.int64]:
    """Number labels by their place among the agreed categories."""
    index = {label: i for i, label in enumerate(known)}
    codes = np.empty(len(labels), dtype=np.int64)
    for row, label in enumerate(labels):
        plain = label.item() if isinstance(label, np.generic) else label
        if plain not in index:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"variable {name!r}, row {row}: expected one of the {len(known)} agreed categories, got another one",
                "agree on all categories that occur, for instance with one 'other', and map your own to them",
            )
        codes[row] = index[plain]
    return codes
