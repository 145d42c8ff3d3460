"""Propose clip bounds, weight cap and bits that fit an example of an update. Sites only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from he_agg.errors import InputError, Reason
from he_agg.plan.layout import Layout
from he_agg.plan.rounded import Rounded, as_text, round_number, rounded

__all__ = ["Proposal", "propose"]

_BITS = (16, 20, 24)
_MOST_ERROR = 0.01
"""More bits are proposed where rounding changes a tensor by more than this: other sites' weights are smaller."""

_WIDEST = 1e29
_SHOWN = 12


@dataclass(frozen=True)
class Proposal:
    """What a plan could agree on.

    Attributes:
        layout: tensors with their clip bounds, and the weight cap.
        value_bits: width of one integer.
        found: what rounding does to the example with these.
    """

    layout: Layout
    value_bits: int
    found: tuple[Rounded, ...]

    @property
    def rows(self) -> list[str]:
        """Say of each tensor how large its entries are, its bound, and what would be lost; the worst first."""
        shown = sorted(self.found, key=lambda one: -one.relative_error)[:_SHOWN]
        width = max(6, *(len(one.tensor) for one in shown))
        rows = [f"{'tensor':<{width}}  {'largest':>8}  {'clip':>8}  {'to zero':>8}  {'relative error':>14}"]
        rows += [
            f"{one.tensor:<{width}}  {one.largest:>8.2g}  {one.clip:>8g}  {one.lost:>8.1%}  {one.relative_error:>14.2%}"
            for one in shown
        ]
        more = len(self.found) - len(shown)
        rows += [f"and {more} more, with smaller errors"] if more else []
        return [*rows, f"weight cap {self.layout.weight_cap}, {self.value_bits} bits a value", *self._warnings]

    @property
    def _warnings(self) -> list[str]:
        text = as_text(self.found)
        return [f"warning: {text}"] if text else []


def propose(
    update: Mapping[str, Any],
    weight: int,
    *,
    clip: float | None = None,
    weight_cap: int | None = None,
    value_bits: int | None = None,
) -> Proposal:
    """Propose what fits an example of an update; what is given stays as it is.

    Args:
        update: named arrays, as a site's training makes them.
        weight: the sample count behind it.
        clip: one bound for all tensors.

    Raises:
        InputError: an entry that is not finite, or a weight below 1 or above the cap.
        PlanError: no tensors, or what a plan cannot have.
    """
    cap = weight_cap or int(round_number(max(1, 2 * weight)))
    if not 1 <= weight <= cap:
        raise InputError(Reason.WEIGHT_OUT_OF_RANGE, f"weight: expected 1 to the weight cap {cap}, got {weight}")
    layout = Layout.of(update, clip=clip or _fitting(update, weight, cap), weight_cap=cap)
    for bits in (value_bits,) if value_bits else _BITS:
        found = rounded(layout, bits, update, weight)
        if all(one.relative_error <= _MOST_ERROR for one in found):
            break
    return Proposal(layout, bits, found)


def _fitting(update: Mapping[str, Any], weight: int, cap: int) -> dict[str, float]:
    """Return a clip bound for each tensor."""
    found = rounded(Layout.of(update, clip=_WIDEST, weight_cap=cap), _BITS[0], update, weight)
    for one in found:
        if not one.largest < _WIDEST:
            raise InputError(
                Reason.NON_FINITE,
                f"tensor {one.tensor!r} of the example: expected finite values, got NaN or infinity",
                "look for a diverged loss or an empty batch in the local training",
            )
    # A tensor that did not move in the example may move at another site, by as much as any.
    most = max((one.better_clip or 0.0 for one in found), default=0.0) or 1.0
    return {one.tensor: one.better_clip or most for one in found}
