"""What no gradient moves: never stepped by a server-side optimizer, and variances never below zero."""

import numpy as np
import pytest

from client_sdk.adapters import KerasAdapter, PytreeAdapter
from client_sdk.flower import run_numpy_client
from client_sdk.training import FedAdam, FedAvg, FedAvgM, simulate, train, training_plan
from he_agg.errors import InputError, Reason

pytestmark = pytest.mark.filterwarnings("ignore::he_agg.ResolutionWarning")  # a coarse grid on purpose

SITES = ["hospital-a", "hospital-b", "hospital-c"]
STEPPING = [FedAdam(lr=0.1), FedAvgM(lr=1.0), FedAvg(lr=0.5)]


def named():
    return {
        "w": np.array([1.0, -1.0]),
        "norm": {"moving_mean": np.array([3.0]), "moving_variance": np.array([2.0])},
    }


def fit(model, task):
    """Every site would have the variance at zero and the mean at minus one; weights differ, so means are rounded."""
    i = SITES.index(task.site)
    new = {
        "w": model["w"] + 0.1 * (i + 1),
        "norm": {"moving_mean": np.array([-1.0]), "moving_variance": np.array([0.0])},
    }
    return new, 3 + i


def run(model, fit, strategy, rounds=3, **names):
    adapter = PytreeAdapter(**names)
    plan = training_plan("x", model, clip=5.0, weight_cap=7, max_sites=3, value_bits=6, adapter=adapter)
    return simulate(
        plan, SITES, lambda site, i: train(site, model, fit, strategy=strategy, adapter=adapter, rounds=rounds)
    )


@pytest.mark.parametrize("strategy", [FedAvg(), *STEPPING], ids=lambda s: f"{type(s).__name__}-{s.lr}")
def test_statistics_move_by_their_mean_alone_and_variances_stay_valid(strategy):
    plain, results = run(named(), fit, FedAvg())[0].tensors, run(named(), fit, strategy)
    for result in results:
        for name in ("norm/moving_mean", "norm/moving_variance"):
            assert result.tensors[name].tolist() == plain[name].tolist()
        assert result.tensors["norm/moving_variance"].min() >= 0
        assert result.model["norm"]["moving_variance"].min() >= 0
    assert len({result.model_hash for result in results}) == 1


def test_the_grid_alone_can_take_a_variance_below_zero():
    """What the floor is for: the same run, with a name that says nothing, ends below zero."""

    def unnamed(model, task):
        return {"v": np.zeros(1)}, 3 + SITES.index(task.site)

    starts = [{"v": np.array([2 + i / 50])} for i in range(10)]
    assert min(run(start, unnamed, FedAvg(), rounds=2)[0].tensors["v"].min() for start in starts) < 0
    assert all(run(start, unnamed, FedAvg(), rounds=2, variances="v")[0].tensors["v"].min() >= 0 for start in starts)


class Client:
    """A NumPyClient with BatchNorm: weights, running mean, running variance."""

    def __init__(self, count=4):
        self.count = count

    def get_parameters(self, config):
        return [np.array([1.0]), np.array([3.0]), np.array([2.0])]

    def fit(self, parameters, config):
        return [parameters[0] + 0.1, np.array([-1.0]), np.array([0.0])], self.count, {}


def clients(strategy, count=4, **options):
    plan = training_plan("x", Client().get_parameters({}), clip=5.0, weight_cap=7, max_sites=3, value_bits=6)
    return simulate(
        plan, SITES, lambda site, i: run_numpy_client(site, Client(count), strategy=strategy, rounds=3, **options)
    )


@pytest.mark.parametrize("strategy", STEPPING, ids=lambda s: f"{type(s).__name__}-{s.lr}")
def test_a_list_of_weights_must_say_which_are_statistics(strategy):
    with pytest.raises(InputError, match="which of 3 tensors are statistics") as caught:
        clients(strategy)
    assert caught.value.reason == Reason.BAD_ARGUMENT
    plain = clients(FedAvg(), variances="2")[0]
    for result in clients(strategy, statistics="1", variances=["2"]):
        assert [result.tensors[n].tolist() for n in "12"] == [plain.tensors[n].tolist() for n in "12"]
        assert result.tensors["2"].min() >= 0
    moved = clients(strategy, statistics=[])[0].tensors
    assert moved["1"].tolist() != plain.tensors["1"].tolist()


def test_numbers_of_samples_may_be_numpys():
    assert clients(FedAvg(), np.int64(4))[0].history[0]["total_weight"] == 12
    for wrong in (True, 4.0, np.float64(4)):
        with pytest.raises(InputError, match="num_examples"):
            clients(FedAvg(), wrong)


def test_what_frameworks_call_them_is_known():
    tree = {
        "params": {"Dense_0": {"kernel": np.ones(2)}},
        "batch_stats": {"BatchNorm_0": {"mean": np.ones(2), "var": np.ones(2)}, "Other": {"count": np.ones(1)}},
    }
    assert PytreeAdapter().statistics(tree) == {
        "batch_stats/BatchNorm_0/mean", "batch_stats/BatchNorm_0/var", "batch_stats/Other/count"
    }  # fmt: skip
    assert PytreeAdapter().variances(tree) == {"batch_stats/BatchNorm_0/var"}

    class Weight:
        def __init__(self, path):
            self.path = path

    class Model:
        weights = tuple(map(Weight, ("bn/gamma", "bn/moving_mean:0", "bn/moving_variance:0")))

        def get_weights(self):
            return [np.ones(1)] * 3

        def set_weights(self, weights):
            self.set = weights

    model = Model()
    assert KerasAdapter().variances(model) == {"bn/moving_variance:0"}
    assert KerasAdapter().statistics(model) == {"bn/moving_mean:0", "bn/moving_variance:0"}
    KerasAdapter().load(model, {w.path: np.array([-1.0]) for w in Model.weights})
    assert [w.tolist() for w in model.set] == [[-1], [-1], [0]]
