"""Fixed point: named float tensors and a weight to exact integers, and exact sums back to the mean.

``k = round(w/w_max * x/clip * M)`` with ``M = 2^(value_bits-1) - 1``, so ``|k| <= M`` and a sum of K sites stays
within ``K*M``: no honest submission can overflow. After the tensors come the weight's digits in base ``M + 1`` and the
constant 1, whose sum must be the number of sites; then, in a small update whose keys are split, zeros.

**How far the mean is from the float mean.** Each site rounds once, by at most 1/2 (nearest). With ``W = sum(w)``
the mean is ``sum(k) * step``, ``step = clip * w_max / (M * W)``, so n sites are off by at most ``n * step / 2``: half
a grid step ``clip/M`` times ``n * w_max / W``, which is 1 when every site is at the cap. The last step, to the
tensor's own dtype, adds half a unit in the last place.

**What sums are released.** The limit of one site's integers follows from its weight: ``|k| <= ceil(M * w / w_max)``,
however it rounds (to nearest adds at most 1/2 to the exact value, stochastic rounding less than 1, and neither passes
the next integer). n such limits add up to at most ``(M * W + n * (w_max - 1)) / w_max``, rounded down, or ``n * M``:
a larger sum in any value is refused. Times the step, this says that no mean is beyond
``clip * (1 + n * (w_max - 1) / (M * W))``, the clip bound and the sites' rounding. ``W`` itself is ``n`` to
``n * w_max``, each of its digits a sum of n digits of 0 to M, and the count is n.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import DecryptionError, InputError, Reason
from he_agg.kernels.buffers import Buffers
from he_agg.kernels.jit import frozen, kernel
from he_agg.plan.layout import TensorSpec
from he_agg.plan.plan import Plan
from he_agg.plan.rounded import Rounded, largest_of, look_at

__all__ = ["Mean", "Quantized", "Quantizing", "dequantize", "quantize"]

OnOverflow = Literal["error", "clip"]
Rounding = Literal["nearest", "stochastic"]

_CHUNK = 2**15
"""Values converted at a time: 256 KiB of float64 stay in the second-level cache."""


@dataclass(frozen=True)
class Quantized:
    """One site's integers, ready to encrypt.

    Attributes:
        values: tensors, weight digits, count. Shape: (plan.values,).
        clipped: how many values of each tensor were beyond the clip bound; empty unless asked to clip.
        rounded: what rounding did to each tensor.
    """

    values: NDArray[np.int32] = field(repr=False)
    clipped: Mapping[str, int]
    rounded: tuple[Rounded, ...] = field(repr=False)


@dataclass(frozen=True)
class Mean:
    """The weighted mean of a round: bit-identical at every site.

    Attributes:
        tensors: by name, with the shapes and dtypes of the plan.
        total_weight: sum of all sites' weights, exact.
        n_sites: how many sites are in it.
        resolution: step of the mean's grid per tensor.
        narrow_sums: the exact integer sums the tensors were made from, as narrow as they came. Shape: (layout.size,).
        sites: the names of those sites, sorted, where a record tells them.
        rounded: what rounding did to each tensor of this site's own update, where the call was given one. It is about
            this site's data, and no other site has it.
    """

    tensors: Mapping[str, NDArray[Any]] = field(repr=False)
    total_weight: int
    n_sites: int
    resolution: Mapping[str, float] = field(repr=False)
    narrow_sums: NDArray[np.signedinteger] = field(repr=False)
    sites: tuple[str, ...] = ()
    rounded: tuple[Rounded, ...] = field(default=(), repr=False)

    @cached_property
    def sums(self) -> NDArray[np.int64]:
        """The exact sums, wide enough to calculate with; made when first asked for. Shape: (layout.size,)."""
        return self.narrow_sums.astype(np.int64)


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
        tensors: named arrays, exactly the plan's.
        weight: the site's sample count, 1 to the plan's cap.
        rounding: "nearest", or "stochastic", which is unbiased and draws from the operating system's randomness.
        on_overflow: what values beyond clip get: an "error", or "clip" to the bound with a count of them.

    Raises:
        InputError: a tensor or the weight is not what the plan allows.
    """
    values = Quantizing(plan, tensors, weight, rounding=rounding, on_overflow=on_overflow)
    return Quantized(values[:], values.clipped, values.rounded)


class Quantizing:
    """A site's integers, made from its update where and when they are wanted: as an array of int32, to codecs.

    A vector of 10^7 integers in fresh memory costs more than calculating them, and twice is soon enough. Everything
    that `quantize` refuses is refused at once. The tensors must not change as long as this is in use.

    Args:
        rounding: as for `quantize`; "stochastic" gives other integers each time.

    Attributes:
        shape: (plan.values,).
        dtype: int32.
        clipped: as in `Quantized`.

    Raises:
        InputError: a tensor or the weight is not what the plan allows.
    """

    dtype = np.dtype(np.int32)

    def __init__(
        self,
        plan: Plan,
        tensors: Mapping[str, Any],
        weight: int,
        *,
        rounding: Rounding = "nearest",
        on_overflow: OnOverflow = "error",
    ) -> None:
        weight = _checked_weight(weight, plan.layout.weight_cap)
        if rounding not in ("nearest", "stochastic"):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"rounding: expected 'nearest' or 'stochastic', got {rounding!r}",
                "leave it out for 'nearest'",
            )
        if on_overflow not in ("error", "clip"):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"on_overflow: expected 'error' or 'clip', got {on_overflow!r}",
                "leave it out for 'error'",
            )
        self.shape = (plan.public.values,)
        self.clipped: dict[str, int] = {}
        self._magnitude, self._stochastic = plan.public.magnitude, rounding == "stochastic"
        self._share = weight / plan.layout.weight_cap
        self._limit = -(-self._magnitude * weight // plan.layout.weight_cap)
        self._value_bits = plan.public.value_bits
        self._tensors: list[tuple[int, TensorSpec, NDArray[Any]]] = []
        self._largest: list[float] = []
        self._seed: bytes | None = None
        start = 0
        for spec, array in zip(plan.layout.tensors, plan.layout.arrays(tensors), strict=True):
            flat = np.ascontiguousarray(array).reshape(-1)
            largest = largest_of(flat)
            if not largest <= spec.clip and (beyond := _check_values(spec, flat, on_overflow)):
                self.clipped[spec.name] = beyond
            self._largest.append(largest)
            self._tensors.append((start, spec, flat))
            start += spec.size
        base = self._magnitude + 1
        digits = [weight // base**digit % base for digit in range(plan.weight_digits)]
        self._tail = np.zeros(plan.public.values - start, dtype=np.int32)
        self._tail[: len(digits) + 1] = [*digits, 1]

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """The update's tensors in the layout's order, flat."""
        return [flat for _, _, flat in self._tensors]

    @cached_property
    def rounded(self) -> tuple[Rounded, ...]:
        """What rounding does to each tensor; looked at when first asked for."""
        return tuple(
            look_at(spec, flat, largest, self._value_bits, self._share, self._stochastic)
            for (_, spec, flat), largest in zip(self._tensors, self._largest, strict=True)
        )

    def draw_from(self, seed: bytes) -> None:
        """Have stochastic rounding follow from a seed: the same spans then give the same integers each time.

        Args:
            seed: secret. 32 bytes.
        """
        self._seed = seed

    def __getitem__(self, span: slice) -> NDArray[np.int32]:
        """Return the integers of a span, which must be contiguous and in order. Shape: (its length,)."""
        begin, end, _ = span.indices(self.shape[0])
        out = _SPANS.take(4 * (end - begin)).view(np.int32)
        for start, spec, flat in self._tensors:
            first, last = max(begin - start, 0), min(end - start, spec.size)
            if first < last:
                self._round(spec, flat[first:last], out[start + first - begin : start + last - begin], start + first)
        inside = max(self.shape[0] - self._tail.size - begin, 0)
        if inside < out.size:
            first = begin + inside - (self.shape[0] - self._tail.size)
            out[inside:] = self._tail[first : first + out.size - inside]
        return out

    def _round(self, spec: TensorSpec, flat: NDArray[Any], out: NDArray[np.int32], position: int) -> None:
        scale = self._magnitude * self._share / spec.clip
        for i in range(0, flat.size, _CHUNK):
            x = flat[i : i + _CHUNK]
            if x.dtype not in _AS_THEY_ARE or spec.name in self.clipped:
                x = x.astype(np.float64)
            if spec.name in self.clipped:
                np.clip(x, -spec.clip, spec.clip, out=x)
            draws = self._draws(position + i, x.size) if self._stochastic else _NO_DRAWS
            _round(frozen(x), scale, self._limit, frozen(draws), out[i : i + _CHUNK])

    def _draws(self, position: int, count: int) -> NDArray[np.uint32]:
        if self._seed is None:
            return np.frombuffer(os.urandom(4 * count), dtype=np.uint32)
        label = b"he-agg/rounding/v1\0" + position.to_bytes(8, "big")
        return np.frombuffer(hashlib.shake_128(label + self._seed).digest(4 * count), dtype=np.uint32)

    def __repr__(self) -> str:
        return f"Quantizing(shape={self.shape}, <values>)"


def dequantize(plan: Plan, sums: NDArray[np.signedinteger], n_sites: int, sites: Iterable[str] = ()) -> Mean:
    """Make exact sums into the weighted mean.

    Args:
        sums: what the codec opened, int32 or int64. Shape: (plan.values,).
        n_sites: how many sites the round record names.
        sites: their names.

    Raises:
        DecryptionError: the sums cannot come from `n_sites` honest submissions (see the module); nothing is released.
    """
    layout, magnitude = plan.layout, plan.public.magnitude
    if sums.shape != (plan.public.values,):
        raise DecryptionError(Reason.BAD_FIELD, f"expected {plan.public.values} sums, got {sums.size}")
    count = layout.size + plan.weight_digits
    if sums[count] != n_sites:
        raise DecryptionError(
            Reason.COUNT_MISMATCH,
            f"expected a sum of {n_sites} submissions as the record says, got another number",
        )
    if sums[count + 1 :].any():
        raise DecryptionError(Reason.SUM_OUT_OF_RANGE, "expected zeros where an update is filled up, got others")
    digits = sums[layout.size : count]
    total_weight = sum(int(digit) * (magnitude + 1) ** i for i, digit in enumerate(digits))
    honest = int(digits.min()) >= 0 and int(digits.max()) <= n_sites * magnitude
    if not (honest and n_sites <= total_weight <= n_sites * layout.weight_cap):
        raise DecryptionError(Reason.SUM_OUT_OF_RANGE, "expected a total weight within the sites' caps, got another")
    tensors: dict[str, NDArray[Any]] = {}
    resolution: dict[str, float] = {}
    largest = start = 0
    per_clip = layout.weight_cap / (magnitude * total_weight)
    for spec in layout.tensors:
        step = spec.clip * per_clip
        resolution[spec.name] = step
        flat = np.empty(spec.size, dtype=spec.dtype)
        largest = max(largest, _scaled(sums[start : start + spec.size], step, flat))
        tensors[spec.name] = flat.reshape(spec.shape)
        start += spec.size
    if largest > _largest_sum(plan, total_weight, n_sites):
        for tensor in tensors.values():
            tensor.fill(0)
        raise DecryptionError(
            Reason.SUM_OUT_OF_RANGE,
            "expected sums that honest sites of that total weight can make, got one beyond",
            "a site's values were beyond its own weight times the clip bound",
        )
    return Mean(tensors, total_weight, n_sites, resolution, sums[: layout.size], tuple(sorted(sites)))


def _scaled(sums: NDArray[np.signedinteger], step: float, out: NDArray[Any]) -> int:
    """Multiply sums by a step, in double precision whatever the dtypes. Returns the largest magnitude of a sum."""
    sums, largest = frozen(sums), 0
    for i in range(0, out.size, _CHUNK):
        chunk, piece = sums[i : i + _CHUNK], out[i : i + _CHUNK]
        product = piece if piece.dtype in _AS_THEY_ARE else np.empty(piece.size)
        lowest, highest = _scale(chunk, step, product)
        largest = max(largest, -int(lowest), int(highest))
        if product is not piece:
            piece[:] = product
    return largest


def _largest_sum(plan: Plan, total_weight: int, n_sites: int) -> int:
    """Return the largest sum of one value over sites of that total weight. See the module's docstring."""
    magnitude, cap = plan.public.magnitude, plan.layout.weight_cap
    return min(n_sites * magnitude, (magnitude * total_weight + n_sites * (cap - 1)) // cap)


def _checked_weight(weight: int, cap: int) -> int:
    if isinstance(weight, bool | np.bool_) or not isinstance(weight, int | np.integer):
        raise InputError(
            Reason.WEIGHT_OUT_OF_RANGE,
            f"weight: expected an integer of 1 to {cap}, got {type(weight).__name__}",
            "the weight is the site's sample count, such as len(dataset)",
            "the weight is the site's sample count",
        )
    if not 1 <= weight <= cap:
        raise InputError(
            Reason.WEIGHT_OUT_OF_RANGE,
            f"weight: expected 1 to {cap} (the plan's weight cap), got a weight {'above' if weight > cap else 'below'}",
            "the weight is the site's sample count; the cap is fixed in the plan for all sites; without samples, "
            "round.take_part(update, weight=0) takes no part and gets the mean of the others",
            "the weight is the site's sample count; the cap is fixed in the plan for all sites; without samples, "
            "submit nothing: `he-agg fetch` gets the mean of the others",
        )
    return int(weight)


def _check_values(spec: TensorSpec, flat: NDArray[Any], on_overflow: OnOverflow) -> int:
    """Refuse what is not finite; count, or refuse, what is beyond the clip bound."""
    beyond = 0
    for i in range(0, flat.size, _CHUNK):
        chunk = flat[i : i + _CHUNK]
        if -spec.clip <= float(chunk.min()) and float(chunk.max()) <= spec.clip:  # false for NaN too
            continue
        x = np.abs(chunk.astype(np.float64))
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
                "clip the update first, give `--clip`, or found a federation with a wider bound",
            )
        beyond += int(above.sum())
    return beyond


_AS_THEY_ARE = (np.dtype(np.float32), np.dtype(np.float64))
"""What the kernels take; anything else is converted."""

_SPANS = Buffers()
"""Of all updates: those of the next round then find memory that has been used."""

_NO_DRAWS: NDArray[np.uint32] = np.empty(0, dtype=np.uint32)


@kernel
def _round(
    x: NDArray[np.floating], scale: float, limit: int, draws: NDArray[np.uint32], out: NDArray[np.int32]
) -> None:
    """Scale and round; `draws` empty means to nearest, ties to even. |x * scale| may be 3 ulps too large: clamped.

    At random too, what is on the grid up to such ulps stays what it is: counts travel as exact integers (evaluation).
    """
    if draws.size:
        for i in range(x.size):
            exact = np.float64(x[i]) * scale
            near = np.rint(exact)
            off = np.float64(abs(exact - near) > abs(near) * 2.0**-49)  # 0 or 1: no branch by what is secret
            rounded = near + off * (math.floor(exact + draws[i] * 2.0**-32) - near)
            out[i] = np.int32(min(max(rounded, -limit), limit))
    else:
        for i in range(x.size):
            out[i] = np.int32(min(max(np.rint(np.float64(x[i]) * scale), -limit), limit))


@kernel
def _scale(
    sums: NDArray[np.signedinteger], step: float, out: NDArray[np.floating]
) -> tuple[np.signedinteger, np.signedinteger]:
    """Multiply sums, of which there is at least one, by a step. Returns the lowest and the highest of them."""
    lowest = highest = sums[0]
    for i in range(sums.size):
        value = sums[i]
        lowest, highest = min(lowest, value), max(highest, value)
        out[i] = np.float64(value) * step
    return lowest, highest
