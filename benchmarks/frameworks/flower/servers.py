"""The ServerApp: Flower's FedAvg as it is, behind SecAgg+, or over our ciphertexts. Runs in Flower's Python.

It writes down when each round begins and ends, and saves the model, if it has one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.frameworks.task import SITES, WEIGHT_CAP, Weights, initial
from benchmarks.rounds.flower.servers import PromptGrid

__all__ = ["app"]

Note = Callable[[str], None]

app = ServerApp()


@app.main()
def _serve(grid: Grid, context: Context) -> None:
    config = context.run_config
    out, rounds = Path(str(config["out"])), int(config["rounds"])
    weights = initial(int(config["width"]), int(config["seed"]))
    prompt = PromptGrid(grid, out)

    def note(event: str) -> None:
        with (out / "clock.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, "time": time.time()}) + "\n")

    if config["scheme"] == "secaggplus":
        trained = _masked(prompt, context, weights, rounds, note)
    elif config["scheme"] == "he-agg":
        trained = _encrypted(prompt, Path(str(config["federation"])), weights, rounds, note)
    else:
        trained = _plain(prompt, weights, rounds, note)
    note("over")
    if trained:
        np.savez(out / "server.npz", **trained)  # type: ignore[arg-type]


def _timed(strategy: Any, begin: str, end: str, note: Note) -> Any:
    """Note when a strategy is asked for a round's messages, and when it has added the replies."""
    first, last = getattr(strategy, begin), getattr(strategy, end)

    def beginning(*arguments: Any, **options: Any) -> Any:
        note("start")
        return first(*arguments, **options)

    def ending(*arguments: Any, **options: Any) -> Any:
        found = last(*arguments, **options)
        note("end")
        return found

    setattr(strategy, begin, beginning)
    setattr(strategy, end, ending)
    return strategy


def _plain(grid: Grid, weights: Weights, rounds: int, note: Note) -> Weights:
    average = FedAvg(fraction_evaluate=0.0, min_train_nodes=len(SITES), min_available_nodes=len(SITES))
    result = _timed(average, "configure_train", "aggregate_train", note).start(grid, _record(weights), rounds)
    return {name: array.numpy() for name, array in result.arrays.items()}


def _encrypted(grid: Grid, federation: Path, weights: Weights, rounds: int, note: Note) -> Weights:
    from client_sdk.flower import EncryptedFedAvg

    class LastOnly(EncryptedFedAvg):
        """No evaluation but the last, which brings the last sum: as the others, it only trains."""

        def configure_evaluate(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
            return super().configure_evaluate(server_round, arrays, config, grid) if server_round == rounds else []

    average = LastOnly(federation, min_nodes=len(SITES))
    _timed(average, "configure_train", "aggregate_train", note).start(grid, _record(weights), rounds)
    return {}


def _masked(grid: Grid, context: Context, weights: Weights, rounds: int, note: Note) -> Weights:
    trained: Weights = {}

    def keep(number: int, arrays: Any, config: Any) -> None:  # noqa: ARG001 - Flower names them
        trained.update(zip(weights, arrays, strict=True))

    average = LegacyFedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=len(SITES),
        min_available_clients=len(SITES),
        initial_parameters=ndarrays_to_parameters(list(weights.values())),
        on_fit_config_fn=lambda number: {"number": number - 1},
        evaluate_fn=keep,
    )
    _timed(average, "configure_fit", "aggregate_fit", note)
    # No hospital has more patients than that; everything else is what Flower proposes. All hospitals hold shares.
    secagg = SecAggPlusWorkflow(1.0, 0.5, max_weight=float(WEIGHT_CAP))
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=rounds), strategy=average)
    DefaultWorkflow(fit_workflow=secagg)(grid, legacy)
    return trained


def _record(weights: Weights) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in weights.items()})
