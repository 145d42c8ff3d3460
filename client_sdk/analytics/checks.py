"""Put values and times on grids, for every analysis: steps, bounds and horizons become whole numbers here.

What enters at all is decided in `client_sdk.columns`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client_sdk.agreed import settle
from client_sdk.columns import position, refuse
from he_agg.errors import InputError, Reason

__all__ = ["MAX_ROWS", "TOO_FEW", "Grid", "check_rows", "steps_down", "steps_up"]

MAX_ROWS = 1_000_000
"""The most rows a site may have unless an analysis is told otherwise."""

TOO_FEW = "ask when the sites have more rows, and see that none of them sent an empty table"
"""What to do where the rows of all sites together are too few for an answer."""

_NEAR = 1e-6
"""A time that is this near to a grid point, in steps, is at it: 0.1 + 0.2 is not after 0.3."""


@dataclass(frozen=True)
class Grid:
    """Values as multiples of a step within bounds: how measurements become integers.

    Rounding to the grid is the only thing that is not exact in these analyses; take the step at which the values were
    measured (0.1 mmol/L, 1 day) and nothing is rounded at all. The bounds are put on the grid like the values, to the
    nearest grid point: a value is within them if its grid point is.

    Attributes:
        step: distance of grid points. Units: those of the values.
        low: smallest value that can occur. Units: those of the values.
        high: largest value that can occur.
    """

    step: float
    low: float
    high: float

    def __post_init__(self) -> None:
        settle(self)
        if not (self.low < self.high and self.step > 0):
            raise refuse(f"Grid: expected step > 0 and low < high, got {self}")
        if max(abs(self.low), abs(self.high)) / self.step > 2**52:
            raise refuse("Grid: expected a step that divides the range into at most 2^52 points, got a finer one")

    @property
    def first(self) -> int:
        """Number of the lowest grid point."""
        return int(np.rint(self.low / self.step))

    @property
    def last(self) -> int:
        """Number of the highest grid point."""
        return int(np.rint(self.high / self.step))

    @property
    def bound(self) -> int:
        """Largest absolute number of a grid point."""
        return max(abs(self.first), abs(self.last))

    def integers(self, values: NDArray[np.float64], name: str = "values") -> NDArray[np.int64]:
        """Return the numbers of the nearest grid points, ties to even."""
        numbers = np.rint(values / self.step)
        outside = (numbers < self.first) | (numbers > self.last)
        if outside.any():
            raise InputError(
                Reason.BEYOND_CLIP,
                f"{name}: expected values within {self.low:g} to {self.high:g}, got {int(outside.sum())} outside, the "
                f"first at position {position(outside)}",
                "clip the values beforehand, or agree on a wider grid with the other sites",
            )
        return numbers.astype(np.int64)


def steps_up(times: NDArray[np.float64], step: float) -> NDArray[np.int64]:
    """Number the first grid point that is not before each time: what happens in (t - step, t] belongs to t."""
    exact = times / step
    nearest = np.rint(exact)
    return np.where(np.abs(exact - nearest) <= _NEAR, nearest, np.ceil(exact)).astype(np.int64)


def steps_down(times: NDArray[np.float64], step: float) -> NDArray[np.int64]:
    """Number the last grid point that is not after each time."""
    return -steps_up(-times, step)


def check_rows(rows: int, max_rows: int) -> None:
    """Refuse more rows than agreed: sums would not fit their digits."""
    if rows > max_rows:
        raise refuse(
            f"expected at most {max_rows} rows at a site, got {rows}", "agree on a larger max_rows with the other sites"
        )
