"""One round of training, without the network: what this site sends in it, and what all sites make of its mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from client_sdk.compression.base import Grid
from client_sdk.training.agreement import SIGNS, check_agreement, model_hash, signs_of
from client_sdk.training.checkpoint import Pending, State
from client_sdk.training.evaluation import encode_counts, summed_counts
from client_sdk.training.local import Learner
from client_sdk.training.recipe import Recipe
from client_sdk.training.stopping import Stopping
from client_sdk.training.task import Report
from he_agg.plan.fixedpoint import Mean
from he_agg.plan.plan import Plan

__all__ = ["Training"]


@dataclass
class Training:
    """Where a site's training stands, and how it moves on.

    Attributes:
        plain: tensors that move by their mean alone.
        variances: those that are never negative.
    """

    plan: Plan
    recipe: Recipe
    learner: Learner
    state: State
    plain: frozenset[str] = frozenset()
    variances: frozenset[str] = frozenset()
    stopping: Stopping | None = None
    limit: int | None = None

    @property
    def hash(self) -> str:
        """Hash of the global model, the states that belong to it and the settings: equal at all sites."""
        state = self.state
        groups = {"model": state.model, "strategy": state.strategy, "common": state.common}
        tensors = {f"{group}|{name}": array for group, arrays in groups.items() for name, array in arrays.items()}
        return model_hash(tensors, self.recipe.describe(), str(state.round))

    def has_made(self, number: int) -> bool:
        """Tell whether the update of a round is made already."""
        return self.state.pending is not None and self.state.pending.round == number

    def contribution(self, number: int, round_id: str) -> Pending:
        """Make what this site sends in a round, unless that was done before a restart or in an earlier attempt."""
        state, compression = self.state, self.recipe.compression
        step, phase = self._step(number)
        pending = state.pending
        if pending is None or (pending.round != number and phase == 0):
            learned = self.learner.learn(state.model, state.local, step)
            target = compression.target(learned.update, state.residual) if learned.weight else {}
            pending = Pending(number, learned.weight, target=target, local=learned.local, counts=learned.counts)
        if pending.weight == 0:
            pending.round = number
        elif not pending.payload or pending.round != number:
            grid = Grid(self.plan, pending.weight)
            payload = dict(compression.encode(pending.target, phase, step, state.common, state.residual, grid))
            payload[SIGNS] = signs_of(self.hash)
            if self.recipe.evaluation is not None:
                payload |= encode_counts(self.plan, self.recipe.evaluation, pending.counts, pending.weight)
            pending.payload, pending.round = payload, number
        if round_id not in pending.round_ids:
            pending.round_ids.append(round_id)
        state.pending = pending
        return pending

    def apply(self, number: int, mean: Mean, *, took_part: bool) -> Report:
        """Move the global model by the mean of a round; the same bits at every site.

        Raises:
            ProtocolError: the sites' models are not all the same; nothing was moved.
        """
        state, recipe = self.state, self.recipe
        step, phase = self._step(number)
        digest = self.hash
        check_agreement(self.plan, mean, digest, number)
        metrics: dict[str, Any] = {}
        if recipe.evaluation is not None:
            metrics = recipe.evaluation.metrics(summed_counts(self.plan, mean, recipe.evaluation))
        received = {name: array for name, array in mean.tensors.items() if not name.startswith("he-agg/")}
        move, common = recipe.compression.decode(received, phase, step, state.common)
        memory, best, stop = state.memory, False, False
        if move is not None and self.stopping is not None:  # before anything moves: a score may be refused
            memory, best, stop = self.stopping.observe(memory, metrics, move, state.model)
        if move is not None:
            before = state.model
            state.model, state.strategy = recipe.strategy.step(before, move, state.strategy, self.plain, self.variances)
            if took_part and (sent := state.pending) is not None:
                residual = recipe.compression.residual(sent.target, sent.payload, step, common, state.residual)
                state.residual, state.local = residual, sent.local
            if best and self.stopping is not None and self.stopping.restore_best:
                state.best = before
            state.memory, state.done = memory, "early" if stop else state.done
        if move is not None or not took_part:
            state.pending = None  # used up; or the rest of its step would be about another sum
        state.common, state.round = common, number
        if self.limit is not None and number >= self.limit:
            state.done = state.done or "rounds"
        rounded = tuple(one for one in mean.rounded if not one.tensor.startswith("he-agg/"))
        report = Report(number, step, mean.n_sites, mean.total_weight, metrics, digest, took_part, state.model, rounded)
        state.history.append({key: value for key, value in vars(report).items() if key not in ("model", "rounded")})
        return report

    def _step(self, number: int) -> tuple[int, int]:
        step, phase = divmod(number - 1, self.recipe.compression.phases)
        return step + 1, phase
