"""Mean, variance and covariance from exact sums of integers. One round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import OneRound
from client_sdk.analytics.checks import MAX_ROWS, Grid, check_rows
from client_sdk.analytics.integers import Field
from client_sdk.columns import Missing, expected, refuse, table
from he_agg.errors import InputError, Reason

__all__ = ["MomentResult", "MomentSums", "Moments"]


T = TypeVar("T")


class MomentSums(NamedTuple, Generic[T]):
    """Counts, sums, and sums of squares or of products of column pairs.

    Shape: n and s1 (d,), s2 (d,) or (d * (d + 1) / 2,).
    """

    n: T
    s1: T
    s2: T


@dataclass(frozen=True)
class MomentResult:
    """Moments of all sites' values, each the correctly rounded quotient of exact integers.

    Attributes:
        n: values per column. Shape: (d,)
        mean: NaN where there is no value. Shape: (d,)
        variance: with n - 1 in the denominator; NaN where n < 2. Shape: (d,)
        covariance: its diagonal is the variance; None unless asked for. Shape: (d, d)
        n_sites: how many sites are in it.
    """

    n: NDArray[np.int64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    covariance: NDArray[np.float64] | None
    n_sites: int


@dataclass(frozen=True)
class Moments(OneRound[MomentResult]):
    """Mean and variance of columns, and their covariance if asked for.

    Values become integers k on a grid; sums of k, k squared and products are exact, and
    ``variance = (n * sum(k^2) - sum(k)^2) / (n * (n - 1))`` is computed in whole numbers, so nothing cancels however
    large the mean is beside the spread. The result is that of the pooled, gridded values, exactly.

    **Every hospital learns** for each column the number of values, their sum and the sum of their squares over all
    hospitals, with `covariance` also the sums of products.

    Attributes:
        grids: one grid per column.
        covariance: whether to sum products of columns too; missing values are then refused.
        missing: what becomes of missing values: "refuse", or "skip" to leave it out of its own column.
        max_rows: most rows of a site.
    """

    grids: Sequence[Grid]
    covariance: bool = False
    missing: Missing = "refuse"
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.grids:
            raise refuse("Moments: expected at least one column")
        if self.missing not in ("refuse", "skip") or (self.covariance and self.missing == "skip"):
            raise refuse("Moments: expected missing='refuse', or 'skip' without covariance")

    @property
    def fields(self) -> MomentSums[Field]:
        """Counts, sums, and sums of squares or products."""
        d = len(self.grids)
        bound = max(grid.bound for grid in self.grids)
        pairs = d * (d + 1) // 2 if self.covariance else d
        return MomentSums(
            n=Field((d,), self.max_rows),
            s1=Field((d,), self.max_rows * bound),
            s2=Field((pairs,), self.max_rows * bound**2),
        )

    def prepared(self, *data: Any) -> MomentSums[NDArray[Any]]:
        """Return the site's sums.

        Args:
            data: one array of values. Shape: (rows, columns)
        """
        (values,) = expected(data, "Moments", "values")
        array = table(values, len(self.grids), missing=self.missing)
        check_rows(len(array), self.max_rows)
        d = len(self.grids)
        present = ~np.isnan(array)
        columns = [grid.integers(array[present[:, j], j], f"column {j}") for j, grid in enumerate(self.grids)]
        n = np.array([column.size for column in columns], dtype=np.int64)
        s1 = np.array([exact_sum(column) for column in columns], dtype=object)
        pairs = [(i, j) for i in range(d) for j in range(i, d)] if self.covariance else [(j, j) for j in range(d)]
        s2 = np.array([exact_dot(columns[i], columns[j]) for i, j in pairs], dtype=object)
        return MomentSums(n, s1, s2)

    def result(self, sums: MomentSums[NDArray[Any]], n_sites: int) -> MomentResult:
        """Return the moments of all sites."""
        d = len(self.grids)
        counts, s1, s2 = sums.n, [int(v) for v in sums.s1], [int(v) for v in sums.s2]
        n = [int(v) for v in counts]
        steps = [grid.step for grid in self.grids]
        mean = np.array([s1[j] / n[j] * steps[j] if n[j] else np.nan for j in range(d)])
        covariance = None
        if self.covariance:
            covariance = np.full((d, d), np.nan)
            pairs = [(i, j) for i in range(d) for j in range(i, d)]
            for (i, j), product in zip(pairs, s2, strict=True):
                value = _quotient(n[i], s1[i], s1[j], product) * steps[i] * steps[j]
                covariance[i, j] = covariance[j, i] = value
            variance = np.diag(covariance).copy()
        else:
            variance = np.array([_quotient(n[j], s1[j], s1[j], s2[j]) * steps[j] * steps[j] for j in range(d)])
        return MomentResult(counts, mean, variance, covariance, n_sites)


def _quotient(n: int, a: int, b: int, product: int) -> float:
    """Compute (n * product - a * b) / (n * (n - 1)) in whole numbers, rounded once."""
    return (n * product - a * b) / (n * (n - 1)) if n > 1 else float("nan")


_BLOCK = 2**11


def exact_sum(values: NDArray[np.int64]) -> int:
    """Sum as Python's integer, of numbers below 2^52 however many: int64 would wrap around in silence."""
    return sum(int(values[i : i + _BLOCK].sum()) for i in range(0, values.size, _BLOCK))


def exact_dot(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Sum of products as Python's integer, whatever its size.

    Raises:
        InputError: single products that leave 63 bits less 11.
    """
    if not a.size:
        return 0
    if int(np.abs(a).max()) * int(np.abs(b).max()) >= 2**51:
        if int(np.abs(a).max()) >= 2**53 or int(np.abs(b).max()) >= 2**53:
            raise InputError(Reason.BEYOND_CLIP, "expected grid numbers below 2^53, got a larger one")
        return sum(int(x) * int(y) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return sum(int(np.dot(a[i : i + _BLOCK], b[i : i + _BLOCK])) for i in range(0, a.size, _BLOCK))
