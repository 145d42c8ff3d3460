"""A Flower run that adds ciphertexts: Flower's own messages, apps, strategy loop and, at the end, simulation."""

import copy

import numpy as np
import pytest

flwr = pytest.importorskip("flwr")

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from client_sdk.flower import EncryptedFedAvg, EncryptedUpdates  # noqa: E402
from client_sdk.frameworks.site import Keystore  # noqa: E402
from client_sdk.training import training_plan  # noqa: E402
from client_sdk.training.agreement import SIGNS  # noqa: E402
from he_agg import Layout, Plan, dequantize, quantize  # noqa: E402
from he_agg.errors import DecryptionError, InputError, PlanError, ProtocolError  # noqa: E402
from keys import GroupKey  # noqa: E402
from tests.support.regression import FEATURES, data, predict  # noqa: E402

SITES = 3


def initial():
    return {"w": np.full(FEATURES, 0.125, np.float32), "b": np.zeros((), np.float32), "count": np.array(0)}


def learn(params, i):
    X, y = data(i)
    w, b = params["w"].astype(np.float64), float(params["b"])
    for _ in range(5):
        error = predict({"w": w, "b": b}, X) - y
        w, b = w - 0.3 * X.T @ error / len(error), b - 0.3 * error.mean()
    return {"w": w.astype(np.float32), "b": np.array(b, np.float32), "count": params["count"] + 1 + i}, len(y)


def record_of(arrays):
    from flwr.app import Array

    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def client_app(keystore, partition, seen, **options):
    app = ClientApp(mods=[EncryptedUpdates(keystore, **options)])

    @app.train()
    def train(msg, context):
        params = {name: array.numpy() for name, array in msg.content["arrays"].items()}
        after, n = learn(params, partition(context))
        metrics = MetricRecord({"num-examples": n, "loss": 0.5})
        return Message(RecordDict({"arrays": record_of(after), "metrics": metrics}), reply_to=msg)

    @app.evaluate()
    def evaluate(msg, context):
        params = {name: array.numpy() for name, array in msg.content["arrays"].items()}
        seen(context, params)
        return Message(RecordDict({"metrics": MetricRecord({"loss": 0.25, "num-examples": 9})}), reply_to=msg)

    return app


class LocalGrid(Grid):
    """Hands messages straight to client apps. `absent(round, node)` says who does not answer."""

    def __init__(self, app, absent, altered):
        self.app, self.absent, self.altered, self.wire = app, absent, altered, []
        self.contexts = {
            node: Context(1, node, {"partition": node - 1}, RecordDict(), {}) for node in range(1, SITES + 1)
        }
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # as a ServerApp process has it

    run = property(lambda self: None)

    def set_run(self, run):
        pass

    def create_message(self, *arguments, **options):
        raise NotImplementedError

    push_messages = pull_messages = create_message

    def get_node_ids(self):
        return list(self.contexts)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            number = message.content["he-agg"]["round"]
            self.wire.append(copy.deepcopy(message.content))
            if self.absent(message.metadata.message_type, number, node):
                continue
            self.altered(message.content)
            message.metadata.delivered_at = ""
            reply = self.app(message, self.contexts[node])
            reply.metadata.__dict__["_src_node_id"] = node
            self.wire.append(copy.deepcopy(reply.content))
            replies.append(reply)
        return replies


@pytest.fixture
def federation(tmp_path):
    plan = training_plan("flower", initial(), clip=2.0, weight_cap=256, max_sites=5, min_sites=2, codec="ckks")
    key = GroupKey.create(plan)
    key.save(tmp_path / "keystore")
    (tmp_path / "federation.json").write_bytes(key.federation_document.encode())
    return plan, tmp_path


def plaintext(plan, rounds, members=lambda number: range(SITES)):
    params = {name: initial()[name] for name in ("w", "b")}
    for number in range(1, rounds + 1):
        sums = np.zeros(plan.public.values, dtype=np.int64)
        for i in members(number):
            after, n = learn(params | {"count": 0}, i)
            update = {name: after[name] - params[name] for name in ("w", "b")} | {SIGNS: np.zeros(64, np.float32)}
            sums = sums + quantize(plan, update, n).values.astype(np.int64)
        mean = dequantize(plan, sums, len(members(number))).tensors
        params = {n: (a.astype(np.float64) + mean[n].astype(np.float64)).astype(np.float32) for n, a in params.items()}
    return params


def run(federation, rounds=3, absent=lambda kind, number, node: False, altered=lambda content: None, **options):
    _, directory = federation
    seen = {}
    app = client_app(
        directory / "keystore",
        lambda context: int(context.node_config["partition"]),
        lambda context, params: seen.setdefault(context.node_id, []).append(params),
        **options,
    )
    grid = LocalGrid(app, absent, altered)
    result = EncryptedFedAvg(directory / "federation.json").start(
        grid, initial_arrays=record_of(initial()), num_rounds=rounds
    )
    return result, seen, grid


def test_the_model_is_plaintext_fixed_point_fedavg_bit_for_bit(federation):
    _, seen, _ = run(federation)
    for number in range(3):
        expected = plaintext(federation[0], number + 1)
        for params in (models[number] for models in seen.values()):
            assert all(params[name].tobytes() == expected[name].tobytes() for name in expected)
    assert {node: [int(params["count"]) for params in models] for node, models in seen.items()} == {
        1: [1, 2, 3],
        2: [2, 4, 6],
        3: [3, 6, 9],
    }  # integers are not averaged: each node keeps its own


def test_no_weights_and_no_numbers_of_examples_travel_in_the_clear(federation):
    result, _, grid = run(federation)
    assert not result.arrays
    assert set(result.train_metrics_clientapp) == {1, 2, 3}
    assert not result.evaluate_metrics_clientapp
    assert len(grid.wire) == 3 * 2 * 2 * SITES
    # The initial weights go out once, to each node.
    assert sum(len(arrays) > 0 for content in grid.wire for arrays in content.array_records.values()) == SITES
    for content in grid.wire:
        for arrays in content.array_records.values():
            assert all(np.array_equal(array.numpy(), initial()[name]) for name, array in arrays.items())
        for metrics in content.metric_records.values():
            assert not dict(metrics)


def test_metrics_are_revealed_on_request_only(federation):
    result, _, _ = run(federation, reveal_metrics=True)
    assert result.evaluate_metrics_clientapp[3]["loss"] == 0.25


def test_a_node_that_was_away_catches_up(federation):
    away = lambda kind, number, node: node == 3 and number == 2  # noqa: E731
    _, seen, _ = run(federation, rounds=4, absent=away)
    expected = plaintext(federation[0], 4, lambda number: [0, 1] if number == 2 else [0, 1, 2])
    for models in seen.values():
        assert all(models[-1][name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_second_run_is_another_one(federation):
    """One keystore for any number of runs; but not for the same updates in the sums of two, unless that is meant."""
    run(federation, rounds=1)
    with pytest.raises(InputError, match="this very update, with this weight, was encrypted for round 1 of run"):
        run(federation, rounds=1)
    _, seen, _ = run(federation, rounds=2, may_repeat=True)
    expected = plaintext(federation[0], 2)
    for models in seen.values():
        assert all(models[-1][name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_sum_that_the_server_altered_is_not_opened(federation):
    def alter(content):
        if "he-agg-sum-1" in content:
            record = content["he-agg-sum-1"]
            parts = list(record["parts"])
            parts[0] = parts[0][:80] + bytes([parts[0][80] ^ 1]) + parts[0][81:]
            content["he-agg-sum-1"] = ConfigRecord({"claims": list(record["claims"]), "parts": parts})

    with pytest.raises(DecryptionError, match="not what node-1, node-2, node-3 have submitted together"):
        run(federation, rounds=1, altered=alter)


def test_a_plan_that_splits_keys_is_refused_on_both_sides(tmp_path):
    """Flower's server has no holders. Nothing is encrypted, and the server does not start."""
    layout = Layout.of({"w": np.zeros(4)}, clip=1.0, weight_cap=10)
    plan = Plan.create("flower", layout, max_sites=3, keys="split")
    with pytest.raises(PlanError, match="no holders"):
        EncryptedFedAvg(GroupKey.create(plan).federation_document)
    GroupKey.create(plan).save(tmp_path / "keystore")
    with pytest.raises(PlanError, match="no holders"):
        _ = Keystore(tmp_path / "keystore").key


def test_too_few_updates_are_not_summed(federation):
    with pytest.raises(ProtocolError, match="got 1"):
        run(federation, absent=lambda kind, number, node: node != 1)


@pytest.mark.filterwarnings("ignore")
def test_in_flowers_own_simulation(federation):
    pytest.importorskip("ray")
    from flwr.simulation import run_simulation

    plan, directory = federation
    keystore, out = directory / "keystore", directory / "out"
    out.mkdir()

    def partition(context):
        return int(context.node_config["partition-id"])

    def keep(context, params):
        np.savez(out / f"{partition(context)}.npz", **params)

    app = ServerApp()
    results = []

    @app.main()
    def main(grid, context):
        strategy = EncryptedFedAvg(directory / "federation.json", min_nodes=SITES)
        results.append(strategy.start(grid, initial_arrays=record_of(initial()), num_rounds=2))

    run_simulation(app, client_app(keystore, partition, keep), SITES,
                   backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}})  # fmt: skip
    assert results
    expected = plaintext(plan, 2)
    for i in range(SITES):
        with np.load(out / f"{i}.npz") as found:
            assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
