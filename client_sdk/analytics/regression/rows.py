"""A site's rows for a regression: features, outcomes, offsets and weights, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.checks import Grid, check_rows
from client_sdk.columns import column, position, refuse, table
from he_agg.errors import InputError, Reason

__all__ = ["Rows", "bounded", "cells", "exposures", "features_of", "one_each", "rows_of", "weights_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Rows with the constant in front. Those of weight 0 are left out.

    Attributes:
        x: Shape: (rows, features + 1)
        y: outcomes. Shape: (rows,)
        offset: what is added to the linear predictor. Shape: (rows,)
        steps: weights in steps of their grid. Shape: (rows,)
        weight: weights. Shape: (rows,)
    """

    x: Floats
    y: Floats
    offset: Floats
    steps: NDArray[np.int64]
    weight: Floats

    def of(self, which: NDArray[np.bool_]) -> Rows:
        """Return some of them."""
        return Rows(self.x[which], self.y[which], self.offset[which], self.steps[which], self.weight[which])


def features_of(values: Any, columns: int, bound: float) -> Floats:
    """Check features."""
    rows = table(values, columns, "features")
    bounded(
        rows,
        bound,
        "features",
        "scale the columns by constants that all sites agree on, or agree on a larger feature_bound",
    )
    return rows


def bounded(values: Floats, bound: float, name: str, hint: str) -> None:
    """Refuse values beyond an absolute bound."""
    if values.size and np.abs(values).max() > bound:
        raise InputError(
            Reason.BEYOND_CLIP, f"{name}: expected absolute values up to {bound:g}, got one beyond it", hint
        )


def weights_of(values: Any, grid: Grid | None, rows: int) -> NDArray[np.int64]:
    """Check weights, and put them on their grid; ones without a grid."""
    if grid is None:
        return np.ones(rows, dtype=np.int64)
    weights = column(values, "weights")
    one_each(weights, rows, "weights")
    return grid.integers(weights, "weights")


def one_each(values: Floats, rows: int, name: str) -> None:
    """Refuse a column of another length."""
    if values.size != rows:
        raise InputError(
            Reason.WRONG_SHAPE,
            f"{name}: expected {rows} of them, one per row, got {values.size}",
            "hand in columns of the same rows, in the same order",
        )


def rows_of(x: Floats, y: Floats, offset: Floats, steps: NDArray[np.int64], step: float, max_rows: int) -> Rows:
    """Put checked columns together."""
    check_rows(len(x), max_rows)
    design = np.column_stack([np.ones(len(x)), x])
    return Rows(design, y, offset, steps, steps.astype(np.float64) * step).of(steps > 0)


def exposures(values: Any, low: float, high: float, rows: int) -> Floats:
    """Check exposures, and return their logarithms."""
    exposure = column(values, "exposures")
    one_each(exposure, rows, "exposures")
    wrong = (exposure < low) | (exposure > high)
    if wrong.any():
        raise refuse(
            f"exposures: expected values from {low:g} to {high:g}, got {int(wrong.sum())} outside, the first at "
            f"position {position(wrong)}",
            "leave out rows without exposure; take a unit in which exposures are near 1, or agree on wider bounds",
        )
    return np.log(exposure)


def cells(rows: Rows) -> NDArray[np.int64]:
    """Count rows for the guard of small cells.

    Rows whose feature is not 0, with an outcome that is not 0 and with one that is; rows whose feature is neither 0
    nor 1. The first column is the constant's: all rows.

    Shape: (3, features + 1)
    """
    there, event = rows.x != 0, (rows.y != 0)[:, None]
    return np.array([(there & event).sum(axis=0), (there & ~event).sum(axis=0), (there & (rows.x != 1)).sum(axis=0)])
