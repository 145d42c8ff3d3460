"""The check at the end of the demo: every encrypted average against the same average made in the clear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.demo.plaintext import weighted_mean
from he_agg import DecryptionError, Reason, dequantize, quantize

if TYPE_CHECKING:
    from pathlib import Path

    from he_agg import Plan

__all__ = ["Audit", "audit"]


@dataclass(frozen=True)
class Audit:
    """Largest differences over all rounds and values.

    Attributes:
        fixed_point: encrypted mean against the plaintext fixed-point mean; must be exactly 0.
        floating: encrypted mean against the float64 mean of the same updates.
        bound: what rounding to the grid permits for `floating`.
    """

    fixed_point: float
    floating: float
    bound: float


def audit(plan: Plan, weights: dict[Path, int], rounds: int) -> Audit:
    """Make every round's average again, in the clear, from the hospitals' journals.

    Args:
        plan: the federation's plan.
        weights: patients by hospital directory.
        rounds: how many rounds there were.

    Raises:
        DecryptionError: two hospitals did not get the same mean, to the bit.
    """
    fixed_point = floating = bound = 0.0
    for number in range(1, rounds + 1):
        updates = [(_read(directory, "update", number), weight) for directory, weight in weights.items()]
        means = [_read(directory, "mean", number) for directory in weights]
        for other in means[1:]:
            if any(other[name].tobytes() != means[0][name].tobytes() for name in means[0]):
                raise DecryptionError(Reason.INTERNAL, f"round {number}: two hospitals hold different means")
        sums = sum(quantize(plan, update, weight).values.astype(np.int64) for update, weight in updates)
        clear = dequantize(plan, np.asarray(sums), len(updates))
        exact = weighted_mean(updates)
        for name, tensor in means[0].items():
            wide = tensor.astype(np.float64)
            fixed_point = max(fixed_point, _largest(wide - clear.tensors[name].astype(np.float64)))
            floating = max(floating, _largest(wide - exact[name]))
            # One rounding per hospital, by half a step at most (he_agg/plan/fixedpoint.py), and half a unit in the last
            # place of the tensor's own dtype.
            ulp = float(np.spacing(np.abs(tensor).max())) if tensor.size else 0.0
            bound = max(bound, len(updates) * clear.resolution[name] / 2 + ulp / 2)
    return Audit(fixed_point, floating, bound)


def _read(directory: Path, kind: str, number: int) -> dict[str, Any]:
    with np.load(directory / f"{kind}-{number}.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _largest(difference: Any) -> float:
    return float(np.abs(difference).max()) if difference.size else 0.0
