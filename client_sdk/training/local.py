"""Do what a site does by itself in a step: bring its model up to date, score it, train it, and see what it learned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from client_sdk.adapters import Adapter
from client_sdk.adapters.base import same_layout
from client_sdk.compression.base import Tensors
from client_sdk.training.evaluation import Counts, Evaluation
from client_sdk.training.strategies import FedAvg
from client_sdk.training.task import Task
from he_agg.errors import InputError, Reason

__all__ = ["Evaluate", "Fit", "Learner", "Transform", "check_finite"]

Fit = Callable[[Any, Task], Any]
Evaluate = Callable[[Any], Any]
Transform = Callable[[Tensors, Task], Tensors]

_DIVERGED = "the loss diverged in local training: lower the learning rate, clip gradients, look for empty batches"


@dataclass(frozen=True)
class Learned:
    """What came of a site's training in one step."""

    update: Tensors
    weight: int
    local: Tensors
    counts: Counts


@dataclass
class Learner:
    """The model of one site, and how it is trained."""

    site: str
    federation: str
    model: Any
    adapter: Adapter[Any]
    strategy: FedAvg
    fit: Fit
    evaluate: Evaluate | None
    evaluation: Evaluation | None
    transform: Transform | None

    def load(self, tensors: Tensors, local: Tensors) -> Any:
        """Set the model to shared tensors and local state."""
        self.model = self.adapter.load_local(self.adapter.load(self.model, tensors), local)
        return self.model

    def learn(self, tensors: Tensors, local: Tensors, step: int) -> Learned:
        """Train from the global model. Where `fit` had no samples there is no update, whatever the model is now."""
        self.load(tensors, local)
        counts: Counts = {}
        if self.evaluation is not None and self.evaluate is not None:
            counts = self.evaluation.count(self.evaluate(self.model))
        # Read back: a bfloat16 model starts from rounded values, and only what it learned is its update.
        start = self.adapter.tensors(self.model)
        text = f"{self.federation}|{self.site}|{step}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        task = Task(self.site, step, seed, start, self.strategy)
        answer = self.fit(self.model, task)
        self.model, weight = answer if isinstance(answer, tuple) and len(answer) == 2 else (self.model, answer)
        if task.mu and not task.proximal_used:
            raise InputError(
                Reason.BAD_ARGUMENT,
                "FedProx: expected `fit` to use the proximal term, it never asked for it",
                "add task.proximal(model) to the loss, or task.proximal_gradient(tensors) to the gradient",
            )
        if isinstance(weight, bool) or not isinstance(weight, int | np.integer):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"fit: expected the number of samples, or (model, number); got {type(weight).__name__}",
                "end `fit` with `return len(dataset)`",
            )
        if weight == 0:
            return Learned({}, 0, local, counts)
        update = self._update(start, task)
        return Learned(update, int(weight), self.adapter.local(self.model), counts)

    def _update(self, start: Tensors, task: Task) -> Tensors:
        after = self.adapter.tensors(self.model)
        same_layout(after, start, "the model after `fit`", "the model before")
        check_finite(after, "the model after `fit`", _DIVERGED)
        update = {name: after[name] - start[name] for name in start}
        if self.transform is not None:
            update = self.transform(update, task)
            if not isinstance(update, Mapping):
                raise InputError(
                    Reason.BAD_ARGUMENT,
                    f"transform: expected the update by name, got {type(update).__name__}",
                    "end `transform` with `return update`",
                )
        check_finite(update, "the update", _DIVERGED)
        return update


def check_finite(tensors: Tensors, what: str, hint: str) -> None:
    """Refuse NaN and infinity."""
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise InputError(Reason.NON_FINITE, f"tensor {name!r}: {what} holds NaN or infinity", hint)
