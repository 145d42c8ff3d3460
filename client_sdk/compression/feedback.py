"""Round to the grid and feed errors back, as all lossy compressions do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.agreed import settle
from client_sdk.compression.base import Compression, Grid, Tensors, generator, uniform

__all__ = ["Lossy"]

_SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class Lossy(Compression):
    """A compression that loses something.

    Attributes:
        stochastic: round at random so that the mean of many roundings is the value; else to nearest.
        error_feedback: keep what was lost, rounding and clipping included, and add it to the next update.

    Source: Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019.
    """

    stochastic: bool = True
    error_feedback: bool = True

    def __post_init__(self) -> None:
        """Bring the settings into their one form."""
        settle(self)

    def describe(self) -> str:
        """Describe all settings."""
        return repr(self)

    def start(
        self,
        tensors: Mapping[str, NDArray[Any]],
        seed: int,
        clip: Mapping[str, float],  # noqa: ARG002
    ) -> tuple[Tensors, Tensors]:
        """Start with a residual of zero."""
        local: Tensors = {f"residual|{n}": np.zeros(a.shape) for n, a in tensors.items()} if self.error_feedback else {}
        return {}, local | {_SEED: np.array(seed, dtype=np.uint64)}

    def target(self, update: Tensors, local: Tensors) -> Tensors:
        """Return the update and the residual."""
        if not self.error_feedback:
            return {name: array.astype(np.float64) for name, array in update.items()}
        return {name: array.astype(np.float64) + local[f"residual|{name}"] for name, array in update.items()}

    def residual(self, target: Tensors, payload: Tensors, step: int, common: Tensors, local: Tensors) -> Tensors:
        """Return what part of the target was not in the payload."""
        if not self.error_feedback:
            return local
        sent = self.own(payload, step, common, target)
        return {f"residual|{n}": a - sent[n] for n, a in target.items()} | {_SEED: local[_SEED]}

    @abstractmethod
    def own(self, payload: Tensors, step: int, common: Tensors, shapes: Tensors) -> Tensors:
        """Return what one site's payload contributes to the mean update.

        Args:
            common: common state after the step.
            shapes: arrays of the model's shapes.
        """

    def snapped(self, name: str, values: NDArray[Any], step: int, phase: int, local: Tensors, grid: Grid) -> Any:
        """Return values that travel exactly. Draws follow from the site's own seed, so a repeated step is the same."""
        draws = None
        if self.stochastic:
            draws = uniform(generator(int(local[_SEED]), step, phase, name), values.size)
        return grid.snap(name, values, draws)
