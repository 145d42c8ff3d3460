"""The same loop with PyTorch models, simulated; test_loop.py ties that to encrypted runs."""

import time

import numpy as np
import pytest

from client_sdk.training import FedAdam, FedAvg, FedProx, simulate, train, training_plan
from tests.support.regression import FEATURES, data

torch = pytest.importorskip("torch")

from client_sdk.adapters import TorchAdapter  # noqa: E402 - cannot be imported without torch

SITES = ["hospital-a", "hospital-b", "hospital-c"]


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(FEATURES, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 1)
        )


def fit_for(i):
    X, y = (torch.tensor(part, dtype=torch.float32) for part in data(i))

    def fit(model, task):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.train()
        for rows in torch.randperm(len(y), generator=torch.Generator().manual_seed(task.seed)).split(32):
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(X[rows])[:, 0], y[rows])
            (loss + task.proximal(model)).backward()
            optimizer.step()
        return len(y)

    return fit


def run(strategy, adapter=None, rounds=4):
    models = [network() for _ in SITES]
    adapter = adapter or TorchAdapter()
    plan = training_plan(
        "x", network(), clip={"*running_*": 20.0, "*": 2.0}, weight_cap=256, max_sites=3, adapter=adapter
    )
    return simulate(
        plan,
        SITES,
        lambda site, i: train(site, models[i], fit_for(i), strategy=strategy, adapter=adapter, rounds=rounds),
    )


def test_batchnorm_statistics_are_averaged_and_counters_are_each_sites_own():
    results = run(FedAvg())
    assert len({result.model_hash for result in results}) == 1
    counters = [int(result.model[1].num_batches_tracked) for result in results]
    assert counters == [4 * -(-len(data(i)[1]) // 32) for i in range(3)]
    assert results[0].model[1].running_mean.abs().max() > 0
    assert results[0].model[1].running_var.min() > 0


def test_adam_leaves_statistics_alone():
    """Both ran one round from the same weights: what is only averaged is the same."""
    one, other = run(FedAvg(), rounds=1)[0].tensors, run(FedAdam(), rounds=1)[0].tensors
    assert all(np.array_equal(one[name], other[name]) for name in one if "running" in name)
    assert not np.array_equal(one["0.weight"], other["0.weight"])


def test_fedbn_keeps_batchnorm_personal_while_the_rest_is_shared():
    results = run(FedAvg(), TorchAdapter(exclude="1.*"))
    states = [result.model.state_dict() for result in results]
    assert torch.equal(states[0]["0.weight"], states[1]["0.weight"])
    assert not torch.equal(states[0]["1.running_mean"], states[1]["1.running_mean"])
    assert not torch.equal(states[0]["1.weight"], states[1]["1.weight"])


def test_a_strong_proximal_term_holds_the_sites_back():
    start = TorchAdapter().tensors(network())

    def moved(mu):
        tensors = run(FedProx(mu=mu), rounds=1)[0].tensors
        return sum(float(((tensors[n] - start[n]) ** 2).sum()) for n in start if "running" not in n)

    assert moved(5.0) < 0.7 * moved(0.0)


def test_a_network_whose_loss_is_nan_says_so():
    plan = training_plan("x", network(), clip=2.0, weight_cap=256, max_sites=3)

    def fit(model, task):
        with torch.no_grad():
            model[0].weight *= float("nan")
        return 5

    with pytest.raises(ValueError, match=r"'0\.weight'.*NaN"):
        simulate(plan, SITES, lambda site, i: train(site, network(), fit, rounds=1))


def test_a_seed_that_is_set_before_a_model_is_made_is_enough():
    """Models of all sites draw from one source: in threads side by side they drew from each other's seeds."""
    plan = training_plan("seeded", torch.nn.Linear(FEATURES, 4), clip=4.0, weight_cap=1, max_sites=3, rounds=1)
    order = []

    def fit(model, task):
        order.append(task.site)
        torch.manual_seed(task.seed)
        time.sleep(0.01)  # where another thread would draw
        with torch.no_grad():
            for tensor in model.parameters():
                tensor += torch.rand(tensor.shape)
        return 1

    def work(site, i):
        torch.manual_seed(7)
        time.sleep(0.01)
        return train(site, torch.nn.Linear(FEATURES, 4), fit)

    first, second = (simulate(plan, SITES, work) for _ in range(2))
    assert {result.model_hash for result in first} == {result.model_hash for result in second}
    assert len({result.model_hash for result in first}) == 1
    assert order == [*SITES, *SITES]
