"""Turn a site's update into what travels, and the mean of that back.

A training step takes `phases` rounds. What is *common* is the same at all sites to the bit: it follows from public
seeds and decrypted means. What is *local* stays at the site, such as the residual: what was not sent, which is added
to the next update (error feedback).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import InputError, PlanError, Reason
from he_agg.plan.plan import Plan

__all__ = ["Compression", "Grid", "Tensors", "generator"]

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Grid:
    """The numbers that one site can send exactly: multiples of a unit per tensor.

    Attributes:
        plan: the federation's plan.
        weight: the site's weight.
    """

    plan: Plan
    weight: int

    def snap(self, name: str, values: NDArray[Any], draws: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Round values to the grid, and to the clip bound if they are beyond.

        Args:
            draws: uniform in [0, 1), one per value, for stochastic rounding, which is unbiased within the bound; to
                nearest without.

        Raises:
            InputError: the weight is so small that every value would become zero.
        """
        clip = next(spec.clip for spec in self.plan.layout.tensors if spec.name == name)
        share = self.plan.public.magnitude * (self.weight / self.plan.layout.weight_cap)
        limit = int(share)
        if limit < 1:
            raise InputError(
                Reason.WEIGHT_OUT_OF_RANGE,
                f"expected a weight of at least weight cap / {self.plan.public.magnitude}, got a smaller one: "
                f"at {self.plan.public.value_bits} bits nothing of this site would be left",
                "give weights in larger units and lower the cap (cap 1 is the plain mean), or use more value bits",
            )
        scaled = values.astype(np.float64) * (share / clip)
        k = np.rint(scaled) if draws is None else np.floor(scaled + draws.reshape(scaled.shape))
        snapped: NDArray[np.float64] = np.clip(np.clip(k, -limit, limit) * (clip / share), -clip, clip)
        return snapped


class Compression:
    """No compression: the update travels as it is. Base of the others.

    Attributes:
        phases: rounds per training step.
    """

    phases = 1

    def describe(self) -> str:
        """Describe the settings as text: part of the model's hash, so that sites with others are found out."""
        return type(self).__name__

    def layout(
        self, tensors: Mapping[str, NDArray[Any]], clip: Mapping[str, float]
    ) -> tuple[Tensors, dict[str, float]]:
        """Return what travels, by name, with bounds.

        Args:
            tensors: the model's shared tensors.
            clip: bound on each tensor's update.
        """
        return dict(tensors), dict(clip)

    def start(
        self,
        tensors: Mapping[str, NDArray[Any]],  # noqa: ARG002
        seed: int,  # noqa: ARG002
        clip: Mapping[str, float],  # noqa: ARG002
    ) -> tuple[Tensors, Tensors]:
        """Return common and local state before the first step.

        Args:
            tensors: the model's shared tensors.
            seed: for local draws; the site's own.
        """
        return {}, {}

    def target(self, update: Tensors, local: Tensors) -> Tensors:  # noqa: ARG002
        """Return what is to be sent in this step: the update, and what was left over before."""
        return update

    def encode(
        self,
        target: Tensors,
        phase: int,  # noqa: ARG002
        step: int,  # noqa: ARG002
        common: Tensors,  # noqa: ARG002
        local: Tensors,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Tensors:
        """Return what travels in one round of a step. Repeatable: the same arguments give the same bits.

        Args:
            target: what `target` gave at the start of the step.
            phase: which round of the step, from 0.
            step: which step, from 1.
            grid: what can be sent exactly.
        """
        return target

    def residual(
        self,
        target: Tensors,  # noqa: ARG002
        payload: Tensors,  # noqa: ARG002
        step: int,  # noqa: ARG002
        common: Tensors,  # noqa: ARG002
        local: Tensors,
    ) -> Tensors:
        """Return local state after a step whose last payload has been counted."""
        return local

    def decode(self, mean: Tensors, phase: int, step: int, common: Tensors) -> tuple[Tensors | None, Tensors]:  # noqa: ARG002
        """Return the mean of what travelled as the mean update; the same bits at every site.

        Returns:
            The mean update, or None before the last phase; and the new common state.
        """
        return mean, common


def generator(*key: int | str) -> np.random.Philox:
    """Return a bit stream out of public text and numbers, the same in every version of NumPy (`random_raw`)."""
    digest = hashlib.sha256("|".join(str(part) for part in key).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "big"))


def uniform(bits: np.random.Philox, count: int) -> NDArray[np.float64]:
    """Return numbers uniform in [0, 1)."""
    numbers: NDArray[np.float64] = (bits.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def check_share(value: float, what: str) -> None:
    """Refuse a number that is not a fraction."""
    if not 0 < value <= 1:
        raise PlanError(Reason.BAD_ARGUMENT, f"{what}: expected above 0 and at most 1, got {value:g}")
