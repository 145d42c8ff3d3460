"""Clients written for Flower, on our federation."""

import numpy as np
import pytest

from client_sdk.flower import run_numpy_client
from client_sdk.training import MeanLoss, simulate, training_plan
from he_agg.errors import InputError
from tests.support.regression import FEATURES, data, predict


class Client:
    """As in Flower's tutorials, without Flower."""

    def __init__(self, i):
        self.X, self.y = data(i)

    def get_parameters(self, config):
        return [np.zeros(FEATURES, np.float32), np.zeros((), np.float32)]

    def fit(self, parameters, config):
        w, b = (array.astype(np.float64) for array in parameters)
        for _ in range(5):
            error = predict({"w": w, "b": b}, self.X) - self.y
            w, b = w - 0.5 * self.X.T @ error / len(error), b - 0.5 * error.mean()
        return [w.astype(np.float32), np.float32(b)], len(self.y), {"round": config["server_round"]}

    def evaluate(self, parameters, config):
        p = np.clip(predict({"w": parameters[0], "b": parameters[1]}, self.X), 1e-6, 1 - 1e-6)
        loss = -(self.y * np.log(p) + (1 - self.y) * np.log(1 - p)).mean()
        return float(loss), len(self.y), {}


def test_numpy_clients_train_together():
    clients = [Client(i) for i in range(3)]
    plan = training_plan(
        "x", clients[0].get_parameters({}), clip=5.0, weight_cap=256, max_sites=3, evaluation=MeanLoss()
    )
    results = simulate(
        plan, ["a", "b", "c"], lambda site, i: run_numpy_client(site, clients[i], evaluate=True, rounds=5)
    )
    losses = [entry["metrics"]["loss"] for entry in results[0].history]
    assert losses == sorted(losses, reverse=True)
    assert abs(losses[0] - np.log(2)) < 1e-3
    assert len({result.model_hash for result in results}) == 1
    assert [array.shape for array in results[0].model] == [(FEATURES,), ()]


class Wrong:
    def fit(self, parameters, config):
        return parameters


def test_something_else_is_refused():
    plan = training_plan("x", [np.zeros(2)], clip=5.0, weight_cap=256, max_sites=3)
    with pytest.raises(InputError, match="get_parameters"):
        simulate(plan, ["a", "b"], lambda site, i: run_numpy_client(site, Wrong()))
    with pytest.raises(InputError, match="num_examples"):
        simulate(plan, ["a", "b"], lambda site, i: run_numpy_client(site, Wrong(), initial=[np.zeros(2)]))
