"""Stop in time: rules that every site applies alone to what all sites share to the bit, so all stop at once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from client_sdk.agreed import settle
from client_sdk.compression.base import Tensors
from he_agg.errors import InputError, Reason

__all__ = ["Converged", "EarlyStopping", "Stopping"]

_FINE = 0.02
"""A score whose error is up to this judges any difference."""

Memory = dict[str, Any]
Verdict = tuple[Memory, bool, bool]


class Stopping(ABC):
    """A rule. Its memory is plain data, for checkpoints."""

    restore_best = False

    def __post_init__(self) -> None:
        """Bring the settings into their one form."""
        settle(self)

    @abstractmethod
    def observe(self, memory: Memory, metrics: dict[str, Any], move: Tensors, model: Tensors) -> Verdict:
        """Look at one step.

        Args:
            memory: what the rule returned last; empty at first.
            metrics: aggregated scores of the model before the step.

        Returns:
            New memory, whether `model` is the best so far, whether to stop.
        """


@dataclass(frozen=True)
class EarlyStopping(Stopping):
    """Stop when an aggregated score has not become better for some steps; the best model is kept.

    A score that does not exist is an error at once. So is, when it is time to stop, a score with a stated error (`auc`
    has `auc_error`) that is larger than 0.02 and than `min_delta`: what it cannot tell apart, it cannot judge. The
    first score that is known better than that replaces a best one that is not.

    Attributes:
        metric: name of a score of the evaluation.
        patience: how many steps in a row without improvement end the training.
        min_delta: by how much a score must be better to count.
        maximize: whether larger is better; None: for all but "loss".
        restore_best: whether training returns the best model rather than the last.
    """

    metric: str = "loss"
    patience: int = 3
    min_delta: float = 0.0
    maximize: bool | None = None
    restore_best: bool = True

    def observe(self, memory: Memory, metrics: dict[str, Any], move: Tensors, model: Tensors) -> Verdict:  # noqa: ARG002
        """Compare the score with the best so far."""
        value = metrics.get(self.metric)
        if not isinstance(value, int | float):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"early stopping: expected a score {self.metric!r}, evaluation gives {', '.join(metrics) or 'none'}",
                "train(..., evaluation=BinaryScores(), evaluate=...) makes loss, auc and others",
            )
        if math.isnan(value):
            raise InputError(
                Reason.NON_FINITE,
                f"early stopping: expected a score {self.metric!r}, got none: over all sites it is NaN",
                "an AUC needs patients of both outcomes, a loss needs probabilities from `evaluate` at every site; or "
                f"stop on another of {', '.join(metrics)}",
            )
        error = float(metrics.get(f"{self.metric}_error", 0.0))
        maximize = self.metric != "loss" if self.maximize is None else self.maximize
        gain = value if maximize else -value
        fine = max(self.min_delta, _FINE)
        if not memory or gain > memory["best"] + self.min_delta or error <= fine < memory["error"]:
            return {"best": gain, "error": error, "waited": 0}, True, False
        waited, error = memory["waited"] + 1, max(error, memory["error"])
        if waited >= self.patience and error > fine:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"early stopping: expected a score {self.metric!r} that is known to {fine:g}, it is known to "
                f"{error:.2g} only: too many scores of both outcomes are in one bin",
                f"take more bins (BinaryScores(bins=...)), EarlyStopping(min_delta={error:.1g}), or stop on the loss",
            )
        return memory | {"waited": waited, "error": error}, False, waited >= self.patience


@dataclass(frozen=True)
class Converged(Stopping):
    """Stop when the mean update has been small beside the model for some steps in a row. Needs no evaluation.

    Attributes:
        tolerance: a step is small when the norm of its mean update over that of the model is below.
        patience: how many small steps in a row end the training.
    """

    tolerance: float = 2e-3
    patience: int = 2

    def observe(self, memory: Memory, metrics: dict[str, Any], move: Tensors, model: Tensors) -> Verdict:  # noqa: ARG002
        """Compare norms, correctly rounded so that all machines agree."""
        small = _squared(move) < self.tolerance * self.tolerance * _squared(model)
        count = memory.get("small", 0) + 1 if small else 0
        return {"small": count}, False, count >= self.patience


def _squared(tensors: Tensors) -> float:
    flat = np.concatenate([array.astype(np.float64).reshape(-1) for array in tensors.values()])
    return math.fsum((flat * flat).tolist())
