"""Put follow-up on the time grid that all sites share: when patients left, how, and from when on they were watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.checks import MAX_ROWS, check_rows, steps_down, steps_up
from client_sdk.analytics.counts import codes_of
from client_sdk.columns import column, position, refuse
from he_agg.errors import InputError, Reason

__all__ = ["FollowUp", "TimeGrid", "at_risk", "groups_of"]


@dataclass(frozen=True)
class FollowUp:
    """Patients on the grid. Who came at or after the horizon is not among them.

    Attributes:
        exits: number of the grid point at which each one left.
        entries: of the grid point after which each one was watched; -1 for who was there from the start.
        happened: whether the patient left within the horizon, so that how counts.
        kept: which of the site's rows these are.
    """

    exits: NDArray[np.int64]
    entries: NDArray[np.int64]
    happened: NDArray[np.bool_]
    kept: NDArray[np.bool_]


@dataclass(frozen=True)
class TimeGrid:
    """Grid points 0, step, 2 step, ... up to the horizon, itself put up to the grid.

    Attributes:
        step: Units: those of the times.
        horizon: the last grid point. Units: those of the times.
    """

    step: float
    horizon: float

    @classmethod
    def asked(cls, who: str, step: float, horizon: float) -> TimeGrid:
        """Return the grid of a question that gives step and horizon."""
        if not step > 0 or not step <= horizon <= 2**31 * step:
            raise refuse(f"{who}: expected 0 < step <= horizon, got step {step:g}, horizon {horizon:g}")
        return cls(step, int(steps_up(np.asarray(horizon), step)) * step)

    @property
    def last(self) -> int:
        """Number of the last grid point."""
        return int(steps_up(np.asarray(self.horizon), self.step))

    @property
    def times(self) -> NDArray[np.float64]:
        """All grid points."""
        return np.asarray(np.arange(self.last + 1, dtype=np.float64) * self.step)

    def read(
        self, time: Any, times: NDArray[np.float64], values: NDArray[np.float64], before: float
    ) -> NDArray[np.float64]:
        """Read a step function at the last grid points that are not after some times.

        Args:
            time: one, or as many as are wanted.
            times: at which it changes.
            values: what it is from each on.
            before: what it was until then.

        Returns:
            As many; NaN after the horizon, and where nothing is known.
        """
        asked = np.asarray(time, np.float64)
        known = np.isfinite(asked) & bool(times.size and not np.isnan(values).any())
        at = np.where(known, asked, 0.0)
        points = steps_down(at, self.step)
        known &= (points >= 0) & (steps_up(at, self.step) <= self.last)
        place = np.searchsorted(steps_up(times, self.step), points, side="right")
        return np.asarray(np.where(known, np.append(before, values)[place], np.nan), dtype=np.float64)

    def follow_up(self, times: Any, entries: Any = None, max_rows: int = MAX_ROWS) -> FollowUp:
        """Put a site's patients on the grid: exits up, entries down.

        So whoever left in (t - step, t] left at t, and whoever came in [t, t + step) was watched after t.

        Args:
            times: when each one left.
            entries: from when on each one was watched; None if all were from the start.
            max_rows: the most there may be.
        """
        left = column(times, "times")
        _not_before_zero(left, "times")
        check_rows(left.size, max_rows)
        far = 2 * self.horizon + self.step
        exits = steps_up(np.minimum(left, far), self.step)  # far beyond is beyond
        came: NDArray[np.int64] = np.full(left.size, -1, dtype=np.int64)
        if entries is not None:
            start = column(entries, "entries")
            if start.shape != left.shape:
                raise refuse("entries: expected one per time", "hand in columns of the same rows, in the same order")
            _not_before_zero(start, "entries")
            came = steps_down(np.minimum(start, far), self.step)
            wrong = (start >= left) | ((came >= exits) & (exits <= self.last))
            if wrong.any():
                raise refuse(
                    f"entries: expected each before its time, got {int(wrong.sum())} at or after it, the first at "
                    f"position {position(wrong)}",
                    "look for dates that were swapped; somebody who left when he came was never watched",
                )
        kept = came < self.last
        exits, came = exits[kept], came[kept]
        return FollowUp(np.minimum(exits, self.last), came, exits <= self.last, kept)


def groups_of(values: Any, groups: Sequence[str], like: NDArray[Any], name: str = "group") -> NDArray[np.int64]:
    """Return the number of each patient's group.

    Args:
        values: labels; unused where there is one group only.
        groups: the agreed ones.
        like: another column of the same rows.
        name: what they are called.
    """
    if len(groups) == 1:
        return np.zeros(len(like), dtype=np.int64)
    codes = codes_of(values, groups, name)
    if len(codes) != len(like):
        raise refuse(f"{name}: expected one per time", "hand in columns of the same rows, in the same order")
    return codes


def at_risk(left: NDArray[np.int64], entered: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count who was there just before each grid point.

    Args:
        left: how many left at each grid point. Shape: (..., points)
        entered: how many came just after each; no points if all were there from the start.
    """
    there = np.cumsum(left[..., ::-1], axis=-1)[..., ::-1]
    if entered.shape[-1]:
        there = there - np.cumsum(entered[..., ::-1], axis=-1)[..., ::-1]
    return np.asarray(there, dtype=np.int64)


def _not_before_zero(times: NDArray[np.float64], name: str) -> None:
    if (times < 0).any():
        raise InputError(
            Reason.BEYOND_CLIP,
            f"{name}: expected 0 or later, got {int((times < 0).sum())} before it, the first at position "
            f"{position(times < 0)}",
            "look for dates that were swapped",
        )
