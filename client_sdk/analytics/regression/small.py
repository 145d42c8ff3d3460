"""Small cells of a regression: columns that only a few rows have, with or without the outcome, and small folds."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.small_cells import SmallCells, SmallCellWarning
from client_sdk.columns import refuse

__all__ = ["check_cells", "check_folds"]


def check_cells(who: str, cells: NDArray[np.int64], rule: SmallCells) -> None:
    """Warn, or refuse where small counts are suppressed: a coefficient of a few rows is about those rows.

    Args:
        cells: counts of rows, of rows.py.

    Raises:
        InputError: a count is small, and would be suppressed.
    """
    with_event, without, other = np.asarray(cells, dtype=np.int64)
    small = rule.of(with_event) | rule.of(without)
    yes_no = other == 0  # where a column is 1 or 0, the rows that have it not are a cell, too
    small |= yes_no & (rule.of(with_event[0] - with_event) | rule.of(without[0] - without))
    if not small.any():
        return
    places = np.flatnonzero(small)
    named = ", ".join("all rows" if place == 0 else f"feature {place - 1}" for place in places)
    what = (
        f"{who}: rows with or without the outcome, or with and without a feature, are below {rule.below} and not 0 "
        f"in: {named}"
    )
    if rule.action == "suppress":
        raise refuse(f"{what}; no result was released", "join categories, drop such columns, or ask about more rows")
    warnings.warn(f"{what}; every hospital gets such counts", SmallCellWarning, stacklevel=3)


def check_folds(rows: NDArray[np.int64], rule: SmallCells) -> None:
    """Warn about folds of few rows, or refuse them where small counts are suppressed; refuse empty ones.

    Raises:
        InputError: there is a fold without rows, or with so few that they would be suppressed.
    """
    fewest = int(rows.min())
    if fewest >= max(rule.below, 1):
        return
    least = max(rule.below, 1)
    what = f"CrossValidation: expected {least} rows or more in each of {rows.size} folds, got {fewest} in one"
    if fewest == 0 or rule.action == "suppress":
        raise refuse(f"{what}; no result was released", "ask for fewer folds, or when the sites have more rows")
    warnings.warn(f"{what}; every hospital gets the sums of each fold", SmallCellWarning, stacklevel=3)
