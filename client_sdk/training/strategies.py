"""Step the model by the decrypted mean. Every site applies the same step to the same bits.

Only operations that IEEE 754 rounds in one way are used (+, -, *, /, sqrt, elementwise, in float64), so the results are
the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.adapters.base import floored
from client_sdk.agreed import settle
from client_sdk.compression.base import Tensors
from he_agg.errors import InputError, Reason

__all__ = ["FedAdam", "FedAvg", "FedAvgM", "FedProx"]


@dataclass(frozen=True)
class FedAvg:
    """The global model moves by the mean update.

    Attributes:
        lr: how far; 1 is plain federated averaging.

    Source: McMahan et al., AISTATS 2017.
    """

    lr: float = 1.0

    def __post_init__(self) -> None:
        settle(self)  # lr=1 and lr=1.0 are one strategy
        for name, value in vars(self).items():
            below = 1.0 if name.startswith(("beta", "momentum")) else 1e6
            if not 0 <= value < below or (name in ("lr", "tau") and value == 0):
                least = "above 0" if name in ("lr", "tau") else "0 or more"
                raise InputError(
                    Reason.BAD_ARGUMENT,
                    f"{type(self).__name__}: expected {name} {least} and below {below:g}, got {value:g}",
                    f"leave {name} out for the usual value",
                )

    def start(self, model: Mapping[str, NDArray[Any]]) -> Tensors:  # noqa: ARG002
        """Return the state before the first step."""
        return {}

    @property
    def is_plain(self) -> bool:
        """Whether every tensor moves by its mean, and by nothing else."""
        return self.lr == 1 and type(self).moves is FedAvg.moves

    def step(
        self,
        model: Tensors,
        mean: Mapping[str, NDArray[Any]],
        state: Tensors,
        plain: frozenset[str] = frozenset(),
        variances: frozenset[str] = frozenset(),
    ) -> tuple[Tensors, Tensors]:
        """Return the new global model.

        Args:
            plain: tensors that move by their mean alone: statistics.
            variances: tensors that stay above zero.

        Returns:
            New model, new state; nothing is changed in place.

        Raises:
            InputError: the model would hold a number that its dtype does not.
        """
        wide = {name: array.astype(np.float64) for name, array in mean.items()}
        moved = {}
        with np.errstate(over="ignore", invalid="ignore"):
            moves, state = self.moves({name: array for name, array in wide.items() if name not in plain}, state)
            for name, array in model.items():
                new = array.astype(np.float64) + (wide[name] if name in plain else moves[name])
                moved[name] = np.asarray(new.astype(array.dtype))  # the sum of 0-d arrays is no array
                if not np.isfinite(moved[name]).all():
                    raise InputError(
                        Reason.NON_FINITE,
                        f"tensor {name!r}: the global model's next step ends beyond the largest {array.dtype.name}",
                        "lower the learning rates, or train in a wider dtype; a checkpoint keeps the model before it",
                    )
        return floored(moved, variances), state

    def moves(self, mean: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """Compute by how much each tensor moves, and the new state, all in float64."""
        return {name: self.lr * array for name, array in mean.items()}, state


@dataclass(frozen=True)
class FedProx(FedAvg):
    """Federated averaging whose sites are held near the global model: add `task.proximal(model)` to the loss.

    Attributes:
        mu: strength; the term is mu/2 times the squared distance to the round's global model.

    Source: Li et al., MLSys 2020.
    """

    mu: float = 0.01


@dataclass(frozen=True)
class FedAvgM(FedAvg):
    """Momentum on the mean update.

    Attributes:
        momentum: share of the last move that goes on.

    Source: Hsu et al., arXiv 1909.06335.
    """

    momentum: float = 0.9

    def start(self, model: Mapping[str, NDArray[Any]]) -> Tensors:
        """Start with velocity zero."""
        return {f"velocity/{name}": np.zeros(array.shape) for name, array in model.items()}

    def moves(self, mean: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """Return the velocity, times lr."""
        new = state | {f"velocity/{n}": self.momentum * state[f"velocity/{n}"] + array for n, array in mean.items()}
        return {name: self.lr * new[f"velocity/{name}"] for name in mean}, new


@dataclass(frozen=True)
class FedAdam(FedAvg):
    """Adam on the mean update, without bias correction, as published.

    Attributes:
        lr: step of a coordinate whose updates agree.
        beta1: memory of the mean.
        beta2: memory of its square.
        tau: how small an update counts as noise.

    Source: Reddi et al., ICLR 2021, algorithm 2.
    """

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def start(self, model: Mapping[str, NDArray[Any]]) -> Tensors:
        """Start with moments zero and tau squared."""
        first = {f"first/{name}": np.zeros(array.shape) for name, array in model.items()}
        return first | {f"second/{name}": np.full(array.shape, self.tau * self.tau) for name, array in model.items()}

    def moves(self, mean: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """Return the first moment over the root of the second."""
        new, moves = dict(state), {}
        for name, array in mean.items():
            first = self.beta1 * state[f"first/{name}"] + (1 - self.beta1) * array
            second = self.beta2 * state[f"second/{name}"] + (1 - self.beta2) * (array * array)
            new[f"first/{name}"], new[f"second/{name}"] = first, second
            moves[name] = self.lr * first / (np.sqrt(second) + self.tau)
        return moves, new
