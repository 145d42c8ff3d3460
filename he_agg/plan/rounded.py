"""Measure what rounding takes from an update, by the update itself, before anything is encrypted.

A site's integers are ``round(x / step)`` with ``step = clip / M * w_max / w`` (`fixedpoint.py`). What is small beside
the step vanishes, and nobody sees it in the mean. So each site looks at its own update: which share of the entries
that are not 0 becomes 0, and how large all errors are beside the tensor, as norms. For stochastic rounding both are
expected values.

Of a large tensor a sample is looked at: every n-th entry, n without a common factor with the tensor's size, so that all
rows and columns are met. The share is then right to a percent or two, and the look costs next to nothing beside
encrypting. What is found is about the site's own data: it stays there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he_agg.plan.layout import Layout, TensorSpec

__all__ = ["ResolutionWarning", "Rounded", "as_text", "cap_trouble", "coarse", "look_at", "round_number", "rounded"]

MOST_LOST = 0.2
MOST_ERROR = 0.1
"""Above either, a tensor is coarse. Values of a bell curve lose a tenth at a step of a third of their width."""

MARGIN = 2.0
"""How much larger than the largest entry a better clip bound is: other updates and other sites have larger ones."""

MOST_BITS = 24

FEWEST = 16
"""A tensor with fewer entries that are not 0 says little by itself: a single bias may well be small for once."""

_CHUNK = 2**15
"""Values looked at a time: they stay in the cache between the two looks."""

_SAMPLE = 2**12
_FEW = 2**8
"""With so few entries that are not 0 in a sample, the whole tensor is looked at."""

_USUAL_SAMPLES = 10_000
_FEW_BITS = 8


class ResolutionWarning(UserWarning):
    """The plan's grid is coarse for this site's update: much of it is lost in rounding."""


@dataclass(frozen=True)
class Rounded:
    """What rounding does to one tensor of a site's update. The site's own: not for logs that leave it.

    Attributes:
        tensor: its name.
        entries: how many of its entries are not 0; of a large tensor about as many.
        lost: share of its entries that are not 0 and become 0.
        relative_error: norm of all rounding errors, divided by the norm of the tensor.
        clip: the plan's bound.
        value_bits: the plan's bits.
        largest: largest absolute value in it.
        weight_share: the site's weight, divided by the weight cap.
    """

    tensor: str
    entries: int
    lost: float
    relative_error: float
    clip: float
    value_bits: int
    largest: float = field(repr=False)
    weight_share: float = field(repr=False)

    @property
    def is_coarse(self) -> bool:
        """Whether much is lost."""
        return self.lost > MOST_LOST or self.relative_error > MOST_ERROR

    @property
    def better_clip(self) -> float | None:
        """A clip bound that holds such updates twice, as a round number; None if the plan's is no larger than that."""
        better = round_number(MARGIN * self.largest)
        return better if 0 < better < self.clip else None

    @property
    def better_bits(self) -> int:
        """The value bits that a better clip bound leaves to be wanted; the plan's own if that is enough."""
        factor = (self.better_clip or self.clip) / self.clip
        worst = max(self.relative_error / MOST_ERROR, self.lost / MOST_LOST) * factor
        return min(MOST_BITS, self.value_bits + max(0, math.ceil(math.log2(worst)))) if worst > 0 else self.value_bits

    def __str__(self) -> str:
        found = (
            f"tensor {self.tensor!r}: {_percent(self.lost)} of its entries that are not 0 round to 0, "
            f"relative error {_percent(self.relative_error)}"
        )
        return f"{found}; better: {self._better()}" if self.is_coarse else found

    def _better(self) -> str:
        wanted = [] if self.better_clip is None else [f"clip {self.better_clip:g} instead of {self.clip:g}"]
        if self.better_bits > self.value_bits and self.weight_share < 1 / 4:
            wanted.append("a weight cap nearer to the sites' real weights")
        elif self.better_bits > self.value_bits:
            wanted.append(f"{self.better_bits} value bits instead of {self.value_bits}")
        return " and ".join(wanted)


def rounded(
    layout: Layout, value_bits: int, tensors: Mapping[str, Any], weight: int, *, stochastic: bool = False
) -> tuple[Rounded, ...]:
    """Tell what rounding to so many bits does to an update: for a plan that is still to be made, or one that is.

    Args:
        layout: clip bounds and weight cap.
        value_bits: width of one integer, sign included.
        tensors: exactly the layout's.
        weight: the site's, 1 to the cap.
        stochastic: whether rounding is.

    Raises:
        InputError: the tensors are not the layout's.
    """
    flats = (np.ascontiguousarray(array).reshape(-1) for array in layout.arrays(tensors))
    return tuple(
        look_at(spec, flat, largest_of(flat), value_bits, weight / layout.weight_cap, stochastic)
        for spec, flat in zip(layout.tensors, flats, strict=True)
    )


def largest_of(flat: NDArray[Any]) -> float:
    """Return the largest absolute value: 0 of an empty tensor, NaN of one with a NaN in it."""
    chunks = (flat[i : i + _CHUNK] for i in range(0, flat.size, _CHUNK))
    return float(np.max([(-float(chunk.min()), float(chunk.max())) for chunk in chunks], initial=0.0))


def look_at(
    spec: TensorSpec, flat: NDArray[Any], largest: float, value_bits: int, weight_share: float, stochastic: bool
) -> Rounded:
    """Tell what rounding does to one tensor. Shape of `flat`: (size,)."""
    bound = ((1 << (value_bits - 1)) - 1) * weight_share
    stride = max(1, flat.size // _SAMPLE)
    while math.gcd(stride, flat.size) > 1 and stride > 1:
        stride += 1
    seen = _Seen(spec.clip, bound, stochastic)
    seen.add(flat[::stride])
    if stride > 1 and seen.entries < _FEW:
        seen = _Seen(spec.clip, bound, stochastic)
        for i in range(0, flat.size, _CHUNK):
            seen.add(flat[i : i + _CHUNK])
    lost = seen.lost / seen.entries if seen.entries else 0.0
    error = math.sqrt(seen.errors / seen.norm) if seen.norm > 0 else float(seen.entries > 0)
    entries = seen.entries * flat.size // max(1, seen.looked_at)
    return Rounded(spec.name, entries, lost, error, spec.clip, value_bits, largest, weight_share)


class _Seen:
    """What was found in the values looked at so far: counts, and squares in steps of the grid."""

    def __init__(self, clip: float, bound: float, stochastic: bool) -> None:
        self._clip, self._bound, self._stochastic = clip, bound, stochastic
        self.looked_at = self.entries = 0
        self.lost = self.errors = self.norm = 0.0

    def add(self, flat: NDArray[Any]) -> None:
        """Look at some more, as far as the clip bound lets them."""
        steps = flat.astype(np.float64)
        np.abs(steps, out=steps)
        steps *= self._bound / self._clip
        np.minimum(steps, self._bound, out=steps)
        entries = int(np.count_nonzero(steps))
        whole = np.floor(steps) if self._stochastic else np.rint(steps)
        off = steps - whole
        gone = np.maximum(0.0, 1.0 - steps).sum() if self._stochastic else steps.size - np.count_nonzero(whole)
        self.lost += float(gone) - (steps.size - entries)
        self.errors += float(off @ (1.0 - off) if self._stochastic else off @ off)
        self.norm += float(steps @ steps)
        self.looked_at += steps.size
        self.entries += entries


def coarse(found: Iterable[Rounded]) -> list[Rounded]:
    """Return the tensors of an update that people should know of, worst first.

    Those that are coarse and have more than a few entries; all that are coarse, if no tensor of the update is fine.
    """
    there = [one for one in found if one.entries]
    bad = sorted((one for one in there if one.is_coarse), key=lambda one: one.relative_error, reverse=True)
    return bad if len(bad) == len(there) else [one for one in bad if one.entries >= FEWEST]


def as_text(found: Iterable[Rounded]) -> str:
    """Say in a sentence what is lost of coarse tensors, and what would be better; empty if none is coarse."""
    bad = coarse(found)
    more = f" ({len(bad) - 3} more tensors are alike)" if len(bad) > 3 else ""
    return "; ".join(str(one) for one in bad[:3]) + more


def cap_trouble(weight_cap: int, value_bits: int) -> str:
    """Say that a weight cap is so large that usual weights leave nothing of an update; empty if it is not."""
    bits = max(0.0, value_bits - 1 + math.log2(_USUAL_SAMPLES / weight_cap))
    if weight_cap <= _USUAL_SAMPLES or bits >= min(_FEW_BITS, value_bits - 1):
        return ""
    return (
        f"weight cap {weight_cap}: of a site with {_USUAL_SAMPLES} samples, {bits:.0f} of {value_bits - 1} bits would "
        "be left, and all smaller values round to 0; take the number of samples of the largest site"
    )


def round_number(value: float) -> float:
    """Return the next of 1, 2, 5, 10, ... at or above."""
    if not 0 < value < math.inf:
        return value
    power = math.floor(math.log10(value))
    return next(n for digit in (1, 2, 5, 10, 20) if (n := float(f"{digit}e{power}")) >= value)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
