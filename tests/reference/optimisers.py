"""Optimisers on awkward updates against torch's own, and against the papers' formulas in longer numbers.

A training runs at two to four sites that are late, away, killed in the middle, without samples; then every number is
followed by itself: each site's integers and the mean in fractions, the move of each step by torch and by a formula.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk.training import FedAdam, FedAvg, FedAvgM, FedProx, Report, train, training_plan
from he_agg.errors import HeAggError, Reason
from tests.reference.grids import EPS, check_mean, on_the_grid
from tests.reference.hospitals import refused
from tests.reference.trainings import Fate, trained

try:
    import torch
except ImportError:  # then the formulas alone
    torch = None  # type: ignore[assignment]


def models(rng, scale):
    """A model: names, dtypes and shapes; some of it zero, constant, far away; statistics among it."""
    dtypes = ["float32", "float64", "float16"]
    model = {}
    for name in ("w", "b", "deep", "bn/running_mean", "bn/running_var")[: int(rng.integers(1, 6))]:
        dtype = dtypes[int(rng.choice(3, p=[0.5, 0.35, 0.15]))]
        shape = [(), (0,), (3,), (2, 2), (1,)][int(rng.integers(0, 5))]
        kind = rng.integers(0, 4)
        near, far = rng.normal(0, scale, shape), rng.normal(0, 100 * scale, shape)
        values = [np.zeros(shape), np.full(shape, scale), near, far]
        chosen = np.asarray(values[int(kind)]).clip(-6e4, 6e4)
        model[name] = np.asarray(abs(chosen) if name.endswith("var") else chosen).astype(dtype)
    if not any(array.size for array in model.values()):
        model["w"] = np.zeros(2, np.float32)
    return model


def updates(rng, model, clip):
    """What a site learns in a step: nothing, a constant, the bound itself, less than the grid, or plain."""
    kind, learned = rng.integers(0, 6), {}
    for name, array in model.items():
        plain = rng.uniform(-0.9, 0.9, array.shape) * clip
        values = [
            np.zeros(array.shape),
            np.full(array.shape, 0.5 * clip),
            clip * rng.choice([-1.0, 1.0], array.shape),
            plain * 1e-9,
            plain * (rng.random(array.shape) < 0.3),
            plain,
        ]
        learned[name] = np.asarray(values[int(kind)]).clip(-6e4, 6e4).astype(array.dtype)
    return learned


def fates(rng, names, weights):
    """What goes wrong; in every round somebody who has samples is in the sum."""
    told = []
    for number in range(len(weights)):
        drawn = rng.integers(0, 6, len(names))
        keeps = int(rng.choice(np.flatnonzero([w > 0 for w in weights[number]])))
        late = {n for i, n in enumerate(names) if drawn[i] == 0 and i != keeps}
        away = {n for i, n in enumerate(names) if drawn[i] == 1 and i != keeps}
        killed = {n: str(rng.choice(["before", "after"])) for n in names if n not in away and rng.random() < 0.15}
        failures = int(rng.choice([0, 0, 0, 1, 2]))
        told.append(Fate(failures, frozenset(late), frozenset(away), killed))
    return told


def strategies(rng):
    lr = float(rng.choice([1.0, 1.0, 0.1, 1e-3, 3.0]))
    kind = int(rng.integers(0, 4))
    if kind == 0:
        return FedAvg(lr)
    if kind == 1:
        return FedProx(lr, mu=float(rng.choice([0, 0.01, 1, 30])))
    if kind == 2:
        return FedAvgM(lr, momentum=float(rng.choice([0, 0.5, 0.9, 0.999])))
    betas = float(rng.choice([0, 0.9, 0.99])), float(rng.choice([0, 0.99, 0.999]))
    return FedAdam(lr, *betas, tau=float(rng.choice([0, 1e-300, 1e-8, 1e-3, 1])))


def optimisers(rng):
    names = [f"hospital-{i}" for i in range(int(rng.integers(2, 5)))]
    clip = 10.0 ** int(rng.integers(-6, 5))
    model, steps = models(rng, clip), int(rng.integers(1, 6))
    cap, bits = int(rng.choice([1, 10, 1000])), int(rng.choice([8, 16, 24]))
    weights = [rng.integers(0 if rng.random() < 0.4 else 1, cap + 1, len(names)).tolist() for _ in range(steps)]
    for own in weights:
        own[int(rng.integers(0, len(names)))] = int(rng.integers(1, cap + 1))
    learned = [[updates(rng, model, clip) for _ in names] for _ in range(steps)]
    how: Any = {"rounding": str(rng.choice(["nearest", "stochastic"]))}
    how["on_overflow"] = "error" if rng.random() < 0.3 else "clip"
    try:
        strategy = strategies(rng)
    except HeAggError as error:
        refused(error, "tau above 0" in str(error), "FedAdam with tau 0: a number that never moved has no step")
    plan = training_plan(
        "x", model, clip=clip, weight_cap=cap, max_sites=4, min_sites=2, strategy=strategy, value_bits=bits,
        rounds=steps,
    )  # fmt: skip
    after: list[list[Report]] = [[] for _ in names]

    def fit(site):
        def learns(tree, task):
            n = weights[task.step - 1][site]
            moved = {k: np.asarray(v + learned[task.step - 1][site][k]) for k, v in tree.items()}
            if isinstance(strategy, FedProx):
                pull = task.proximal_gradient(moved)
                moved = {k: np.asarray(v - pull[k] * v.dtype.type(0.1)) for k, v in moved.items()}
            return moved, n

        return learns

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def work(site, index):
            return train(
                site, {k: v.copy() for k, v in model.items()}, fit(index), strategy=strategy,
                checkpoint=Path(folder, f"{index}.npz"), hooks=[lambda report: after[index].append(report)], **how,
            )  # fmt: skip

        try:
            results, hub = trained(plan, names, fates(rng, names, weights), work)
        except HeAggError as error:
            there = [(reports[-1].model if reports else model, len(reports)) for reports in after]
            made = [learned_there(m, learned[n][i], strategy) for i, (m, n) in enumerate(there) if n < steps]
            refused(*judged(error, made, clip, how, strategy))
    for result, reports in zip(results, after, strict=True):
        assert [r.round for r in reports] == list(range(1, steps + 1)), "every mean once, at every site"
        assert result.model_hash == results[0].model_hash
        assert all(np.array_equal(result.tensors[k], results[0].tensors[k]) for k in model)
    follow(hub, model, strategy, [r.model for r in after[0]], learned, weights, how)


def judged(error, made, clip, how, strategy):
    """Judge a refusal."""
    updates = [array.astype(np.float64) for update in made for array in update.values()]
    if error.reason == Reason.BEYOND_CLIP:  # what a coarse dtype makes of a small step from a large number
        beyond = any(abs(array).max(initial=0) > clip for array in updates)
        return error, beyond and how["on_overflow"] == "error", "an update beyond the clip bound"
    if "after `fit`" in str(error):
        return error, not all(np.isfinite(array).all() for array in updates), "a number beyond the model's dtype"
    far = "float16" in str(error) or (isinstance(strategy, FedAdam) and strategy.tau < 1e-30)
    return error, far and "next step ends beyond" in str(error), "a number beyond the model's dtype"


def follow(hub, model, strategy, found, learned, weights, how):
    """Follow a training by itself."""
    plain = {name for name in model if name.startswith("bn/")}
    followers = [make(strategy, {k: v for k, v in model.items() if k not in plain}) for make in FOLLOWERS]
    start = model
    for number, new in enumerate(found, 1):
        sent = hub.sent[number]
        fate = hub.fates[number - 1]
        gone = fate.late | fate.away
        own = weights[number - 1]
        assert set(sent) == {n for i, n in enumerate(hub.names) if n not in gone and own[i] > 0}
        mean = hub.means[hub.id_of(number, fate.failures + 1)]
        assert mean.total_weight == sum(own[hub.names.index(n)] for n in sent)
        for name, values in sent.items():
            i = hub.names.index(name)
            update = learned_there(start, learned[number - 1][i], strategy)
            on_the_grid(hub.plan, values, update, own[i], at_random=how["rounding"] == "stochastic")
        check_mean(hub.plan, list(sent.values()), mean)
        wide = {k: mean.tensors[k].astype(np.float64) for k in model}
        moves = [follower({k: v for k, v in wide.items() if k not in plain}) for follower in followers]
        for name, was in start.items():
            if name in plain:
                wanted = (was.astype(np.float64) + wide[name]).astype(was.dtype)
                if name.endswith("var"):
                    wanted = np.maximum(wanted, was.dtype.type(0))
                assert np.array_equal(new[name], wanted)
                assert new[name].dtype == was.dtype
                continue
            for move in moves:
                step, off = move[name]
                target = was.astype(np.float64) + step
                half = np.spacing(np.abs(target).astype(was.dtype)).astype(np.float64) / 2
                allowed = half * (1 + 1e-9) + off + 4 * EPS * np.abs(was.astype(np.float64))
                assert (np.abs(new[name].astype(np.float64) - target) <= allowed).all(), (number, name)
                assert new[name].shape == was.shape
                assert new[name].dtype == was.dtype
        start = new


def learned_there(start, update, strategy):
    """What `fit` learns: NumPy's arithmetic in the model's own dtype."""
    got = {}
    for name, array in start.items():
        after = np.asarray(array + update[name])
        if isinstance(strategy, FedProx):
            pull = strategy.mu * (after - array)
            after = np.asarray(after - pull * array.dtype.type(0.1))
        got[name] = np.asarray(after - array)
    return got


def by_formula(strategy, model):
    """The papers' formulas in long doubles, and how far float64 may be off.

    Source: McMahan et al. 2017; Hsu et al. 2019, section 4; Reddi et al. 2021, algorithm 2.
    """
    zeros: dict[str, Any] = {k: np.zeros(v.shape, np.longdouble) for k, v in model.items()}
    kept, size, tau = dict(zeros), dict(zeros), np.longdouble(getattr(strategy, "tau", 0.0))
    squares = {k: v + tau * tau for k, v in zeros.items()}
    steps = 0

    def move(mean):
        nonlocal steps
        steps += 1
        off, moves = 8 * (steps + 1) * EPS, {}
        for k, array in mean.items():
            g = array.astype(np.longdouble)
            if isinstance(strategy, FedAdam):
                b1, b2 = np.longdouble(strategy.beta1), np.longdouble(strategy.beta2)
                kept[k], size[k] = b1 * kept[k] + (1 - b1) * g, b1 * size[k] + (1 - b1) * abs(g)
                squares[k] = b2 * squares[k] + (1 - b2) * g * g
                factor = strategy.lr / (np.sqrt(squares[k]) + tau)
            else:
                m = np.longdouble(getattr(strategy, "momentum", 0.0))
                kept[k], size[k], factor = m * kept[k] + g, m * size[k] + abs(g), np.longdouble(strategy.lr)
            moves[k] = (factor * kept[k]).astype(np.float64), (off * factor * size[k]).astype(np.float64)
        return moves

    return move


def by_torch(strategy, model):
    """torch.optim.SGD, and torch.optim.Adam with its bias correction taken back by rate and epsilon of each step."""
    there = {k: torch.zeros(v.shape, dtype=torch.float64, requires_grad=True) for k, v in model.items()}
    if not there:
        return lambda mean: {}
    size = {k: np.zeros(v.shape) for k, v in model.items()}
    if isinstance(strategy, FedAdam):
        optimizer: torch.optim.Optimizer = torch.optim.Adam(
            there.values(), lr=strategy.lr, betas=(strategy.beta1, strategy.beta2)
        )
        for tensor in there.values():
            optimizer.state[tensor] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(tensor),
                "exp_avg_sq": torch.full_like(tensor, strategy.tau * strategy.tau),
            }
    else:
        optimizer = torch.optim.SGD(there.values(), lr=strategy.lr, momentum=getattr(strategy, "momentum", 0.0))
    steps = 0

    def move(mean):
        nonlocal steps
        steps += 1
        for k, tensor in there.items():
            tensor.grad = -torch.from_numpy(mean[k].copy()).reshape(tensor.shape)
            with torch.no_grad():
                tensor.zero_()
        factor = dict.fromkeys(there, strategy.lr)
        if isinstance(strategy, FedAdam):
            root = (1 - strategy.beta2**steps) ** 0.5
            for group in optimizer.param_groups:
                group["lr"], group["eps"] = strategy.lr * (1 - strategy.beta1**steps) / root, strategy.tau / root
        optimizer.step()
        moves = {}
        for k, tensor in there.items():
            got = tensor.detach().numpy().copy()
            fade = strategy.beta1 if isinstance(strategy, FedAdam) else getattr(strategy, "momentum", 0.0)
            size[k] = fade * size[k] + abs(mean[k]) * (1 - fade if isinstance(strategy, FedAdam) else 1)
            if isinstance(strategy, FedAdam):
                seconds = optimizer.state[tensor]["exp_avg_sq"].numpy()
                factor[k] = strategy.lr / (np.sqrt(seconds) + strategy.tau)
            moves[k] = got, 64 * (steps + 1) * EPS * factor[k] * size[k]
        return moves

    return move


FOLLOWERS = (by_formula,) if torch is None else (by_formula, by_torch)
CASES = {f.__name__: f for f in (optimisers,)}
