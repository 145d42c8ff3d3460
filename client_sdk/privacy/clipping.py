"""The L2 norm of a whole update, and clipping to it: what bounds one hospital's influence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import InputError, Reason

__all__ = ["clip_update", "l2_norm"]


def l2_norm(update: Mapping[str, Any]) -> float:
    """Compute the L2 norm of all tensors laid end to end, in float64.

    Raises:
        InputError: a value that is NaN or infinite; it would make the norm, and with it every value, NaN.
    """
    total = []
    for name, value in update.items():
        flat = np.asarray(value, dtype=np.float64).reshape(-1)
        if not np.isfinite(flat).all():
            raise InputError(
                Reason.NON_FINITE,
                f"tensor {name!r}, flat index {int(np.isfinite(flat).argmin())}: expected a finite value, got NaN or "
                "infinity",
                "look for a diverged loss or an empty batch in the local training; nothing was clipped or sent",
            )
        top = float(np.abs(flat).max()) if flat.size else 0.0
        # Scaled, so that squares neither overflow nor vanish.
        total.append(top * math.sqrt(float(np.sum((flat / top) ** 2))) if top else 0.0)
    return math.hypot(*total)


def clip_update(update: Mapping[str, Any], norm: float) -> tuple[dict[str, NDArray[np.float64]], float]:
    """Scale an update down so that its L2 norm is at most `norm`.

    The norm is that of the flat vector of all tensors together, not of each one: clipping them one by one bounds the
    whole only by ``norm * sqrt(tensors)``.

    Args:
        update: named arrays: differences to the round's model. Leave out what must not leave: BatchNorm statistics and
            counters are sums over patients that clipping to a norm of weights does not protect sensibly.
        norm: the bound. Units: those of the update.

    Returns:
        The update in float64, and its norm before clipping. The norm is as private as the update: do not log it.

    Raises:
        InputError: a value that is not finite, or a bound that is not positive.
    """
    if not (math.isfinite(norm) and norm > 0):
        raise InputError(Reason.BAD_ARGUMENT, f"clip norm: expected a positive number, got {norm!r}")
    before = l2_norm(update)
    # A few ulps below, so that rounding cannot lift the norm above the bound.
    factor = 1.0 if before <= norm else norm / before * (1 - 2.0**-40)
    return {name: np.asarray(value, dtype=np.float64) * factor for name, value in update.items()}, before
