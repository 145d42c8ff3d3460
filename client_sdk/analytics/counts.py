"""Count by category, by combination of categories, by bin. One round each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import OneRound
from client_sdk.analytics.checks import MAX_ROWS, check_rows
from client_sdk.analytics.integers import Field
from client_sdk.analytics.small_cells import SmallCells
from client_sdk.columns import column, expected, labels, refuse
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
        super().__post_init__()
        if not isinstance(self.categories, Mapping):
            raise refuse('Counts: expected categories by variable, such as {"sex": ["f", "m"]}')
        for name, known in self.categories.items():
            if not isinstance(known, tuple) or not all(isinstance(label, str | int | float) for label in known):
                raise refuse(f"Counts: variable {name!r}: expected a list of text or numbers as categories")
            if not known or len(set(known)) != len(known):
                raise refuse(f"Counts: variable {name!r}: expected different categories, at least one")
        if not self.categories:
            raise refuse("Counts: expected at least one variable")

    @property
    def fields(self) -> Cells[Field]:
        """The table of counts."""
        return Cells(Field(tuple(len(known) for known in self.categories.values()), self.max_rows))

    def prepared(self, *data: Any) -> Cells[NDArray[np.int64]]:
        """Return the site's table.

        Args:
            data: one sequence of labels per variable, all of the same length.
        """
        expected(data, "Counts", *(str(name) for name in self.categories))
        columns = [codes_of(own, known, name) for (name, known), own in zip(self.categories.items(), data)]  # noqa: B905
        if len({len(column) for column in columns}) != 1:
            raise refuse(
                "Counts: expected sequences of the same length", "hand in columns of the same rows, in the same order"
            )
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
        below: how many values are under the first edge; masked where suppressed.
        above: how many are over the last one.
        n: values of all sites together.
        n_sites: how many sites are in it.
    """

    counts: NDArray[Any]
    edges: NDArray[np.float64]
    below: Any
    above: Any
    n: int
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
        super().__post_init__()
        if np.ndim(self.edges) != 1 or len(self.edges) < 2 or not (np.diff(self.edges) > 0).all():
            raise refuse("Histogram: expected at least two ascending edges")

    @property
    def fields(self) -> Cells[Field]:
        """Below, the bins, above."""
        return Cells(Field((len(self.edges) + 1,), self.max_rows))

    def prepared(self, *data: Any) -> Cells[NDArray[np.int64]]:
        """Return the site's histogram."""
        (values,) = expected(data, "Histogram", "values")
        flat = column(values)
        check_rows(flat.size, self.max_rows)
        edges = np.asarray(self.edges)
        slots = np.searchsorted(edges, flat, side="right")
        slots[flat == edges[-1]] = len(edges) - 1
        return Cells(np.bincount(slots, minlength=len(edges) + 1).astype(np.int64))

    def result(self, sums: Cells[NDArray[np.int64]], n_sites: int) -> HistogramResult:
        """Return all sites' histogram."""
        shown = self.small_cells.applied(sums.counts, "histogram")
        n = int(sums.counts.sum())
        return HistogramResult(shown[1:-1], np.asarray(self.edges), shown[0], shown[-1], n, n_sites)


def codes_of(values: Any, known: Sequence[str | int], name: str) -> NDArray[np.int64]:
    """Number labels by their place among the agreed categories."""
    index = {label: i for i, label in enumerate(known)}
    own = labels(values, name)
    try:
        found = [index.get(label, -1) for label in own]
    except TypeError as error:
        raise InputError(
            Reason.WRONG_DTYPE, f"variable {name!r}: expected text or whole numbers as labels, got something else"
        ) from error
    codes = np.array(found, dtype=np.int64)
    if (codes < 0).any():
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"variable {name!r}: expected one of the {len(known)} agreed categories, got another one in "
            f"{int((codes < 0).sum())} rows, the first at position {int((codes < 0).argmax())}",
            "agree on all categories that occur, for instance with one 'other', and map your own to them",
        )
    return codes
