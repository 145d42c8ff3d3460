"""A hospital's part of a Cox model, worked out at its own patients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.integers import Field
from client_sdk.analytics.regression.newton import FRACTION_BITS, whole
from client_sdk.analytics.survival.cox_state import CoxData, CoxState, CoxSums
from client_sdk.analytics.survival.cox_sums import RiskSets, Terms, terms_of

__all__ = ["own_derivatives", "own_terms", "shared_sums"]


def shared_sums(
    fields: CoxSums[Field], state: CoxState, data: CoxData, risk: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """Return sums over the site's patients in everybody's risk sets."""
    cells, weights = np.flatnonzero(state.deaths), data.weight * np.exp(risk)
    sets = RiskSets(cells, data.entries, data.exits, data.events)
    sums = {"": sets.of(data.rows, weights)}
    if fields.tied_weights.size:
        sums["tied_"] = sets.of(data.rows, weights, events=True)
    own: dict[str, NDArray[Any]] = {}
    for prefix, moments in sums.items():
        told = cells if not prefix else cells[state.deaths[cells] > 1]
        for name in ("weights", "features", "products"):
            field = getattr(fields, prefix + name)
            own[prefix + name] = np.zeros(field.shape, dtype=object)
            own[prefix + name][told] = whole(getattr(moments, name)[np.isin(cells, told)])
    events, clock = _weighted_events(data), data.clock[data.events]
    own["gradient"] = whole(events.sum(axis=0))
    if state.stage == "end":
        own["trend"] = whole(clock @ events)
    return own


def own_derivatives(
    fields: CoxSums[Field], state: CoxState, data: CoxData, risk: NDArray[np.float64], *, efron: bool
) -> dict[str, NDArray[Any]] | None:
    """Return derivatives of the site's own partial likelihood; None if it is too far down to be told."""
    events, clock, load = _weighted_events(data), data.clock[data.events], data.weight[data.events]
    top = float(risk.max(initial=0.0))
    cells, _, terms = own_terms(data, np.exp(risk - top), efron=efron)
    loss = float(terms.logs.sum()) + float(load.sum()) * top - float(load @ risk[data.events])
    if loss * 2**FRACTION_BITS > fields.loss.bound:
        return None
    own = {
        "gradient": whole(events.sum(axis=0) - terms.means.sum(axis=0)),
        "hessian": whole(terms.covariances.sum(axis=0))[None],
        "loss": whole(np.array([loss])),
    }
    if state.stage == "end":
        of_cell: NDArray[np.float64] = np.zeros(len(cells))
        of_cell[np.searchsorted(cells, data.exits[data.events])] = clock
        own["trend"] = whole(clock @ events - of_cell @ terms.means)
        own["trend_hessian"] = whole(np.stack([of_cell, of_cell**2]) @ terms.covariances)
    return own


def own_terms(
    data: CoxData, ratios: NDArray[np.float64], *, efron: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], Terms]:
    """Return the keys of the site's own events, how many there were at each, and their terms.

    Args:
        ratios: hazards of its patients.
        efron: whether ties are handled by Efron's method.
    """
    cells, which, deaths = np.unique(data.exits[data.events], return_inverse=True, return_counts=True)
    loads = np.bincount(which, data.weight[data.events], len(cells)).astype(np.float64)
    weights = data.weight * ratios
    sets = RiskSets(cells, data.entries, data.exits, data.events)
    tied = sets.of(data.rows, weights, events=True) if efron else None
    return cells, deaths, terms_of(deaths, loads, sets.of(data.rows, weights), tied)


def _weighted_events(data: CoxData) -> NDArray[np.float64]:
    """Return the features of those who had the event, times their weights."""
    return np.asarray(data.rows[data.events] * data.weight[data.events, None])
