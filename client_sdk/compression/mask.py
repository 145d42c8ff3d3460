"""A part of the values in each round, the same part at all sites, so that sums stay sums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.compression.base import Grid, Tensors, check_share, generator
from client_sdk.compression.feedback import Lossy

__all__ = ["RandomMask"]


@dataclass(frozen=True)
class RandomMask(Lossy):
    """Of every tensor, `fraction` of the entries travel in a step; which, follows from a public seed and the step.

    The entries are dealt out in a random order, and once all had their turn in another one: each is sent once in
    about `1/fraction` steps. With error feedback an entry waits and is sent as the sum of what it missed; without, what
    is sent is scaled up, which is unbiased and noisy.

    Attributes:
        fraction: part of the entries per step.
        seed: public text; the aggregator may know it.

    Source: Konečný et al., arXiv 1610.05492 (random masks).
    """

    fraction: float = 0.1
    seed: str = "he-agg"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.fraction, "fraction")

    def layout(
        self, tensors: Mapping[str, NDArray[Any]], clip: Mapping[str, float]
    ) -> tuple[Tensors, dict[str, float]]:
        """Return as many values of each tensor as travel in a step."""
        return {name: np.zeros(self._count(array.size)) for name, array in tensors.items()}, dict(clip)

    def start(
        self, tensors: Mapping[str, NDArray[Any]], seed: int, clip: Mapping[str, float]
    ) -> tuple[Tensors, Tensors]:
        """Return the shapes of the tensors, which the mean has to have again."""
        _, local = super().start(tensors, seed, clip)
        return {f"shape|{name}": np.array(array.shape, dtype=np.int64) for name, array in tensors.items()}, local

    def encode(
        self,
        target: Tensors,
        phase: int,
        step: int,
        common: Tensors,  # noqa: ARG002
        local: Tensors,
        grid: Grid,
    ) -> Tensors:
        """Return the entries whose turn it is."""
        found = {}
        for name, array in target.items():
            entries = array.reshape(-1)[self.indices(name, array.size, step)]
            found[name] = self.snapped(name, entries, step, phase, local, grid)
        return found

    def own(self, payload: Tensors, step: int, common: Tensors, shapes: Tensors) -> Tensors:
        """Return the entries at their places, zero elsewhere."""
        found = {}
        for name, values in payload.items():
            if name not in shapes:
                continue
            shape = tuple(int(n) for n in common[f"shape|{name}"])
            flat = np.zeros(math.prod(shape))
            flat[self.indices(name, flat.size, step)] = values
            found[name] = flat.reshape(shape)
        return found

    def decode(self, mean: Tensors, phase: int, step: int, common: Tensors) -> tuple[Tensors | None, Tensors]:  # noqa: ARG002
        """Return the payload at its places, scaled up if nothing is kept back."""
        move = self.own(mean, step, common, mean)
        if not self.error_feedback:
            move = {name: array * (array.size / max(1, mean[name].size)) for name, array in move.items()}
        return move, common

    def indices(self, name: str, size: int, step: int) -> NDArray[np.int64]:
        """Choose the entries of a flattened tensor that travel in a step. Public, and the same on every machine."""
        count = self._count(size)
        if count == size:
            return np.arange(size)
        turns = math.ceil(size / count)
        cycle, turn = divmod(step - 1, turns)
        order = _order(self.seed, name, cycle, size)
        # The last turn of a cycle is filled up from its first.
        places = np.arange(turn * count, (turn + 1) * count)
        found: NDArray[np.int64] = np.sort(np.take(order, places, mode="wrap")).astype(np.int64)
        return found

    def _count(self, size: int) -> int:
        return min(size, math.ceil(self.fraction * size))


@lru_cache(maxsize=256)
def _order(seed: str, name: str, cycle: int, size: int) -> NDArray[Any]:
    """Return a random order of the entries; each step looks at it three times, and a cycle has many steps."""
    keys = generator("mask", seed, name, cycle).random_raw(size)
    # They are kept: half the memory where 32 bits do.
    order: NDArray[Any] = np.argsort(keys, kind="stable").astype(np.int32 if size < 2**31 else np.int64)
    order.setflags(write=False)
    return order
