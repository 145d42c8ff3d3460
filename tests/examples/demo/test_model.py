"""The network against finite differences, the score against another implementation, and repeatability."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from examples.demo.model import Params, auc, fit_local, init_params, loss_and_gradient, predict, subtract


def patients(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, 8)).astype(np.float32)
    died = (features[:, 0] + 0.5 * rng.standard_normal(n) > 0).astype(np.float32)
    return features, died


def test_it_has_the_size_that_the_documentation_says():
    params = init_params(8, seed=0)
    assert sum(tensor.size for tensor in params.values()) == 9473
    assert all(tensor.dtype == np.float32 for tensor in params.values())


@pytest.mark.parametrize("seed", range(3))
def test_gradient_agrees_with_finite_differences_in_every_tensor(seed):
    features, died = patients(seed)
    rng = np.random.default_rng(seed)
    params: Params = {name: tensor.astype(np.float64) for name, tensor in init_params(8, seed).items()}
    for name in params:  # biases away from zero, so that every term counts
        params[name] += 0.1 * rng.standard_normal(params[name].shape)
    _, gradient = loss_and_gradient(params, features, died)
    step = 1e-6
    for name, tensor in params.items():
        for flat in rng.choice(tensor.size, min(tensor.size, 12), replace=False):
            index = np.unravel_index(flat, tensor.shape)
            losses = []
            for sign in (1, -1):
                moved = {**params, name: tensor.copy()}
                moved[name][index] += sign * step
                losses.append(loss_and_gradient(moved, features, died)[0])
            numeric = (losses[0] - losses[1]) / (2 * step)
            # The weight decay and 1/n are float32 constants: seven digits, not sixteen.
            assert gradient[name][index] == pytest.approx(numeric, rel=1e-5, abs=2e-8), (name, index)


def test_training_lowers_the_loss_and_leaves_the_start_alone():
    features, died = patients(1, 200)
    start = init_params(8, seed=1)
    before = {name: tensor.copy() for name, tensor in start.items()}
    trained = fit_local(start, features, died, epochs=5, lr=0.02, seed=1)
    assert all(np.array_equal(start[name], before[name]) for name in start)
    assert all(tensor.dtype == np.float32 for tensor in trained.values())
    assert loss_and_gradient(trained, features, died)[0] < 0.7 * loss_and_gradient(start, features, died)[0]
    assert auc(died, predict(trained, features)) > auc(died, predict(start, features)) + 0.2


def test_one_step_without_history_is_plain_gradient_descent():
    features, died = patients(2, 20)  # one batch
    start = init_params(8, seed=2)
    order = np.random.default_rng(5).permutation(20)
    _, gradient = loss_and_gradient(start, features[order], died[order])
    trained = fit_local(start, features, died, epochs=1, lr=0.1, seed=5)
    for name in start:
        assert np.array_equal(trained[name], start[name] - np.float32(0.1) * gradient[name])


def test_the_same_seed_gives_the_same_bits_in_another_process_and_with_other_threads():
    script = (
        "import hashlib; import numpy as np; from examples.demo.model import *; "
        "r = np.random.default_rng(3); x = r.standard_normal((100, 8)).astype('f4'); y = (x[:, 0] > 0).astype('f4'); "
        "p = fit_local(init_params(8, 3), x, y, 2, 0.02, [3, 1]); "
        "print(hashlib.sha256(b''.join(t.tobytes() for t in p.values())).hexdigest())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for threads in ("1", "2")
    }
    rng = np.random.default_rng(3)
    features = rng.standard_normal((100, 8)).astype(np.float32)
    here = fit_local(init_params(8, 3), features, (features[:, 0] > 0).astype(np.float32), 2, 0.02, [3, 1])
    assert printed == {hashlib.sha256(b"".join(t.tobytes() for t in here.values())).hexdigest()}


def test_another_seed_gives_another_order():
    features, died = patients(4, 100)
    start = init_params(8, seed=4)
    one, two = (fit_local(start, features, died, 1, 0.02, seed) for seed in (1, 2))
    assert not np.array_equal(one["layer1.weight"], two["layer1.weight"])


def test_extreme_logits_neither_warn_nor_leave_zero_to_one():
    params = init_params(8, seed=0)
    params["layer3.bias"][:] = 5000
    features, died = patients(0)
    assert (predict(params, features) == 1).all()
    params["layer3.bias"][:] = -5000
    assert (predict(params, features) == 0).all()
    assert np.isfinite(loss_and_gradient(params, features, died)[0])


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_auc_agrees_with_another_implementation_ties_included(levels):
    rng = np.random.default_rng(levels)
    died = (rng.random(500) < 0.2).astype(np.float32)
    risk = (rng.integers(levels, size=500) / levels + 0.1 * died).astype(np.float32)
    assert auc(died, risk) == pytest.approx(roc_auc_score(died, risk), abs=1e-12)


def test_auc_of_one_outcome_is_an_error():
    with pytest.raises(ValueError, match="got 3 dead and 0 living"):
        auc(np.ones(3, np.float32), np.arange(3, dtype=np.float32))


def test_an_update_is_what_training_changed():
    before, after = {"a": np.array([1, 2], np.float32)}, {"a": np.array([1.5, 1], np.float32)}
    assert subtract(after, before)["a"].tolist() == [0.5, -1.0]
