"""4, 8 or 12 bits a value instead of 16: the plan's `value_bits`, used as well as can be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.compression.base import Grid, Tensors
from client_sdk.compression.feedback import Lossy

__all__ = ["FewBits"]


@dataclass(frozen=True)
class FewBits(Lossy):
    """Each update is divided by a common scale per tensor before it is rounded to the plan's few bits.

    The plan's clip bounds are for the largest update ever; most are far smaller, and 4 bits of a wide range say
    nothing. So the scale follows the last mean, which all sites share: `headroom` times its largest entry, as a power
    of two, never above the clip bound. What is beyond is clipped and left to error feedback. The number of bits is
    that of the plan: `training_plan(..., value_bits=8, compression=FewBits())`.

    Attributes:
        headroom: how much larger than the last mean's largest entry a site's entry may be.
    """

    headroom: float = 4.0

    def layout(
        self, tensors: Mapping[str, NDArray[Any]], clip: Mapping[str, float]
    ) -> tuple[Tensors, dict[str, float]]:
        """Return the model's tensors, as float64 so that every grid point is exact."""
        example = {name: np.zeros(array.shape) for name, array in tensors.items()}
        return example, dict(clip)

    def start(
        self, tensors: Mapping[str, NDArray[Any]], seed: int, clip: Mapping[str, float]
    ) -> tuple[Tensors, Tensors]:
        """Start with scales of one: the clip bounds themselves."""
        _, local = super().start(tensors, seed, clip)
        scales = {f"scale|{name}": np.array(1.0) for name in tensors}
        return scales | {f"clip|{name}": np.array(clip[name]) for name in tensors}, local

    def encode(self, target: Tensors, phase: int, step: int, common: Tensors, local: Tensors, grid: Grid) -> Tensors:
        """Scale and round."""
        return {n: self.snapped(n, a / common[f"scale|{n}"], step, phase, local, grid) for n, a in target.items()}

    def own(self, payload: Tensors, step: int, common: Tensors, shapes: Tensors) -> Tensors:  # noqa: ARG002
        """Scale back by the scales of the step, which `decode` keeps."""
        return {name: payload[name] * common[f"used|{name}"] for name in shapes}

    def decode(self, mean: Tensors, phase: int, step: int, common: Tensors) -> tuple[Tensors | None, Tensors]:  # noqa: ARG002
        """Scale back, and return the next scales."""
        move, new = {}, {n: a for n, a in common.items() if n.startswith("clip|")}
        for name, array in mean.items():
            scale, clip = float(common[f"scale|{name}"]), float(common[f"clip|{name}"])
            move[name] = array * scale
            wanted = float(np.abs(array).max(initial=0.0)) / clip * scale * self.headroom
            new[f"used|{name}"] = np.array(scale)
            new[f"scale|{name}"] = np.array(_next_scale(wanted, scale))
        return move, new


def _next_scale(wanted: float, last: float) -> float:
    """Return the power of two at or above; at most 1, and at most a factor of 4 from the last."""
    power = math.ldexp(1.0, math.frexp(wanted)[1]) if wanted > 0 else 0.0
    return min(max(power, last / 4, 2.0**-40), last * 4, 1.0)
