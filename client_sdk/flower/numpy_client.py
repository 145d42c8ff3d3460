"""Flower's `NumPyClient` objects on our aggregator: the same client code, no Flower server. Does not import Flower."""

from __future__ import annotations

from typing import Any

import numpy as np

from client_sdk.adapters import PytreeAdapter
from client_sdk.adapters.base import Patterns
from client_sdk.federated import Federated
from client_sdk.training import MeanLoss, Result, Task, train
from he_agg.errors import InputError, Reason

__all__ = ["run_numpy_client"]


def run_numpy_client(
    site: Federated,
    client: Any,
    *,
    initial: list[Any] | None = None,
    evaluate: bool = False,
    config: dict[str, Any] | None = None,
    statistics: Patterns | None = None,
    variances: Patterns = (),
    **options: Any,
) -> Result:
    """Take part in a federation with a client written for Flower.

    The plan is `training_plan(name, client.get_parameters({}), ...)`, with `evaluation=MeanLoss()` if `evaluate`.

    Args:
        site: an open site, or one of `training.simulate`.
        client: has `fit(parameters, config)`, and `get_parameters(config)` unless `initial` is given.
        initial: the weights that all sites start from.
        evaluate: whether `client.evaluate` is asked for its loss in every round.
        config: handed to the client, with `server_round` and `seed` added.
        statistics: which weights are statistics (BatchNorm's running mean and variance), by their places: ["3", "4"].
            A server-side optimizer must know; `[]` says that there are none.
        variances: which of them are never negative: ["4"].
        options: as for `train`: strategy, checkpoint, stopping, hooks and others.

    Returns:
        The training's result; `result.model` is the list of weights.

    Raises:
        InputError: the client does not answer as a NumPyClient does.
        HeAggError: as for `train`.
    """
    base = dict(config or {})
    if initial is None:
        if not hasattr(client, "get_parameters"):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"{type(client).__name__}: expected get_parameters, or the weights to start from",
                "run_numpy_client(site, client, initial=[...])",
            )
        initial = client.get_parameters(dict(base))

    def fit(model: list[Any], task: Task) -> tuple[list[Any], int]:
        answer = client.fit(model, base | {"server_round": task.step, "seed": task.seed})
        if not isinstance(answer, tuple) or len(answer) != 3 or not _is_count(answer[1]):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"{type(client).__name__}.fit: expected (parameters, num_examples, metrics), got another answer",
                "see flwr.client.NumPyClient.fit",
            )
        return list(answer[0]), int(answer[1])

    def loss(model: list[Any]) -> tuple[float, int]:
        value, n, _ = client.evaluate(model, dict(base))
        return float(value), int(n)

    if evaluate:
        options |= {"evaluation": MeanLoss(), "evaluate": loss}
    model = [np.asarray(array) for array in initial]
    adapter = PytreeAdapter(statistics=statistics, variances=variances)
    return train(site, model, fit, adapter=adapter, **options)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
