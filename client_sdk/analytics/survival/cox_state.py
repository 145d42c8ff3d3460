"""Sums of a Cox model, the patients that a hospital keeps, and the state between steps, which is public."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["CoxData", "CoxState", "CoxSums", "risk_of"]

T = TypeVar("T")


class CoxSums(NamedTuple, Generic[T]):
    """What a step sums. With strata by hospital, nothing of it is per time; otherwise a cell is an event time.

    Attributes:
        n: patients.
        events: how many had the event.
        beyond: patients whose weight would be too large to travel.
        cells: patients with each feature, with the event and without, in the first step only.
        deaths: events per stratum and grid time, in the first step only.
        loads: their weights together, in steps, where the question has weights.
        weights: of those at risk, per stratum and grid time at which there are events.
        features: weighted.
        products: weighted, of features.
        tied_weights: of those who had the event, where several had it.
        tied_features: weighted.
        tied_products: weighted, of features.
        gradient: features of those with the event, less the risk sets' means where these are the hospital's own.
        hessian: negative, of the hospital's own partial likelihood.
        loss: negative logarithm of the hospital's own partial likelihood.
        trend: the gradient's terms times a function of time, at the end.
        trend_hessian: the hessian's terms times the same function, and times its square, at the end.
        pairs: concordant, discordant and tied ones at the hospital, at the end.
    """

    n: T
    events: T
    beyond: T
    cells: T
    deaths: T
    loads: T
    weights: T
    features: T
    products: T
    tied_weights: T
    tied_features: T
    tied_products: T
    gradient: T
    hessian: T
    loss: T
    trend: T
    trend_hessian: T
    pairs: T


@dataclass(frozen=True)
class CoxData:
    """A site's patients. A key numbers stratum and grid time: stratum * points + time.

    Attributes:
        rows: features.
        exits: key at which each one left.
        entries: key after which each one was watched.
        events: whether each one left with the event.
        clock: what the trend's function is at the exit.
        steps: weights in steps of their grid.
        weight: weights.
    """

    rows: NDArray[np.float64]
    exits: NDArray[np.int64]
    entries: NDArray[np.int64]
    events: NDArray[np.bool_]
    clock: NDArray[np.float64]
    steps: NDArray[np.int64]
    weight: NDArray[np.float64]

    def of(self, which: NDArray[np.bool_]) -> CoxData:
        """Return some of them."""
        return CoxData(*(getattr(self, field.name)[which] for field in fields(self)))


@dataclass(frozen=True)
class CoxState:
    """What is public between steps.

    Attributes:
        step: rounds taken in.
        stage: "count" events, "fit" coefficients, or ask the rest at the "end".
        deaths: events per key; none with strata by hospital.
        loads: their weights together, per key.
        centre: features of which weights are told as multiples.
        beta: coefficients that the next sums are for.
        before: coefficients of the best loss so far, from which `beta` is a Newton step.
        loss: there.
        null: loss at 0.
        score: Rao's statistic at 0.
    """

    step: int
    stage: Literal["count", "fit", "end"]
    deaths: NDArray[np.int64]
    loads: NDArray[np.float64]
    centre: NDArray[np.float64]
    beta: NDArray[np.float64]
    before: NDArray[np.float64]
    loss: float
    null: float
    score: float


def risk_of(rows: NDArray[np.float64], state: CoxState) -> NDArray[np.float64]:
    """Return linear predictors from the centre; of equal rows, equal to the bit."""
    risk: NDArray[np.float64] = np.zeros(len(rows))
    for column, middle, coefficient in zip(rows.T, state.centre, state.beta, strict=True):
        risk += (column - middle) * coefficient
    return risk
