"""The ServerApp: Flower's FedAvg as it is, or behind SecAgg+. Runs in Flower's Python."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Message
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.rounds.flower.training import NOTHING
from benchmarks.rounds.models import WEIGHT_CAP

__all__ = ["PromptGrid", "app"]

_ROUNDS = 10**6
_BUSY_S, _IDLE_S = 0.02, 3.0


class PromptGrid(Grid):
    """Flower's grid by its public methods, but for its wait of three seconds between looks for replies.

    While no round runs it looks less often, so as not to take processor time from the scheme whose turn it is.

    Args:
        grid: Flower's.
        running: a file that is there while a round is measured.
    """

    def __init__(self, grid: Grid, running: Path) -> None:
        self._grid, self._running = grid, running

    @property
    def run(self) -> Any:
        return self._grid.run

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        return self._grid.create_message(*arguments, **options)

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        waiting = set(self._grid.push_messages(messages))
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        replies: list[Message] = []
        while waiting and time.monotonic() < end:
            found = list(self._grid.pull_messages(waiting))
            replies += found
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            if waiting and not found:
                self._pause()
        return replies

    def _pause(self) -> None:
        end = time.monotonic() + _IDLE_S
        while time.monotonic() < end:
            time.sleep(_BUSY_S)
            if self._running.exists():
                return


app = ServerApp()


@app.main()
def _serve(grid: Grid, context: Context) -> None:
    config = context.run_config
    sites = int(config["sites"])
    if not config["as-shipped"]:
        grid = PromptGrid(grid, Path(str(config["running"])))
    if config["scheme"] == "flower-secaggplus":
        nothing = ndarrays_to_parameters([NOTHING])
        strategy = LegacyFedAvg(
            fraction_evaluate=0.0,
            min_fit_clients=sites,
            min_available_clients=sites,
            initial_parameters=nothing,
        )
        legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=_ROUNDS), strategy=strategy)
        # All values are in [-1, 1), weights are at most WEIGHT_CAP; the rest is what Flower proposes.
        secagg = SecAggPlusWorkflow(1.0, 0.5, max_weight=float(WEIGHT_CAP), clipping_range=1.0)
        DefaultWorkflow(fit_workflow=secagg)(grid, legacy)
    else:
        average = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        average.start(grid, ArrayRecord({"w": Array(NOTHING)}), num_rounds=_ROUNDS, timeout=3600)
