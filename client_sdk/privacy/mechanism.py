"""Choose the noise that a site adds, and price a round of it: client-level differential privacy of a hospital.

Two runs are neighbours if one hospital's update is replaced by zeros. On the plan's grid with steps g the clipped and
rounded update has norm at most ``S = C + sqrt(sum of g^2 over all values) / 2``: C from clipping, the rest from
rounding to nearest. Each site adds integer noise of standard deviation ``z * S / sqrt(h)`` (in real units), where h is
the number of honest sites that are in every sum: `min_sites` less the colluders, who know their own share of the noise
and can subtract it. So the honest noise alone is at least ``z * S``.

Weights would travel exactly beside the noise and would multiply the sensitivity, so the plan must have weight cap 1.

Source: /Skellam/ Agarwal, Kairouz, Liu, arXiv 2110.04995, corollary 4.1; /discrete Gaussian sums/ Kairouz, Liu,
Steinke, arXiv 2102.06387, theorem 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client_sdk.privacy.sampling import MAX_SKELLAM_STD, Source, discrete_gaussian, skellam
from he_agg.errors import InputError, PlanError, Reason
from he_agg.plan.layout import Layout
from he_agg.plan.plan import Plan

__all__ = ["ORDERS", "Mechanism", "noisy_clip"]

Law = Literal["skellam", "gaussian"]

ORDERS: tuple[int, ...] = (*range(2, 65), *range(72, 129, 8), 160, 192, 256, 384, 512, 1024)
"""Renyi orders at which budgets are kept; whole ones, which is what Skellam's bound is proved for."""

_TAILS = 10.0
"""Room for noise above the clip norm in standard deviations: beyond it with probability 2e-23 a value."""

_MIN_GAUSSIAN_STD = 4.0
"""Below this, sums of discrete Gaussians are too unlike one: the slack is 10 n exp(-pi^2 std^2), 1e-68 at 4."""


def noisy_clip(
    clip_norm: float, noise_multiplier: float, honest_sites: int, *, values: int = 0, value_bits: int = 24
) -> float:
    """Return the `clip` to found a federation with: room for an update of norm `clip_norm` and its noise.

    Args:
        clip_norm: C.
        noise_multiplier: z.
        honest_sites: h.
        values: size of the model, for what rounding adds.
    """
    per_step = math.sqrt(values) / 2 / ((1 << (value_bits - 1)) - 1)
    factor = 1 + _TAILS * noise_multiplier / math.sqrt(honest_sites)
    if factor * per_step >= 0.5:
        raise PlanError(Reason.BAD_PLAN, "expected a grid finer than the noise", "take more value bits")
    # clip = factor * (C + clip * per_step), and one step in a thousand to spare.
    return 1.001 * factor * clip_norm / (1 - factor * per_step)


@dataclass(frozen=True)
class Mechanism:
    """The noise of one federation. Build it with `Mechanism.for_plan`.

    Attributes:
        clip_norm: C, bound on the L2 norm of a site's update.
        noise_multiplier: z: honest noise in a sum over the sensitivity.
        honest_sites: h: fewest honest sites in a sum.
        law: "skellam" or "gaussian" (discrete).
        steps: grid step per tensor, in the plan's order. Units: those of the update.
        sizes: values per tensor.
    """

    clip_norm: float
    noise_multiplier: float
    honest_sites: int
    law: Law
    steps: tuple[float, ...]
    sizes: tuple[int, ...]

    @classmethod
    def for_plan(
        cls, plan: Plan, *, clip_norm: float, noise_multiplier: float, colluders: int = 0, law: Law = "skellam"
    ) -> Mechanism:
        """Return the noise for a federation's plan.

        Args:
            plan: with weight cap 1, and clip bounds that leave room for the noise.
            clip_norm: C.
            noise_multiplier: z.
            colluders: how many of `min_sites` sites may pool what they know against another one; at least 0.

        Raises:
            InputError: parameters out of their range.
            PlanError: a plan with weights, or without room for the noise; the message says what would do.
        """
        if not (
            math.isfinite(clip_norm) and clip_norm > 0 and math.isfinite(noise_multiplier) and noise_multiplier > 0
        ):
            raise InputError(Reason.BAD_ARGUMENT, "expected a positive clip_norm and noise_multiplier")
        if law not in ("skellam", "gaussian"):
            raise InputError(Reason.BAD_ARGUMENT, f"law: expected 'skellam' or 'gaussian', got {law!r}")
        honest = plan.public.min_sites - colluders
        if colluders < 0 or honest < 1:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"colluders: expected 0 to {plan.public.min_sites - 1} (min_sites is {plan.public.min_sites}), got "
                f"{colluders}",
            )
        if plan.layout.weight_cap != 1:
            raise PlanError(
                Reason.BAD_PLAN,
                f"expected weight cap 1, got {plan.layout.weight_cap}: the total weight is published without noise, "
                "and a weight multiplies the sensitivity",
                "found the federation with `weight_cap=1`: every hospital then counts the same",
            )
        steps, sizes = _grid(plan.layout, plan.public.magnitude)
        mechanism = cls(float(clip_norm), float(noise_multiplier), honest, law, steps, sizes)
        mechanism._check_room(plan.layout)
        return mechanism

    @property
    def values(self) -> int:
        """How many values an update has."""
        return sum(self.sizes)

    @property
    def sensitivity(self) -> float:
        """S: largest norm of an update after clipping and rounding. Units: those of the update."""
        squares = sum(size * step * step for size, step in zip(self.sizes, self.steps, strict=True))
        return self.clip_norm + math.sqrt(squares) / 2

    @property
    def site_std(self) -> float:
        """Standard deviation of one site's noise. Units: those of the update."""
        return self.noise_multiplier * self.sensitivity / math.sqrt(self.honest_sites)

    def mean_std(self, n_sites: int) -> float:
        """Return the standard deviation of the noise in the mean of `n_sites` sites, per value, in its units."""
        return self.site_std / math.sqrt(n_sites)

    def noise(self, tensor: int, source: Source) -> NDArray[np.int64]:
        """Draw a site's noise for one tensor. Units: grid steps.

        Args:
            tensor: number in the plan's order.
            source: of random bytes.
        """
        draw = skellam if self.law == "skellam" else discrete_gaussian
        return draw(self.site_std / self.steps[tensor], self.sizes[tensor], source)

    def rdp(self, orders: Sequence[int] = ORDERS) -> NDArray[np.float64]:
        """Compute what one round costs, as Renyi divergence at each order; rounds add up.

        Args:
            orders: whole numbers from 2.

        Shape: (len(orders),)
        """
        alpha = np.asarray(orders, dtype=np.float64)
        h, std = self.honest_sites, self.site_std
        if self.law == "skellam":
            # In units of the coarsest grid, which bounds the finer ones.
            l2 = self.sensitivity / max(self.steps)
            l1 = l2 * min(math.sqrt(self.values), l2)
            variance = h * (std / max(self.steps)) ** 2
            extra = np.minimum(
                ((2 * alpha - 1) * l2**2 + 6 * l1) / (4 * variance**2), np.full_like(alpha, 3 * l1 / (2 * variance))
            )
            return np.asarray(alpha * l2**2 / (2 * variance) + extra)
        smallest = std / max(self.steps)
        slack = 10 * sum(math.exp(-2 * math.pi**2 * smallest**2 * k / (k + 1)) for k in range(1, h))
        epsilon = math.sqrt(self.sensitivity**2 / (h * std**2) + slack * self.values / 2)
        return np.asarray(alpha * epsilon**2 / 2)

    def _check_room(self, layout: Layout) -> None:
        needed = self.sensitivity + _TAILS * self.site_std
        for spec, step in zip(layout.tensors, self.steps, strict=True):
            local = self.site_std / step
            if spec.size and spec.clip < needed:
                raise PlanError(
                    Reason.NO_HEADROOM,
                    f"tensor {spec.name!r}: expected a clip bound of at least {needed:.6g}, so that update and noise "
                    f"fit, got {spec.clip:g}",
                    "found the federation with `clip=privacy.noisy_clip(...)`",
                )
            if self.law == "gaussian" and local < _MIN_GAUSSIAN_STD:
                raise PlanError(
                    Reason.NO_HEADROOM,
                    f"tensor {spec.name!r}: expected noise of at least {_MIN_GAUSSIAN_STD} grid steps a site, got "
                    f"{local:.3g}",
                    "take more value bits, or law='skellam'",
                )
            if self.law == "skellam" and local > MAX_SKELLAM_STD:
                raise PlanError(
                    Reason.NO_HEADROOM,
                    f"tensor {spec.name!r}: expected Skellam noise of at most {MAX_SKELLAM_STD:g} grid steps a site, "
                    f"got {local:.3g}",
                    "take fewer value bits (16 are plenty beside noise), or law='gaussian'",
                )


def _grid(layout: Layout, magnitude: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
    return tuple(spec.clip / magnitude for spec in layout.tensors), tuple(spec.size for spec in layout.tensors)
