"""Check a site's data for every analysis: shape, finite, on the grid, not too many.

Errors tell positions, never values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import InputError, Reason

__all__ = ["Grid", "check_rows", "finite", "matrix", "refuse"]

MAX_ROWS = 1_000_000
"""The most rows a site may have unless an analysis is told otherwise."""


@dataclass(frozen=True)
class Grid:
    """Values as multiples of a step within bounds: how measurements become integers.

    Rounding to the grid is the only thing that is not exact in these analyses; take the step at which the values were
    recorded (0.1 mmol/L, 1 day) and nothing is rounded at all.

    Attributes:
        step: distance of grid points. Units: those of the values.
        low: smallest value that can occur. Units: those of the values.
        high: largest value that can occur.
    """

    step: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high and self.step > 0):
            raise refuse(f"Grid: expected step > 0 and finite low < high, got {self}")
        if max(abs(self.low), abs(self.high)) / self.step > 2**52:
            raise refuse("Grid: expected a step that divides the range into at most 2^52 points, got a finer one")

    @property
    def first(self) -> int:
        """Number of the lowest grid point."""
        return math.floor(self.low / self.step + 0.5)

    @property
    def last(self) -> int:
        """Number of the highest grid point."""
        return math.floor(self.high / self.step + 0.5)

    @property
    def bound(self) -> int:
        """Largest absolute number of a grid point."""
        return max(abs(self.first), abs(self.last))

    def integers(self, values: NDArray[np.float64], name: str = "values") -> NDArray[np.int64]:
        """Return the numbers of the nearest grid points, ties to even."""
        finite(values, name)
        numbers = np.rint(values / self.step).astype(np.int64)
        outside = (numbers < self.first) | (numbers > self.last)
        if outside.any():
            raise InputError(
                Reason.BEYOND_CLIP,
                f"{name}: expected values within {self.low:g}..{self.high:g}, got {int(outside.sum())} outside, the "
                f"first at position {tuple(int(i) for i in np.argwhere(outside)[0])}",
                "clip the values beforehand, or agree on a wider grid with the other sites",
            )
        return numbers


def refuse(message: str, hint: str = "") -> InputError:
    """Return the error for arguments that make no sense."""
    return InputError(Reason.BAD_ARGUMENT, message, hint)


def finite(values: NDArray[np.float64], name: str) -> None:
    """Refuse NaN and infinity."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise InputError(
            Reason.NON_FINITE,
            f"{name}: expected finite values, got {int(wrong.sum())} that are not, the first at position "
            f"{tuple(int(i) for i in np.argwhere(wrong)[0])}",
            "leave out or impute missing values first",
        )


def matrix(values: Any, columns: int, name: str = "values") -> NDArray[np.float64]:
    """Return a table of numbers with the agreed number of columns; one column may be given flat.

    Shape: (rows, columns)
    """
    try:
        array = np.ascontiguousarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(Reason.WRONG_DTYPE, f"{name}: expected numbers, got something else") from error
    if array.ndim == 1 and columns == 1:
        array = array.reshape(-1, 1)
    if array.ndim != 2 or array.shape[1] != columns:
        raise InputError(Reason.WRONG_SHAPE, f"{name}: expected shape (rows, {columns}), got {array.shape}")
    return array


def check_rows(rows: int, max_rows: int) -> None:
    """Refuse more rows than agreed: sums would not fit their digits."""
    if rows > max_rows:
        raise refuse(
            f"expected at most {max_rows} rows at a site, got {rows}", "agree on a larger max_rows with the other sites"
        )
