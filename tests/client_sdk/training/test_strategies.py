"""The steps that sites apply to the mean, against the published formulas in exact or plain arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

from client_sdk.training import FedAdam, FedAvg, FedAvgM, FedProx, Task
from he_agg.errors import InputError, Reason

MODEL = {"w": np.array([1.0, -2.0], np.float32), "stat": np.array([5.0], np.float32)}
MEAN = {"w": np.array([0.5, 0.25], np.float32), "stat": np.array([1.0], np.float32)}


def test_fedavg_moves_by_the_mean_and_keeps_dtypes():
    model, state = FedAvg().step(MODEL, MEAN, {})
    assert model["w"].tolist() == [1.5, -1.75]
    assert model["w"].dtype == np.float32
    assert state == {}
    assert MODEL["w"].tolist() == [1, -2]


def test_statistics_move_by_their_mean_alone():
    for strategy in (FedAvg(lr=0.1), FedAvgM(), FedAdam()):
        model, _ = strategy.step(MODEL, MEAN, strategy.start(MODEL), frozenset({"stat"}))
        assert model["stat"].tolist() == [6.0]


def test_momentum_remembers():
    strategy = FedAvgM(lr=0.5, momentum=0.5)
    state = strategy.start(MODEL)
    model = MODEL
    velocity = Fraction(0)
    value = Fraction(1)
    for _ in range(5):
        model, state = strategy.step(model, MEAN, state)
        velocity = velocity / 2 + Fraction(1, 2)
        value += velocity / 2
        assert model["w"][0] == float(value)  # all dyadic: exact


def test_adam_is_the_published_formula():
    strategy = FedAdam(lr=0.1, beta1=0.8, beta2=0.95, tau=0.01)
    state, model = strategy.start(MODEL), MODEL
    m, v, x = 0.0, 0.01**2, 1.0
    for _ in range(4):
        model, state = strategy.step(model, MEAN, state)
        m, v = 0.8 * m + (1 - 0.8) * 0.5, 0.95 * v + (1 - 0.95) * 0.25
        x = float(np.float32(x + 0.1 * m / (v**0.5 + 0.01)))
        assert abs(model["w"][0] - x) <= np.spacing(np.float32(x))


@pytest.mark.parametrize(
    "make",
    [lambda: FedAvg(lr=0), lambda: FedAvgM(momentum=1.0), lambda: FedProx(mu=-1), lambda: FedAdam(tau=0)],
)
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(InputError, match=r"expected \w+ (above 0|0 or more)") as caught:
        make()
    assert "usual value" in caught.value.hint


@pytest.mark.parametrize(("dtype", "start"), [(np.float16, 6e4), (np.float32, 3.4e38)])
def test_a_model_never_becomes_infinite(dtype, start):
    model = {"w": np.array([0, start], dtype)}
    with pytest.raises(InputError, match=f"beyond the largest {model['w'].dtype}") as caught:
        FedAvg(lr=1e5).step(model, {"w": np.array([0, start / 10], dtype)}, {})
    assert (caught.value.reason, "lower" in caught.value.hint) == (Reason.NON_FINITE, True)


def test_the_proximal_gradient_of_numpy_models():
    task = Task("a", 1, 0, {"w": np.array([1.0, 2.0])}, FedProx(mu=0.5))
    assert task.proximal_gradient({"w": np.array([3.0, 2.0])})["w"].tolist() == [1.0, 0.0]


def test_the_proximal_term_of_torch_modules():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, 2.0]]))
    task = Task("a", 1, 0, {"weight": np.array([[1.0, 2.0]], np.float32)}, FedProx(mu=0.5))
    term = task.proximal(module)
    assert term.item() == 1.0
    term.backward()
    assert module.weight.grad.tolist() == [[1.0, 0.0]]
    assert Task("a", 1, 0, {}, FedAvg()).proximal(module).item() == 0
