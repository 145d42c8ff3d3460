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
aggregator keeps them) and applies them like everybody else. One that cannot open them, because it joined later, begins
with what another site hands over.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from client_sdk.adapters import Adapter, adapter_for
from client_sdk.adapters.base import same_layout
from client_sdk.compression.base import Compression
from client_sdk.federated import Federated, FederatedRound, ToIntegers, fetch_missed
from client_sdk.training.checkpoint import Checkpoint, State
from client_sdk.training.evaluation import Evaluation
from client_sdk.training.local import Evaluate, Fit, Learner, Transform, check_finite
from client_sdk.training.recipe import Recipe
from client_sdk.training.step import Training
from client_sdk.training.stopping import Stopping
from client_sdk.training.strategies import FedAvg
from client_sdk.training.task import Report, Result
from he_agg.errors import InputError, Reason
from he_agg.plan.fixedpoint import Mean, OnOverflow, Rounding
from he_agg.plan.rounded import Rounded, as_text, coarse

__all__ = ["train"]

Hook = Callable[[Report], None]

_TAKE_OVER = (
    "ask a site that has trained through it, a coordinator's for example, for what "
    '`client_sdk.training.hand_over("training.npz", "for-you.npz")` writes there, and give that file as `checkpoint`'
)


def train(
    site: Federated,
    model: Any,
    fit: Fit,
    *,
    strategy: FedAvg | None = None,
    evaluate: Evaluate | None = None,
    evaluation: Evaluation | None = None,
    stopping: Stopping | None = None,
    compression: Compression | None = None,
    adapter: Adapter[Any] | None = None,
    transform: Transform | None = None,
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
        checkpoint: a file to keep everything in, for restarts, or one that another site's `hand_over` wrote; nothing is
            kept if None.
        rounding: "nearest", or "stochastic"; compressions round by themselves.
        on_overflow: what entries of an update beyond the clip bound get: an "error", or "clip".

    Raises:
        InputError: the model, its update or its scores cannot be averaged: the message names what, the hint what to do.
        PlanError: the federation's plan is not for this model and recipe.
        ProtocolError: sites hold different models, or the aggregator refused.
        ConfigError: the checkpoint is damaged or of something else.
        TransportError: the aggregator was away for too long.
        KeystoreError: `NOT_MY_EPOCH`: rounds that this site missed are of an epoch that it has no key of.
    """
    if (evaluate is None) != (evaluation is None):
        raise InputError(
            Reason.BAD_ARGUMENT,
            "evaluate and evaluation: expected both or none, got one",
            "evaluate=lambda model: (y, probabilities), evaluation=BinaryScores()",
        )
    if rounds is not None and rounds < 1:
        raise InputError(
            Reason.BAD_ARGUMENT, f"rounds: expected 1 or more, got {rounds}", "leave it out for all of the plan's"
        )
    _check_takes("fit", fit, "model", "task")
    _check_takes("evaluate", evaluate, "model")
    _check_takes("transform", transform, "update", "task")
    recipe = Recipe(strategy or FedAvg(), evaluation, compression or Compression())
    learner = Learner(
        site.name,
        site.federation,
        model,
        adapter or adapter_for(model),
        recipe.strategy,
        fit,
        evaluate,
        evaluation,
        transform,
    )
    identity = {
        "site": site.name,
        "federation": site.federation,
        "plan": site.plan.plan_id,
        "recipe": recipe.describe(),
    }
    file = Checkpoint(None if checkpoint is None else Path(checkpoint), identity)
    state = _where_it_stands(site, recipe, learner, file)
    if not recipe.strategy.is_plain:
        learner.adapter.check_statistics(model)
    plain, variances = learner.adapter.statistics(model), learner.adapter.variances(model)
    training = Training(site.plan, recipe, learner, state, plain, variances, stopping, rounds)
    return _Loop(site, training, file, {"rounding": rounding, "on_overflow": on_overflow}, tuple(hooks)).run()


def _check_takes(name: str, function: Any, *arguments: str) -> None:
    """Refuse a function that cannot be called as it will be, before a round is spent on it."""
    if function is None:
        return
    try:
        signature(function).bind(*arguments)
    except (TypeError, ValueError) as error:
        if isinstance(error, ValueError):  # of something built in, which tells no signature
            return
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"{name}: expected a function of ({', '.join(arguments)}), got another: {error}",
            f"define it as `def {name}({', '.join(arguments)}):`",
        ) from error


def _where_it_stands(site: Federated, recipe: Recipe, learner: Learner, file: Checkpoint) -> State:
    """Read the checkpoint, or begin with the model as it is."""
    tensors = learner.adapter.tensors(learner.model)
    check_finite(tensors, "the model to start from", "load weights that a training has not spoiled")
    recipe.check_plan(site.plan, tensors, learner.adapter.naming)
    state = file.load()
    if state is None or state.handed_over:
        clip = {spec.name: spec.clip for spec in site.plan.layout.tensors}
        common, residual = recipe.compression.start(tensors, secrets.randbits(63), clip)
        if state is None:
            state = State(tensors, strategy=recipe.strategy.start(tensors), common=common)
        state.residual, state.local = residual, learner.adapter.local(learner.model)
    same_layout(state.model, tensors, "the checkpoint", "the model")
    return state


@dataclass
class _Loop:
    """The rounds of a training: which come, which were missed, and what is kept and told after each."""

    site: Federated
    training: Training
    file: Checkpoint
    how: ToIntegers
    hooks: tuple[Hook, ...]
    coarse: dict[str, Rounded] = field(default_factory=dict)

    def run(self) -> Result:
        training, state, told = self.training, self.training.state, len(self.site.notices)
        if state.done == "rounds" and (training.limit is None or state.round < training.limit):
            state.done = ""  # more were asked for this time
        if not state.done:
            self.file.save(state)
            self._all_rounds()
        best = state.done == "early" and training.stopping is not None and training.stopping.restore_best
        tensors = state.best if best and state.best else state.model
        model = training.learner.load(tensors, state.local)
        notes = [notice.text for notice in self.site.notices[told:]]
        if self.coarse:
            notes.append(as_text(self.coarse.values()))
        return Result(model, tensors, state.history, state.done, training.hash, tuple(notes))

    def _all_rounds(self) -> None:
        state = self.training.state
        for round in self.site.rounds():
            if round.number <= state.round:
                continue
            self._catch_up(round.number - 1)
            if not state.done:
                self._take_part(round)
            if state.done:
                return
        published = self.site.last_published()
        if published is not None:
            self._catch_up(int(published.split(".")[1]))
        if not state.done:
            state.done = "ended"  # not kept: the next run asks the federation again

    def _take_part(self, round: FederatedRound) -> None:
        if round.submitted and not self.training.has_made(round.number):
            # Made before a crash, without a checkpoint or on another one: what is under way must not change.
            outcome = round.take_part()
        else:
            made = self.training.contribution(round.number, round.id)
            self.file.save(self.training.state)
            try:
                outcome = round.take_part(made.payload, made.weight, **self.how)
            except InputError:
                # Refused before anything left: with it in the checkpoint a mended `fit` would never be called.
                self.training.state.pending = None
                self.file.save(self.training.state)
                raise
        if outcome.mean is not None:
            self._apply(round.number, outcome.mean, took_part=outcome.counted)

    def _catch_up(self, last: int) -> None:
        """Apply the means of rounds that went by without this site."""
        state = self.training.state
        while state.round < last and not state.done:
            number = state.round + 1
            round_id, mean = fetch_missed(self.site, number, _TAKE_OVER)
            mine = state.pending is not None and round_id in state.pending.round_ids
            self._apply(number, mean, took_part=mine and self.site.name in mean.sites)

    def _apply(self, number: int, mean: Mean, *, took_part: bool) -> None:
        report = self.training.apply(number, mean, took_part=took_part)
        self.file.save(self.training.state)
        for one in coarse(report.rounded):
            self.coarse.setdefault(one.tensor, one)
        self.site.say(str(report))
        for hook in self.hooks:
            hook(report)
