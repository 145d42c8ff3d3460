"""Real patients for the training examples: flchain, dealt to five unequal hospitals.

The patients, their encoding and why they are fair are those of `examples.demo.data`; the fifth hospital is new.
Unlike the demo, every hospital tests on held-out patients of its own, as it would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from examples.demo.data import HOSPITALS, Patients, Profile, encode, load_patients

__all__ = ["FIVE", "Hospital", "load_hospitals"]


def _cardiology(p: Patients) -> NDArray[np.float64]:
    return np.where((p.age >= 58) & (p.age < 78) & ~p.female, 0.9, 0.02)


FIVE = (*HOSPITALS, Profile("heart-centre", "men between 58 and 78, hardly anybody else", _cardiology))


@dataclass(frozen=True)
class Hospital:
    """What one hospital holds. Shape: features (n, 8) float32, died (n,) float32."""

    name: str
    train: tuple[NDArray[np.float32], NDArray[np.float32]]
    test: tuple[NDArray[np.float32], NDArray[np.float32]]


def load_hospitals(seed: int = 0, limit: int | None = None) -> list[Hospital]:
    """Deal the patients out, and hold 30 in 100 of each hospital's back for tests.

    Args:
        seed: the same seed gives the same hospitals.
        limit: at most so many training patients each, to be quick.
    """
    patients = load_patients()
    cohort = encode(patients)
    rng = np.random.default_rng(seed)
    draw = np.stack([profile.draw(patients) for profile in FIVE], axis=1)
    edges = (draw / draw.sum(axis=1, keepdims=True)).cumsum(axis=1)[:, :-1]
    where = (rng.random(len(patients))[:, None] >= edges).sum(axis=1)
    hospitals = []
    for number, profile in enumerate(FIVE):
        rows = rng.permutation(np.flatnonzero(where == number))
        held_out = round(0.3 * len(rows))
        test, train = rows[:held_out], rows[held_out:][:limit]
        hospitals.append(
            Hospital(
                profile.name,
                (cohort.features[train], cohort.died[train]),
                (cohort.features[test], cohort.died[test]),
            )
        )
    return hospitals
