"""Tell what rounding takes away from an update, tensor by tensor, from the update itself. Sites only.

An integer stands for ``k * step`` with ``step = clip * weight_cap / (M * weight)``: of an entry smaller than half a
step nothing is left, and every other entry moves by up to half a step. Whether that matters depends on how large the
entries are, so no plan can tell; a site that has the update can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he_agg.kernels.jit import frozen, kernel
from he_agg.plan.layout import Layout

__all__ = ["Loss", "better_clip", "rounding_losses"]

_CHUNK = 2**15
_ROOM = 4.0
"""A clip bound that is proposed is at least so many times the largest entry that was seen."""


@dataclass(frozen=True)
class Loss:
    """What rounding to nearest takes away from one tensor of one update.

    Attributes:
        name: the tensor's.
        clip: its bound in the plan.
        to_zero: share of its entries other than 0 that become 0: from 0.0 to 1.0.
        relative_error: length of what rounding changes, over the length of the tensor; 0.0 if it is all zeros.
        largest: its largest absolute value.
    """

    name: str
    clip: float
    to_zero: float
    relative_error: float
    largest: float

    @property
    def better_clip(self) -> float:
        """A bound that fits its entries; the plan's own if that is not wider."""
        return min(self.clip, better_clip(self.largest)) if self.largest > 0 else self.clip


def rounding_losses(layout: Layout, tensors: Mapping[str, Any], weight: int, value_bits: int) -> tuple[Loss, ...]:
    """Compute what rounding takes away from each tensor of an update.

    Args:
        tensors: named arrays, exactly the layout's, all finite. What clipping takes away is not counted.
        weight: the site's sample count, 1 to the layout's cap.
        value_bits: width of one integer, sign included.

    Returns:
        One loss for each tensor, in the layout's order.
    """
    scale = ((1 << (value_bits - 1)) - 1) * (weight / layout.weight_cap)
    losses = []
    for spec, array in zip(layout.tensors, layout.arrays(tensors), strict=True):
        flat = np.ascontiguousarray(array).reshape(-1)
        sums = np.zeros(5)
        for i in range(0, flat.size, _CHUNK):
            _add(frozen(flat[i : i + _CHUNK].astype(np.float64)), scale / spec.clip, sums)
        entries, lost, changed, square, largest = map(float, sums)
        losses.append(
            Loss(
                spec.name,
                spec.clip,
                lost / entries if entries else 0.0,
                math.sqrt(changed / square) if square else 0.0,
                largest * spec.clip / scale,
            )
        )
    return tuple(losses)


def better_clip(largest: float) -> float:
    """Propose a clip bound for a tensor: the next of 1, 2, 5 times a power of ten that leaves room above its entries.

    Args:
        largest: the largest absolute value that was seen; other sites and other rounds have other ones.
    """
    wanted = max(_ROOM * largest, 1e-30)
    power = 10.0 ** math.floor(math.log10(wanted))
    # Written out and read again, so that 5 * 0.001 is the 0.005 that people read.
    return next(float(f"{one * power:.0e}") for one in (1, 2, 5, 10, 20) if one * power >= wanted * (1 - 1e-12))


@kernel
def _add(x: NDArray[np.float64], scale: float, sums: NDArray[np.float64]) -> None:
    """Add to: entries other than 0, those that become 0, squares of the changes, squares of all, and the largest."""
    for i in range(x.size):
        exact = x[i] * scale
        if exact != 0.0:
            rounded = np.rint(exact)
            sums[0] += 1.0
            if rounded == 0.0:
                sums[1] += 1.0
            sums[2] += (exact - rounded) * (exact - rounded)
            sums[3] += exact * exact
            sums[4] = max(sums[4], abs(exact))
