"""The Flower app that is measured: FedAvg, and FedAvg behind SecAgg+. Runs in Flower's Python; needs flwr and NumPy only.

A site's training is what it brings anyway: it notes when it has the mean, says so to the process of its site
(`site.py`), waits for the common instant, and answers with its update. Everything between is Flower's.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.rounds.models import WEIGHT_CAP, expected_mean, update_of, weight_of

__all__ = ["clients", "clients_secagg", "server"]

_ROUNDS = 10**6
_BUSY_S, _IDLE_S = 0.02, 0.5
_NOTHING = np.zeros(1, np.float32)
"""The model before the first round: sites have nothing to learn from, and its way down is not measured."""


class _PromptGrid(Grid):
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


server = ServerApp()


@server.main()
def _serve(grid: Grid, context: Context) -> None:
    config = context.run_config
    sites = int(config["sites"])
    if not config["as-shipped"]:
        grid = _PromptGrid(grid, Path(str(config["running"])))
    if config["secagg"]:
        nothing = ndarrays_to_parameters([_NOTHING])
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
        average.start(grid, ArrayRecord({"w": Array(_NOTHING)}), num_rounds=_ROUNDS, timeout=3600)


def _trained(context: Context, mean: Any) -> tuple[Any, int]:
    """Say that the mean is here, and wait for the next round.

    Args:
        context: Flower's.
        mean: what came.

    Returns:
        The site's update and its weight.
    """
    entered = time.monotonic()
    site, values = int(context.node_config["site"]), int(context.run_config["values"])
    sites = int(context.run_config["sites"])
    expected = expected_mean(sites, values)
    # Before the first round nothing is there to compare.
    error = float(np.abs(mean[: expected.size] - expected).max()) if mean.size == values else None
    del mean
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(context.node_config["socket"]))
        with peer.makefile("rw") as stream:
            print(json.dumps({"entered": entered, "error": error}), file=stream, flush=True)
            update = update_of(site, values)
            print(json.dumps({"ready": True}), file=stream, flush=True)
            begin = json.loads(stream.readline())["at"]
    while (left := begin - time.monotonic()) > 0:
        time.sleep(max(0.0, left - 0.002) if left > 0.003 else 0)
    return update, weight_of(site)


class _Trainer(NumPyClient):
    """SecAgg+ needs the older interface."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def fit(self, parameters: Any, config: Any) -> tuple[Any, int, Any]:
        update, weight = _trained(self._context, parameters[0])
        return [update], weight, {}


def _fedavg() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        update, weight = _trained(context, message.content["arrays"]["w"].numpy())
        content = {"arrays": ArrayRecord({"w": Array(update)}), "metrics": MetricRecord({"num-examples": weight})}
        return Message(RecordDict(content), reply_to=message)

    return app


def _secagg_client(context: Context) -> Any:
    return _Trainer(context).to_client()


clients = _fedavg()
clients_secagg = ClientApp(client_fn=_secagg_client, mods=[secaggplus_mod])
