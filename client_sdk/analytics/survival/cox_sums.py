"""Sums of Cox's partial likelihood: over risk sets at each event time, and over event times.

A **cell** is an event time of a stratum. Its risk set has a sum of weights exp(x'b), of weighted features and of their
products; Efron's way with ties needs the same sums over those who had the event there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Moments", "RiskSets", "Terms", "terms_of", "upper"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Sums over patients, per cell: weights, weighted features, upper half of weighted products of features.

    Attributes:
        weights: Shape: (cells,)
        features: Shape: (cells, p)
        products: Shape: (cells, p (p + 1) / 2)
    """

    weights: Floats
    features: Floats
    products: Floats


class RiskSets:
    """Which of a site's patients are at risk at which cells: made once, summed at every step.

    Each patient is at risk at a run of cells. The run is cut into blocks of powers of two, as in a segment tree, so
    that every sum has positive weights only: nothing is subtracted and nothing cancels, with late entry neither.

    Args:
        cells: keys of the cells, rising.
        entries: the key after which each patient is at risk.
        exits: the last key at which each patient is.
        events: whether the patient had the event at the exit.
    """

    def __init__(
        self,
        cells: NDArray[np.int64],
        entries: NDArray[np.int64],
        exits: NDArray[np.int64],
        events: NDArray[np.bool_],
    ) -> None:
        self.cells = len(cells)
        self._size = 1 << max(self.cells - 1, 0).bit_length()
        first = np.searchsorted(cells, entries, side="right") + self._size
        end = np.searchsorted(cells, exits, side="right") + self._size
        rows, nodes = [], []
        while (open_ := first < end).any():
            odd = open_ & (first % 2 == 1)
            rows.append(np.flatnonzero(odd))
            nodes.append(first[odd])
            first = (first + odd) // 2
            odd = open_ & (end % 2 == 1)
            rows.append(np.flatnonzero(odd))
            nodes.append(end[odd] - 1)
            end = end // 2
        self._at_risk = _Groups(np.concatenate([*rows, []]).astype(np.intp), np.concatenate([*nodes, []]))
        had = np.flatnonzero(events)
        self._events = _Groups(had, np.searchsorted(cells, exits[had]))

    def of(self, features: Floats, weights: Floats, *, events: bool = False) -> Moments:
        """Sum over all at risk at each cell, or over those who had the event there."""
        sums = self._over_events if events else self._over_risk_sets
        p = features.shape[1]
        return Moments(
            sums(weights),
            np.column_stack([np.empty((self.cells, 0)), *(sums(weights * features[:, i]) for i in range(p))]),
            np.column_stack(
                [np.empty((self.cells, 0))]
                + [sums(weights * features[:, i] * features[:, j]) for i, j in zip(*upper(p), strict=True)]
            ),
        )

    def _over_events(self, values: Floats) -> Floats:
        return self._events.summed(values, self.cells)

    def _over_risk_sets(self, values: Floats) -> Floats:
        tree = self._at_risk.summed(values, 2 * self._size)
        level = 1
        while level < self._size:  # blocks hand their sums down to their halves
            tree[2 * level : 4 * level] += np.repeat(tree[level : 2 * level], 2)
            level *= 2
        return tree[self._size : self._size + self.cells]


class _Groups:
    """Rows by the number of their group, for sums with NumPy's pairwise addition."""

    def __init__(self, rows: NDArray[np.intp], numbers: NDArray[np.int64]) -> None:
        order = np.argsort(numbers, kind="stable")
        self._rows = rows[order]
        self._numbers, self._starts = np.unique(numbers[order].astype(np.int64), return_index=True)

    def summed(self, values: Floats, count: int) -> Floats:
        sums = np.zeros(count)
        if self._starts.size:
            sums[self._numbers] = np.add.reduceat(values[self._rows], self._starts)
        return sums


@dataclass(frozen=True)
class Terms:
    """Each cell's part of the partial likelihood and of its derivatives.

    Attributes:
        logs: sum of the logarithms of its denominators. Shape: (cells,)
        means: sum of the weighted means of features. Shape: (cells, p)
        covariances: sum of the weighted covariances, upper half. Shape: (cells, p (p + 1) / 2)
        hazard: sum of the inverse denominators: the increment of the baseline hazard. Shape: (cells,)
        squares: sum of the squared inverse denominators. Shape: (cells,)
        paths: sum of means over denominators. Shape: (cells, p)
    """

    logs: Floats
    means: Floats
    covariances: Floats
    hazard: Floats
    squares: Floats
    paths: Floats


def terms_of(deaths: NDArray[np.int64], loads: Floats, at_risk: Moments, events: Moments | None) -> Terms:
    """Work out each cell's terms.

    Args:
        deaths: how many had the event at each cell.
        loads: their weights together: each of Efron's terms counts as much as they weigh on average.
        at_risk: sums over the risk sets.
        events: sums over those who had the event, for Efron's way with ties; None for Breslow's.
    """
    count, p = at_risk.features.shape
    first, second = upper(p)
    logs, hazard, squares = np.zeros(count), np.zeros(count), np.zeros(count)
    means, paths, covariances = np.zeros((count, p)), np.zeros((count, p)), np.zeros((count, len(first)))
    # Breslow's terms of a cell are all the same; with one event Efron's is Breslow's.
    orders: Any = [(deaths > 0, loads, 0.0)] if events is None else _efron(deaths, loads)
    for chosen, times, removed in orders:
        weight, feature, product = (
            whole[chosen] if events is None else whole[chosen] - _scaled(removed, part[chosen])
            for whole, part in zip(_parts(at_risk), _parts(events or at_risk), strict=True)
        )
        mean, often = feature / weight[:, None], times[chosen]
        logs[chosen] += often * np.log(weight)
        hazard[chosen] += often / weight
        squares[chosen] += often / weight**2
        means[chosen] += often[:, None] * mean
        paths[chosen] += (often / weight)[:, None] * mean
        covariances[chosen] += often[:, None] * (product / weight[:, None] - mean[:, first] * mean[:, second])
    return Terms(logs, means, covariances, hazard, squares, paths)


def _efron(deaths: NDArray[np.int64], loads: Floats) -> Iterator[tuple[NDArray[np.bool_], Floats, Floats]]:
    """Yield which cells have a term of each order, how often, and what share of their events' sums is taken off."""
    for order in range(int(deaths.max(initial=0))):
        chosen = deaths > order
        yield chosen, loads / np.maximum(deaths, 1), order / deaths[chosen]


def _parts(moments: Moments) -> tuple[Floats, Floats, Floats]:
    return moments.weights, moments.features, moments.products


def _scaled(share: Floats | float, part: Floats) -> Floats:
    return np.asarray(share * part.T).T


def upper(p: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of the upper half of a matrix."""
    return np.triu_indices(p)
