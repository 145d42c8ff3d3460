"""The training loop of a site. Kill it at any time; the same call with the same checkpoint goes on where it was.

One step::

    global model ──load──> local model ──fit──> local model
          │                                          │ minus global model = update
          │        evaluate: counts                  ▼
          │              └────────────> payload: update, counts, hash of the global model
          │                                          │ checkpoint, then encrypt and upload
          ▼                                          ▼
    strategy.step(global model, mean) <── mean of all sites, the same bits everywhere
          │ checkpoint
          ▼
    new global model

A site that was not invited to some rounds, was too late, or was down, fetches the means it missed (as long as the
aggregator keeps them) and applies them like everybody else.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk.adapters import Adapter, adapter_for
from client_sdk.adapters.base import same_layout
from client_sdk.compression.base import Compression, Grid, Tensors
from client_sdk.federated import Federated, FederatedRound
from client_sdk.training.agreement import SIGNS, check_agreement, model_hash, signs_of
from client_sdk.training.checkpoint import Pending, State, load_state, save_state
from client_sdk.training.evaluation import Evaluation, encode_counts, summed_counts
from client_sdk.training.recipe import Recipe
from client_sdk.training.stopping import Stopping
from client_sdk.training.strategies import FedAvg
from client_sdk.training.task import Report, Result, Task
from he_agg.errors import InputError, PlanError, ProtocolError, Reason
from he_agg.plan.fixedpoint import Mean, OnOverflow, Rounding

__all__ = ["train"]

Fit = Callable[[Any, Task], Any]
Hook = Callable[[Report], None]

_LAST_ATTEMPT = 1000


def train(
    site: Federated,
    model: Any,
    fit: Fit,
    *,
    strategy: FedAvg | None = None,
    evaluate: Callable[[Any], Any] | None = None,
    evaluation: Evaluation | None = None,
    stopping: Stopping | None = None,
    compression: Compression | None = None,
    adapter: Adapter[Any] | None = None,
    transform: Callable[[Tensors, Task], Tensors] | None = None,
    rounds: int | None = None,
    checkpoint: str | Path | None = None,
    rounding: Rounding = "nearest",
    on_overflow: OnOverflow = "error",
    hooks: Iterable[Hook] = (),
) -> Result:
    """Train a model together with the other sites, until a rule, a number of rounds or the federation ends it.

    Args:
        site: an open site, or one of `simulate`; its plan must be made by `training_plan` with the same recipe.
        model: the model to train; all sites start from the same values.
        fit: `fit(model, task)` trains in place and returns the number of samples, which is the update's weight; it may
            return `(model, n)` where models are not changed in place. Make its optimizer inside.
        strategy: what the sites make of the mean; `FedAvg()` if None.
        evaluate: `evaluate(model)` gives what `evaluation` counts; called before `fit` in every step.
        evaluation: `BinaryScores()`, `ClassCounts(n)` or `MeanLoss()`.
        stopping: a rule that ends training at all sites at once.
        compression: what is done to updates before encryption.
        adapter: how to read and write the model; found by its type if None.
        transform: `transform(update, task)` changes the update before it is compressed: clipping, noise.
        rounds: end after so many rounds of the federation.
        checkpoint: a file to keep everything in, for restarts; nothing is kept if None.
        rounding: "nearest", or "stochastic"; compressions round by themselves.
        on_overflow: what entries of an update beyond the clip bound get: an "error", or "clip".

    Raises:
        InputError: the model, its update or its scores cannot be averaged: the message names what, the hint what to do.
        PlanError: the federation's plan is not for this model and recipe.
        ProtocolError: sites hold different models, or the aggregator refused.
        ConfigError: the checkpoint is damaged or of something else.
        TransportError: the aggregator was away for too long.
    """
    if (evaluate is None) != (evaluation is None):
        raise InputError(
            Reason.BAD_ARGUMENT,
            "evaluate and evaluation: expected both or none, got one",
            "evaluate=lambda model: (y, probabilities), evaluation=BinaryScores()",
        )
    recipe = Recipe(strategy or FedAvg(), evaluation, compression or Compression())
    trainer = _Trainer(site, model, adapter or adapter_for(model), recipe, checkpoint)
    trainer.fit, trainer.evaluate, trainer.stopping, trainer.transform = fit, evaluate, stopping, transform
    trainer.limit, trainer.hooks = rounds, tuple(hooks)
    trainer.rounding, trainer.on_overflow = rounding, on_overflow
    return trainer.run()


class _Trainer:
    fit: Fit
    evaluate: Callable[[Any], Any] | None
    stopping: Stopping | None
    transform: Callable[[Tensors, Task], Tensors] | None
    limit: int | None
    hooks: tuple[Hook, ...]
    rounding: Rounding
    on_overflow: OnOverflow

    def __init__(
        self, site: Federated, model: Any, adapter: Adapter[Any], recipe: Recipe, checkpoint: str | Path | None
    ) -> None:
        self.site, self.model, self.adapter, self.recipe = site, model, adapter, recipe
        self.path = None if checkpoint is None else Path(checkpoint)
        self.plan = site.plan
        tensors = adapter.tensors(model)
        _finite(tensors, "the model to start from", "load weights that a training has not spoiled")
        self._check_plan(tensors)
        self.plain = adapter.statistics(model)
        self.identity = {
            "site": site.name, "federation": site.federation, "plan": self.plan.plan_id, "recipe": recipe.describe()
        }  # fmt: skip
        loaded = None if self.path is None else load_state(self.path, self.identity)
        if loaded is None:
            clip = {spec.name: spec.clip for spec in self.plan.layout.tensors}
            common, residual = recipe.compression.start(tensors, secrets.randbits(63), clip)
            loaded = State(tensors, strategy=recipe.strategy.start(tensors), common=common, residual=residual)
            loaded.local = adapter.local(model)
        same_layout(loaded.model, tensors, "the checkpoint", "the model")
        self.state = loaded

    def run(self) -> Result:
        """Run all rounds."""
        if self.state.done == "rounds" and (self.limit is None or self.state.round < self.limit):
            self.state.done = ""  # more were asked for this time
        if not self._is_over():
            if self.path is not None:
                save_state(self.path, self.state, self.identity)
            for round in self.site.rounds():
                if round.number <= self.state.round:
                    continue
                self._catch_up(round.number - 1)
                if self._is_over():
                    break
                self._take_part(round)
                if self._is_over():
                    break
            else:
                self._catch_up_to_the_end()
                if not self._is_over():
                    self.state.done = "ended"
                    self._save()
        state = self.state
        best = state.done == "early" and self.stopping is not None and self.stopping.restore_best and bool(state.best)
        tensors = state.best if best else state.model
        self.model = self.adapter.load(self.model, tensors)
        self.model = self.adapter.load_local(self.model, state.local)
        return Result(self.model, tensors, state.history, state.done, self._hash())

    def _is_over(self) -> bool:
        return bool(self.state.done)

    def _take_part(self, round: FederatedRound) -> None:
        pending = self.state.pending
        if round.submitted and (pending is None or pending.round != round.number):
            # Made before a crash, without a checkpoint or on another one: what is under way must not change.
            outcome = round.take_part()
        else:
            made = self._prepared(round)
            outcome = round.take_part(made.payload, made.weight, rounding=self.rounding, on_overflow=self.on_overflow)
        if outcome.mean is not None:
            self._apply(round.number, outcome.mean, took_part=outcome.counted)

    def _prepared(self, round: FederatedRound) -> Pending:
        """Return what this site sends in a round: what lies in the checkpoint, or something new."""
        state, compression = self.state, self.recipe.compression
        step, phase = self._step(round.number)
        pending = state.pending
        if pending is None or (pending.round != round.number and phase == 0):
            pending = self._fitted(round.number, step)
        if not pending.payload or pending.round != round.number:
            grid = Grid(self.plan, pending.weight)
            payload = dict(compression.encode(pending.target, phase, step, state.common, state.residual, grid))
            payload[SIGNS] = signs_of(self._hash())
            if self.recipe.evaluation is not None:
                counts = {n.partition("|")[2]: a for n, a in pending.local.items() if n.startswith("counts|")}
                payload |= encode_counts(self.plan, self.recipe.evaluation, counts, pending.weight)
            pending.payload, pending.round = payload, round.number
        if round.id not in pending.round_ids:
            pending.round_ids.append(round.id)
        state.pending = pending
        self._save()
        return pending

    def _fitted(self, number: int, step: int) -> Pending:
        """Train from the global model."""
        state, adapter = self.state, self.adapter
        self.model = adapter.load_local(adapter.load(self.model, state.model), state.local)
        counts: Tensors = {}
        if self.recipe.evaluation is not None and self.evaluate is not None:
            counts = dict(self.recipe.evaluation.count(self.evaluate(self.model)))
        # Read back: a bfloat16 model starts from rounded values, and only what it learned is its update.
        start = adapter.tensors(self.model)
        text = f"{self.site.federation}|{self.site.name}|{step}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        task = Task(self.site.name, step, seed, start, self.recipe.strategy)
        answer = self.fit(self.model, task)
        self.model, weight = answer if isinstance(answer, tuple) else (self.model, answer)
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
        after = adapter.tensors(self.model)
        same_layout(after, start, "the model after `fit`", "the model before")
        hint = "the loss diverged in local training: lower the learning rate, clip gradients, look for empty batches"
        _finite(after, "the model after `fit`", hint)
        update = {name: after[name] - start[name] for name in start}
        if self.transform is not None:
            update = self.transform(update, task)
        _finite(update, "the update", hint)
        local = adapter.local(self.model) | {f"counts|{name}": array for name, array in counts.items()}
        target = self.recipe.compression.target(update, state.residual)
        return Pending(number, int(weight), target=target, local=local)

    def _apply(self, number: int, mean: Mean, *, took_part: bool) -> None:
        """Move the global model by the mean of a round."""
        state, recipe = self.state, self.recipe
        step, phase = self._step(number)
        digest = self._hash()
        check_agreement(self.plan, mean, digest, number)
        metrics: dict[str, Any] = {}
        if recipe.evaluation is not None:
            metrics = recipe.evaluation.metrics(summed_counts(self.plan, mean, recipe.evaluation))
        received = {n: a for n, a in mean.tensors.items() if not n.startswith("he-agg/")}
        move, common = recipe.compression.decode(received, phase, step, state.common)
        pending = state.pending if took_part else None
        if move is not None:
            if pending is not None:
                state.residual = recipe.compression.residual(
                    pending.target, pending.payload, step, common, state.residual
                )
                state.local = {n: a for n, a in pending.local.items() if not n.startswith("counts|")}
            state.pending = None
            before = state.model
            state.model, state.strategy = recipe.strategy.step(before, move, state.strategy, self.plain)
            if self.stopping is not None:
                state.memory, best, stop = self.stopping.observe(state.memory, metrics, move, before)
                if best and self.stopping.restore_best:
                    state.best = before
                state.done = "early" if stop else state.done
        elif not took_part:
            state.pending = None  # the rest of the step would be about another sum
        state.common, state.round = common, number
        if self.limit is not None and number >= self.limit:
            state.done = state.done or "rounds"
        report = Report(number, step, mean.n_sites, mean.total_weight, metrics, digest, took_part, state.model)
        state.history.append({k: v for k, v in vars(report).items() if k != "model"})
        self._save()
        for hook in self.hooks:
            hook(report)

    def _catch_up(self, last: int) -> None:
        """Apply the means of rounds that went by without this site."""
        while self.state.round < last and not self.state.done:
            number = self.state.round + 1
            ids = self.state.pending.round_ids if self.state.pending is not None else []
            mine = [r for r in self.site.pending() if r in ids]
            round_id, mean = self._mean_of(number)
            self._apply(number, mean, took_part=round_id in mine)

    def _mean_of(self, number: int) -> tuple[str, Mean]:
        for attempt in range(1, _LAST_ATTEMPT):
            round_id = f"{self.site.federation}.{number}.{attempt}"
            try:
                return round_id, self.site.fetch(round_id)
            except ProtocolError as error:
                if error.reason == Reason.SUM_GONE:
                    raise ProtocolError(
                        error.reason,
                        f"round {number}: this site has missed it, and the aggregator keeps its sum no longer",
                        "start from the model of another site's checkpoint; have the operator keep more sums "
                        "(the option --keep-sums of `he-agg federation create`)",
                    ) from error
                if error.reason != Reason.ROUND_FAILED:
                    raise
        raise ProtocolError(Reason.ROUND_FAILED, f"round {number} failed {_LAST_ATTEMPT} times")

    def _catch_up_to_the_end(self) -> None:
        published = self.site.status().last_published
        if published is not None:
            self._catch_up(int(published.split(".")[1]))

    def _check_plan(self, tensors: Tensors) -> None:
        """See that the plan is for this model and recipe."""
        mine = {spec.name: spec for spec in self.plan.layout.tensors}
        full = self.recipe.layout(tensors, 1.0, self.plan.layout.weight_cap, self.plan.public.value_bits)
        hint = "make the plan with training_plan(...) and the same model, evaluation and compression as train(...)"
        for spec in full.tensors:
            got = mine.pop(spec.name, None)
            if got is None or (got.shape, got.dtype) != (spec.shape, spec.dtype):
                seen = "none" if got is None else f"{got.dtype} {got.shape}"
                raise PlanError(
                    Reason.LAYOUT_MISMATCH,
                    f"tensor {spec.name!r}: expected {spec.dtype} {spec.shape} for this model and recipe, "
                    f"the federation's plan has {seen}",
                    hint,
                )
            if spec.name.startswith("he-agg/") and got.clip != spec.clip:
                raise PlanError(Reason.LAYOUT_MISMATCH, f"tensor {spec.name!r}: another clip bound", hint)
        if mine:
            raise PlanError(
                Reason.LAYOUT_MISMATCH,
                f"tensor {next(iter(mine))!r}: the federation's plan has it, this model and recipe have not",
                hint,
            )

    def _hash(self) -> str:
        state = self.state
        tensors = {f"model|{n}": a for n, a in state.model.items()}
        tensors |= {f"strategy|{n}": a for n, a in state.strategy.items()}
        tensors |= {f"common|{n}": a for n, a in state.common.items()}
        return model_hash(tensors, self.recipe.describe(), str(state.round))

    def _step(self, number: int) -> tuple[int, int]:
        step, phase = divmod(number - 1, self.recipe.compression.phases)
        return step + 1, phase

    def _save(self) -> None:
        if self.path is not None:
            save_state(self.path, self.state, self.identity)


def _finite(tensors: Tensors, what: str, hint: str) -> None:
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise InputError(Reason.NON_FINITE, f"tensor {name!r}: {what} holds NaN or infinity", hint)
