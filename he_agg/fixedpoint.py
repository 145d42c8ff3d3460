"""Fixed point: named float tensors and a weight to exact integers, and exact sums back to the mean.

``k = round(w/w_max * x/clip * M)`` with ``M = 2^(value_bits-1) - 1``, so ``|k| <= M`` and a sum of K sites stays
within ``K*M``: no honest submission can overflow. After the tensors come the weight's digits in base ``M + 1`` and the
constant 1, whose sum must be the number of sites.

**How far the mean is from the float mean.** Each site rounds once, by at most 1/2 (nearest). With ``W = sum(w)``
the mean is ``sum(k) * step``, ``step = clip * w_max / (M * W)``, so n sites are off by at most ``n * step / 2``: half
a grid step ``clip/M`` times ``n * w_max / W``, which is 1 when every site is at the cap. The last step, to the
tensor's own dtype, adds half a unit in the last place.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import DecryptionError, InputError, Reason
from he_agg.layout import TensorSpec
from he_agg.plan import Plan
from he_agg.ring._jit import kernel

__all__ = ["Mean", "Quantized", "ResolutionWarning", "dequantize", "quantize"]

OnOverflow = Literal["error", "clip"]
Rounding = Literal["nearest", "stochastic"]

_CHUNK = 2**15
"""Values converted at a time: 256 KiB of float64 stay in the second-level cache."""

_FEW_BITS = 8


class ResolutionWarning(UserWarning):
    """The mean's grid is coarse: fewer than 8 bits between zero and the clip bound."""


@dataclass(frozen=True)
class Quantized:
    """One site's integers, ready to encrypt.

    Attributes:
        values: tensors, weight digits, count. Shape: (plan.values,).
        clipped: how many values of each tensor were beyond the clip bound; empty unless asked to clip.
    """

    values: NDArray[np.int32] = field(repr=False)
    clipped: Mapping[str, int]


@dataclass(frozen=True)
class Mean:
    """The weighted mean of a round: bit-identical at every site.

    Attributes:
        tensors: by name, with the shapes and dtypes of the plan.
        total_weight: sum of all sites' weights, exact.
        n_sites: how many sites are in it.
        resolution: step of the mean's grid per tensor.
        sums: the exact integer sums the tensors were made from. Shape: (layout.size,).
    """

    tensors: Mapping[str, NDArray[Any]] = field(repr=False)
    total_weight: int
    n_sites: int
    resolution: Mapping[str, float] = field(repr=False)
    sums: NDArray[np.int64] = field(repr=False)


def quantize(
    plan: Plan,
    tensors: Mapping[str, Any],
    weight: int,
    *,
    rounding: Rounding = "nearest",
    on_overflow: OnOverflow = "error",
) -> Quantized:
    """Make a site's update and weight into the plan's integers.

    Args:
        plan: the federation's plan.
        tensors: named arrays, exactly the plan's.
        weight: the site's sample count, 1 to the plan's cap.
        rounding: "nearest", or "stochastic", which is unbiased and draws from the operating system's randomness.
        on_overflow: what values beyond clip get: an "error", or "clip" to the bound with a count of them.

    Raises:
        InputError: a tensor or the weight is not what the plan allows.
    """
    weight = _checked_weight(weight, plan.layout.weight_cap)
    if rounding not in ("nearest", "stochastic"):
        raise InputError(Reason.BAD_ARGUMENT, f"rounding: expected 'nearest' or 'stochastic', got {rounding!r}")
    if on_overflow not in ("error", "clip"):
        raise InputError(Reason.BAD_ARGUMENT, f"on_overflow: expected 'error' or 'clip', got {on_overflow!r}")
    arrays = plan.layout.arrays(tensors)
    magnitude = plan.public.magnitude
    values = np.empty(plan.public.values, dtype=np.int32)
    clipped: dict[str, int] = {}
    start = 0
    for spec, array in zip(plan.layout.tensors, arrays, strict=True):
        out = values[start : start + spec.size]
        flat = np.ascontiguousarray(array).reshape(-1)
        beyond = _check_values(spec, flat, on_overflow)
        if beyond:
            clipped[spec.name] = beyond
        scale = magnitude * (weight / plan.layout.weight_cap) / spec.clip
        for i in range(0, spec.size, _CHUNK):
            x = flat[i : i + _CHUNK].astype(np.float64)
            if beyond:
                np.clip(x, -spec.clip, spec.clip, out=x)
            draws = np.frombuffer(os.urandom(4 * x.size), dtype=np.uint32) if rounding == "stochastic" else _NO_DRAWS
            _round(x, scale, magnitude, draws, out[i : i + _CHUNK])
        start += spec.size
    base = magnitude + 1
    for digit in range(plan.weight_digits):
        values[start + digit] = weight // base**digit % base
    values[-1] = 1
    return Quantized(values, clipped)


def dequantize(plan: Plan, sums: NDArray[np.int64], n_sites: int) -> Mean:
    """Make exact sums into the weighted mean.

    Args:
        plan: the federation's plan.
        sums: what the codec opened. Shape: (plan.values,).
        n_sites: how many sites the round record names.

    Raises:
        DecryptionError: the sums cannot come from `n_sites` honest submissions; nothing is released.
    """
    layout, magnitude = plan.layout, plan.public.magnitude
    if sums.shape != (plan.public.values,):
        raise DecryptionError(Reason.BAD_FIELD, f"expected {plan.public.values} sums, got {sums.size}")
    if int(sums.max()) > n_sites * magnitude or int(sums.min()) < -n_sites * magnitude:
        raise DecryptionError(
            Reason.SUM_OUT_OF_RANGE, f"expected sums within {n_sites} x {magnitude}, got a larger one"
        )
    if sums[-1] != n_sites:
        raise DecryptionError(
            Reason.COUNT_MISMATCH,
            f"expected a sum of {n_sites} submissions as the record says, got another number",
        )
    digits = sums[layout.size : -1]
    total_weight = sum(int(digit) * (magnitude + 1) ** i for i, digit in enumerate(digits))
    if not n_sites <= total_weight <= n_sites * layout.weight_cap or digits.min() < 0:
        raise DecryptionError(Reason.SUM_OUT_OF_RANGE, "expected a total weight within the sites' caps, got another")
    tensors: dict[str, NDArray[Any]] = {}
    resolution: dict[str, float] = {}
    start = 0
    per_clip = layout.weight_cap / (magnitude * total_weight)
    for spec in layout.tensors:
        step = spec.clip * per_clip
        resolution[spec.name] = step
        flat = np.empty(spec.size, dtype=spec.dtype)
        for i in range(0, spec.size, _CHUNK):
            flat[i : i + _CHUNK] = sums[start + i : start + min(i + _CHUNK, spec.size)] * step
        tensors[spec.name] = flat.reshape(spec.shape)
        start += spec.size
    effective_bits = -math.log2(per_clip)
    if effective_bits < _FEW_BITS:
        warnings.warn(
            f"the mean has {max(effective_bits, 0):.1f} effective bits; use more value bits, or a weight cap nearer to "
            "the sites' real weights",
            ResolutionWarning,
            stacklevel=2,
        )
    return Mean(tensors, total_weight, n_sites, resolution, sums[: layout.size])


def _checked_weight(weight: int, cap: int) -> int:
    if isinstance(weight, bool | np.bool_) or not isinstance(weight, int | np.integer):
        raise InputError(
            Reason.WEIGHT_OUT_OF_RANGE,
            f"weight: expected an integer of 1 to {cap}, got {type(weight).__name__}",
        )
    if not 1 <= weight <= cap:
        raise InputError(
            Reason.WEIGHT_OUT_OF_RANGE,
            f"weight: expected 1 to {cap} (the plan's weight cap), got a weight {'above' if weight > cap else 'below'}",
            "the weight is the site's sample count; the cap is fixed in the plan for all sites",
        )
    return int(weight)


def _check_values(spec: TensorSpec, flat: NDArray[Any], on_overflow: OnOverflow) -> int:
    """Refuse what is not finite; count, or refuse, what is beyond the clip bound."""
    beyond = 0
    for i in range(0, flat.size, _CHUNK):
        x = np.abs(flat[i : i + _CHUNK].astype(np.float64))
        if x.max() <= spec.clip:  # false for NaN too
            continue
        finite = np.isfinite(x)
        if not finite.all():
            raise InputError(
                Reason.NON_FINITE,
                f"tensor {spec.name!r}, flat index {i + int(finite.argmin())}: expected a finite value, "
                "got NaN or infinity",
                "look for a diverged loss or an empty batch in the local training",
            )
        above = x > spec.clip
        if on_overflow == "error":
            raise InputError(
                Reason.BEYOND_CLIP,
                f"tensor {spec.name!r}, flat index {i + int(above.argmax())}: expected a value within the clip bound "
                f"{spec.clip:g}, got one beyond it",
                "clip the update first, pass on_overflow='clip', or found a federation with a wider bound",
            )
        beyond += int(above.sum())
    return beyond


_NO_DRAWS: NDArray[np.uint32] = np.empty(0, dtype=np.uint32)


@kernel
def _round(
    x: NDArray[np.float64], scale: float, magnitude: int, draws: NDArray[np.uint32], out: NDArray[np.int32]
) -> None:
    """Scale and round; `draws` empty means to nearest, ties to even. |x * scale| may exceed M by 3 ulps: clamped."""
    if draws.size:
        for i in range(x.size):
            out[i] = np.int32(min(max(math.floor(x[i] * scale + draws[i] * 2.0**-32), -magnitude), magnitude))
    else:
        for i in range(x.size):
            out[i] = np.int32(min(max(np.rint(x[i] * scale), -magnitude), magnitude))
