"""The same training with nobody between the hospitals: what every job is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.frameworks.task import CLIP, SITES, WEIGHT_CAP, Weights, initial, patients_of, train
from client_sdk.training import training_plan
from client_sdk.training.agreement import SIGNS
from he_agg import Plan, dequantize, quantize

__all__ = ["fixed_point", "floating", "plan_of"]

Members = Callable[[int], Sequence[str]]
"""Which sites are in the sum of a round; the first is 0."""


def plan_of(federation: str, width: int, *, max_sites: int = len(SITES), min_sites: int = 2) -> Plan:
    """Make the plan of a federation that trains it."""
    return training_plan(
        federation,
        initial(width, 0),
        clip=CLIP,
        weight_cap=WEIGHT_CAP,
        max_sites=max_sites,
        min_sites=min_sites,
    )


def floating(patients: Path, width: int, rounds: int, seed: int) -> list[Weights]:
    """Average in double precision. The model after each round, the initial one first."""
    models = [initial(width, seed)]
    for number in range(rounds):
        model = models[-1]
        trained = [train(model, patients_of(patients, site), site, number) for site in SITES]
        weights = [n for _, n in trained]
        models.append({name: _average([after[name] for after, _ in trained], weights) for name in model})
    return models


def _average(arrays: Sequence[NDArray[np.float32]], weights: Sequence[int]) -> NDArray[np.float32]:
    wide = [array.astype(np.float64) for array in arrays]
    return np.asarray(np.average(wide, axis=0, weights=weights), np.float32)


def fixed_point(
    plan: Plan, patients: Path, width: int, rounds: int, seed: int, members: Members = lambda _: SITES
) -> list[Weights]:
    """Average on the plan's grid, without encryption. The model after each round, the initial one first."""
    models = [initial(width, seed)]
    for number in range(rounds):
        model, sums = models[-1], np.zeros(plan.public.values, dtype=np.int64)
        for site in members(number):
            after, n = train(model, patients_of(patients, site), site, number)
            update = {name: after[name] - model[name] for name in model} | {SIGNS: np.zeros(64, np.float32)}
            sums += quantize(plan, update, n).values
        mean = dequantize(plan, sums, len(members(number))).tensors
        moved = {name: array.astype(np.float64) + mean[name].astype(np.float64) for name, array in model.items()}
        models.append({name: array.astype(np.float32) for name, array in moved.items()})
    return models
