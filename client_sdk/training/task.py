"""Tell a site's `fit` about the step that it trains for, and hooks about a finished round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from client_sdk.compression.base import Tensors
from client_sdk.training.strategies import FedAvg, FedProx
from he_agg.plan.rounded import Rounded

__all__ = ["Report", "Result", "Task"]


@dataclass
class Task:
    """One step of local training.

    Attributes:
        site: name of the site.
        step: which step, from 1.
        seed: the same again after a restart, another for each step and site: seed shuffling and dropout with it.
        start: the round's global model, as this site holds it.
        strategy: of the federation.
    """

    site: str
    step: int
    seed: int
    start: Tensors = field(repr=False)
    strategy: FedAvg
    proximal_used: bool = field(default=False, repr=False)

    @property
    def mu(self) -> float:
        """Strength of FedProx; 0 for other strategies."""
        return self.strategy.mu if isinstance(self.strategy, FedProx) else 0.0

    def proximal(self, model: Any) -> Any:
        """Return FedProx's term to add to the loss of every batch: a differentiable scalar, zero if not FedProx."""
        self.proximal_used = True
        from client_sdk.training.proximal import proximal_term

        return proximal_term(model, self.start, self.mu)

    def proximal_gradient(self, tensors: Mapping[str, Any]) -> Tensors:
        """Return FedProx's term to add to the gradient: `mu * (w - w_global)` for each tensor."""
        self.proximal_used = True
        return {name: self.mu * (np.asarray(array) - self.start[name]) for name, array in tensors.items()}


@dataclass(frozen=True)
class Report:
    """One finished round.

    Attributes:
        round: its number.
        step: the training step it belongs to.
        n_sites: how many sites were in it.
        total_weight: their weights together.
        metrics: aggregated scores of the global model before this step; empty without evaluation.
        model_hash: of that model.
        took_part: whether this site's update is in it.
        model: the shared tensors after the round; do not change them.
        rounded: what rounding did to this site's update, by tensor: this site's alone, empty if it did not take part.
    """

    round: int
    step: int
    n_sites: int
    total_weight: int
    metrics: Mapping[str, Any]
    model_hash: str
    took_part: bool
    model: Tensors = field(repr=False)
    rounded: tuple[Rounded, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        scores = {name: value for name, value in self.metrics.items() if isinstance(value, int | float)}
        told = "".join(f", {name} {value:.4g}" for name, value in scores.items())
        return f"round {self.round}: {self.n_sites} sites, weight {self.total_weight}{told}"


@dataclass(frozen=True)
class Result:
    """A finished training.

    Attributes:
        model: the trained model.
        tensors: its shared tensors.
        history: one dict per round: round, step, n_sites, total_weight, metrics, model_hash, took_part.
        stopped: "rounds" (as many as asked for), "early" (the stopping rule), or "ended" (the federation).
        model_hash: of the last global model.
        notes: what people should know of this run, a sentence each: pauses, long waits, rounds that this site was not
            invited to, missed or was left out of, a federation that ended early, and tensors that rounding took much
            from.
    """

    model: Any = field(repr=False)
    tensors: Tensors = field(repr=False)
    history: list[dict[str, Any]] = field(repr=False)
    stopped: str
    model_hash: str
    notes: tuple[str, ...] = ()
