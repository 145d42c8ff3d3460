"""A small problem in plain NumPy that tests train on: logistic regression, deterministic to the bit."""

import numpy as np

from client_sdk.training import training_plan

SITES = 3
FEATURES = 5


def data(site: int):
    rng = np.random.default_rng([7, site])
    n = 60 + 25 * site
    X = rng.standard_normal((n, FEATURES)) + 0.3 * site
    p = 1 / (1 + np.exp(-(X @ np.array([1.0, -1.0, 0.5, 0.0, 0.25]) + 0.2)))
    return X, (rng.random(n) < p).astype(np.float64)


def model(dtype=np.float32):
    return {"w": np.zeros(FEATURES, dtype), "b": np.zeros((), dtype), "steps": 0}


def plan_for(name, **options):
    fields = {"clip": 1.0, "weight_cap": 256, "max_sites": 5, "min_sites": 3, "rounds": 20, "deadline_s": 120}
    return training_plan(name, model(), **(fields | options))


def predict(params, X):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-(X @ params["w"].astype(np.float64) + float(params["b"]))))


def fit_for(site: int, lr=0.1, after=None):
    """A `fit` in the way of `train`: some steps of gradient descent, on a random half of the rows each."""
    X, y = data(site)

    def fit(params, task):
        rng = np.random.default_rng(task.seed)
        w, b = params["w"].astype(np.float64), float(params["b"])
        for _ in range(4):
            rows = rng.permutation(len(y))[: len(y) // 2]
            error = predict({"w": w, "b": b}, X[rows]) - y[rows]
            pull = task.proximal_gradient({"w": w, "b": np.array(b)}) if task.mu else {"w": 0.0, "b": 0.0}
            w, b = w - lr * (X[rows].T @ error / len(rows) + pull["w"]), b - lr * (error.mean() + float(pull["b"]))
        if after is not None:
            after(task)
        dtype = params["w"].dtype
        return {"w": w.astype(dtype), "b": np.array(b, dtype), "steps": params["steps"] + 1}, len(y)

    return fit


def evaluate_for(site: int):
    X, y = data(site)
    return lambda params: (y, predict(params, X))
