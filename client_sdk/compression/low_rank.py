"""Low-rank factors of matrices, PowerSGD style: two encrypted sums for each training step.

For a matrix of n rows and m columns, and a common Q of m rows and r orthonormal columns: in the first round of a step
the sites send ``P_i = G_i Q``, and all orthonormalise the mean, ``P``. In the second they send ``Q_i = G_i^T P``, whose
mean gives the update ``P Q^T`` and the next step's Q. Both are linear in the update, so sums stay sums.

Source: Vogels et al., PowerSGD, NeurIPS 2019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.compression.base import Grid, Tensors, generator, uniform
from client_sdk.compression.feedback import Lossy
from he_agg.errors import PlanError, Reason

__all__ = ["LowRank"]

_FACTOR = "factor of "


@dataclass(frozen=True)
class LowRank(Lossy):
    """Matrices as factors of `rank`; what has two dimensions or more counts as rows times the rest.

    A matrix that factors would not make smaller, and every vector, travels whole in the second round of a step.

    Attributes:
        rank: columns of the factors.
        factor_clip: bound of the factors' entries in units of the tensor's clip bound.
        seed: public text, for the first Q.
    """

    rank: int = 2
    factor_clip: float = 4.0
    seed: str = "he-agg"
    phases = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1 or not self.factor_clip > 0:
            raise PlanError(Reason.BAD_ARGUMENT, "low rank: expected a rank of at least 1 and a bound above 0")

    def layout(
        self, tensors: Mapping[str, NDArray[Any]], clip: Mapping[str, float]
    ) -> tuple[Tensors, dict[str, float]]:
        """Return one factor per matrix, long enough for either side; the rest as it is."""
        example: Tensors = {}
        bound: dict[str, float] = {}
        for name, array in tensors.items():
            n, m = _sides(array)
            if self._is_factored(array):
                example[_FACTOR + name] = np.zeros((max(n, m), self.rank))
                bound[_FACTOR + name] = clip[name] * self.factor_clip
            else:
                example[name], bound[name] = np.zeros(array.shape), clip[name]
        return example, bound

    def start(
        self, tensors: Mapping[str, NDArray[Any]], seed: int, clip: Mapping[str, float]
    ) -> tuple[Tensors, Tensors]:
        """Draw a random Q for each matrix, and keep its shape."""
        _, local = super().start(tensors, seed, clip)
        common: Tensors = {}
        for name, array in tensors.items():
            if self._is_factored(array):
                common[f"q|{name}"] = _orthonormal(self._random(name, _sides(array)[1], 0))
                common[f"shape|{name}"] = np.array(array.shape, dtype=np.int64)
        return common, local

    def encode(self, target: Tensors, phase: int, step: int, common: Tensors, local: Tensors, grid: Grid) -> Tensors:
        """Return P in the first round, Q and the rest in the second."""
        found = {}
        for name, array in target.items():
            if f"q|{name}" not in common:
                found[name] = (
                    np.zeros(array.shape) if phase == 0 else self.snapped(name, array, step, phase, local, grid)
                )
                continue
            matrix = array.reshape(_sides(array))
            factor = matrix @ common[f"q|{name}"] if phase == 0 else matrix.T @ common[f"p|{name}"]
            padded = np.zeros((max(matrix.shape), self.rank))
            padded[: len(factor)] = self.snapped(_FACTOR + name, factor, step, phase, local, grid)
            found[_FACTOR + name] = padded
        return found

    def own(self, payload: Tensors, step: int, common: Tensors, shapes: Tensors) -> Tensors:  # noqa: ARG002
        """Return P times the Q of a payload."""
        found = {}
        for name in shapes:
            if f"shape|{name}" not in common:
                found[name] = payload[name]
                continue
            shape = tuple(int(n) for n in common[f"shape|{name}"])
            q = payload[_FACTOR + name][: math.prod(shape[1:])]
            found[name] = _product(common[f"p|{name}"], q).reshape(shape)
        return found

    def decode(self, mean: Tensors, phase: int, step: int, common: Tensors) -> tuple[Tensors | None, Tensors]:
        """Return P after the first round; the mean update and the next Q after the second."""
        new = dict(common)
        names = [name.removeprefix(_FACTOR) for name in mean]
        factored = [name for name in names if f"shape|{name}" in common]
        if phase == 0:
            for name in factored:
                rows = int(common[f"shape|{name}"][0])
                new[f"p|{name}"] = _orthonormal(mean[_FACTOR + name][:rows])
            return None, new
        move = self.own(mean, step, common, dict.fromkeys(names, np.zeros(0)))
        for name in factored:
            q = mean[_FACTOR + name][: math.prod(int(n) for n in common[f"shape|{name}"][1:])]
            new[f"q|{name}"] = _orthonormal(q, self._random(name, len(q), step))
        return move, new

    def _is_factored(self, array: NDArray[Any]) -> bool:
        n, m = _sides(array)
        return array.ndim > 1 and array.size > 0 and 2 * max(n, m) * self.rank < n * m

    def _random(self, name: str, rows: int, step: int) -> NDArray[np.float64]:
        draws = uniform(generator("low rank", self.seed, name, step), rows * self.rank)
        return draws.reshape(rows, self.rank) - 0.5


def _sides(array: NDArray[Any]) -> tuple[int, int]:
    return (array.shape[0], math.prod(array.shape[1:])) if array.ndim else (1, 1)


def _product(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute `p @ q.T` column by column: the same bits whatever BLAS a machine has."""
    total = np.zeros((len(p), len(q)))
    for k in range(p.shape[1]):
        total += np.multiply.outer(p[:, k], q[:, k])
    return total


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return math.fsum((a * b).tolist())


def _orthonormal(columns: NDArray[Any], spare: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Run Gram-Schmidt with correctly rounded dot products: the same bits on every machine.

    A column that depends on those before it becomes zero, or comes from `spare`.
    """
    found = columns.astype(np.float64)
    for k in range(found.shape[1]):
        for candidate in (found[:, k].copy(), None if spare is None else spare[:, k].copy()):
            if candidate is None:
                found[:, k] = 0
                break
            before = _dot(candidate, candidate)
            for _ in range(2):  # twice is enough (Kahan, Parlett)
                for j in range(k):
                    candidate -= _dot(candidate, found[:, j]) * found[:, j]
            after = _dot(candidate, candidate)
            if after > 1e-20 * before and after > 1e-60:
                found[:, k] = candidate / math.sqrt(after)
                break
        else:
            found[:, k] = 0
    return found
