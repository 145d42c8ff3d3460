"""Training on a real aggregator: the same bits as plaintext fixed point, kills, absences, disagreement."""

import signal
import sys
import threading
from typing import Any

import numpy as np
import pytest

from client_sdk import Site
from client_sdk.adapters import PytreeAdapter
from client_sdk.training import (
    BinaryScores,
    Converged,
    EarlyStopping,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    train,
    training_plan,
)
from client_sdk.training.agreement import SIGNS
from he_agg import dequantize, quantize
from he_agg.errors import ConfigError, InputError, PlanError, ProtocolError
from he_agg.host.processes import Process
from tests.support.regression import data, evaluate_for, fit_for, model, plan_for
from tests.support.zygote import Zygote

STRATEGIES = [FedAvg(), FedAvg(lr=0.5), FedProx(mu=0.1), FedAvgM(momentum=0.5), FedAdam(lr=0.05)]


def plaintext(plan, strategy, rounds, sites=3, dtype=np.float32):
    """The same training without encryption, aggregator or `train`: the sums of the sites' fixed-point integers."""
    from client_sdk.training.task import Task

    adapter, shared = PytreeAdapter(), PytreeAdapter().tensors(model(dtype))
    state, models = strategy.start(shared), []
    for number in range(1, rounds + 1):
        sums = np.zeros(plan.public.values, dtype=np.int64)
        for i in range(sites):
            import hashlib

            text = f"{plan.public.federation}|hospital-{'abcde'[i]}|{number}"
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
            local = adapter.load(model(dtype), shared)
            trained, n = fit_for(i)(local, Task("x", number, seed, shared, strategy))
            after = adapter.tensors(trained)
            update = {name: after[name] - shared[name] for name in shared}
            whole = update | {spec.name: np.zeros(spec.shape, spec.dtype) for spec in plan.layout.tensors
                              if spec.name.startswith("he-agg/")}  # fmt: skip
            sums = sums + quantize(plan, whole, n).values.astype(np.int64)
        mean = dequantize(plan, sums, sites).tensors
        shared, state = strategy.step(shared, {name: mean[name] for name in shared}, state)
        models.append(shared)
    return models


def same(one, other):
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert one[name].tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_encrypted_training_is_plaintext_fixed_point_training_bit_for_bit(strategy, running, name):
    rounds, plan = 4, plan_for(name)
    expected = plaintext(plan, strategy, rounds)
    with running(plan) as federation:
        seen = [[] for _ in federation.sites]

        def work(site, i):
            hook = lambda report: seen[i].append(report)  # noqa: E731
            return train(site, model(), fit_for(i), strategy=strategy, rounds=rounds, hooks=[hook])

        results = federation.everywhere(work)
    for reports in seen:
        assert [report.round for report in reports] == [1, 2, 3, 4]
        for report, model_then in zip(reports, expected, strict=True):
            same(report.model, model_then)
    assert len({result.model_hash for result in results}) == 1
    assert {result.stopped for result in results} == {"rounds"}
    assert results[0].history[0]["total_weight"] == sum(len(data(i)[1]) for i in range(3))
    assert [result.model["steps"] for result in results] == [4, 4, 4]  # an integer: local, and each site's own


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes_follow_their_plaintext_too(dtype, running, name):
    plan = training_plan(name, model(dtype), clip=1.0, weight_cap=256, max_sites=3, min_sites=3)
    with running(plan) as federation:
        results = federation.everywhere(lambda site, i: train(site, model(dtype), fit_for(i), rounds=2))
    same(results[0].tensors, plaintext(plan, FedAvg(), 2, dtype=dtype)[-1])


def test_scores_over_all_sites_are_exact_and_equal(running, name):
    plan = plan_for(name, evaluation=BinaryScores(bins=128))
    with running(plan) as federation:
        results = federation.everywhere(
            lambda site, i: train(
                site, model(), fit_for(i), evaluate=evaluate_for(i), evaluation=BinaryScores(bins=128), rounds=3
            )
        )
    first = results[0].history
    assert all(result.history == first for result in results)
    pooled = BinaryScores(bins=128)
    models = [PytreeAdapter().tensors(model()), *plaintext(plan, FedAvg(), 2)]
    for entry, params in zip(first, models, strict=True):
        counts = [pooled.count(evaluate_for(i)(params)) for i in range(3)]
        assert entry["metrics"] == pooled.metrics({k: np.sum([c[k] for c in counts], axis=0) for k in counts[0]})
    assert first[0]["metrics"]["auc"] == 0.5
    assert first[2]["metrics"]["auc"] > 0.7


def test_all_sites_stop_at_the_same_round_and_keep_the_best_model(running, name):
    plan = plan_for(name, evaluation=BinaryScores())
    stopping = EarlyStopping("auc", patience=2, min_delta=0.01)
    with running(plan) as federation:
        results = federation.everywhere(
            lambda site, i: train(
                site, model(), fit_for(i), evaluate=evaluate_for(i), evaluation=BinaryScores(), stopping=stopping
            )
        )
    assert {result.stopped for result in results} == {"early"}
    assert len({len(result.history) for result in results}) == 1
    aucs = [entry["metrics"]["auc"] for entry in results[0].history]
    best = len(aucs) - 3
    same(results[0].tensors, ([PytreeAdapter().tensors(model()), *plaintext(plan, FedAvg(), len(aucs))])[best])


def test_converged_stops_without_scores(running, name):
    with running(plan_for(name)) as federation:
        results = federation.everywhere(
            lambda site, i: train(site, model(), fit_for(i), stopping=Converged(0.2, patience=2))
        )
    assert {result.stopped for result in results} == {"early"}
    assert 3 <= len(results[0].history) < 20


def test_training_ends_with_the_federation(running, name):
    with running(plan_for(name, rounds=2)) as federation:
        results = federation.everywhere(lambda site, i: train(site, model(), fit_for(i)))
    assert {result.stopped for result in results} == {"ended"}
    assert [len(result.history) for result in results] == [2, 2, 2]


def test_an_early_end_is_told_and_not_kept(running, name, tmp_path):
    """What ended it may be undone, or a lie: the next run asks again."""
    with running(plan_for(name, rounds=50)) as federation:

        def work(site, i):
            def hook(report):
                if report.round == 2 and i == 0:
                    federation.end()

            return train(site, model(), fit_for(i), checkpoint=tmp_path / f"{i}.npz", hooks=[hook])

        results = federation.everywhere(work) + federation.everywhere(work)
    assert {result.stopped for result in results} == {"ended"}
    for result in results:
        assert any("has ended early, after 2 of the 50 rounds" in note for note in result.notes), result.notes
    assert '"done": "ended"' not in str(np.load(tmp_path / "0.npz")["he-agg/meta"])


def test_sites_that_start_from_other_weights_all_stop(running, name):
    errors = []

    def work(site, i):
        mine = model()
        mine["w"][0] += 1e-7 * (i == 2)
        try:
            train(site, mine, fit_for(i), rounds=2)
        except ProtocolError as error:
            errors.append(error)

    with running(plan_for(name)) as federation:
        federation.everywhere(work)
    assert len(errors) == 3
    assert all("not all the same" in error.message for error in errors)
    assert all("same seed" in error.hint for error in errors)


def test_a_site_with_another_strategy_is_found_out(running, name):
    def work(site, i):
        with pytest.raises(ProtocolError, match="not all the same"):
            train(site, model(), fit_for(i), strategy=FedAvg(lr=0.5 if i else 1.0), rounds=2)

    with running(plan_for(name)) as federation:
        federation.everywhere(work)


def test_sites_that_are_not_invited_catch_up(running, name):
    rounds, plan = 6, plan_for(name, min_sites=2, sample_percent=50)
    took = [[] for _ in range(3)]

    def work(site, i):
        hook = lambda report: took[i].append(report.took_part)  # noqa: E731
        return train(site, model(), fit_for(i), rounds=rounds, hooks=[hook])

    with running(plan, options=["--keep-sums", "20"]) as federation:
        stopped = threading.Event()
        results = []

        def guarded(site, i):
            return work(site, i)

        # Whoever is not invited to the last round waits for another: the end of the federation ends the wait.
        def ender():
            while not stopped.wait(0.1):
                if len(max(took, key=len)) >= rounds:
                    federation.end()
                    return

        thread = threading.Thread(target=ender)
        thread.start()
        try:
            results = federation.everywhere(guarded)
        finally:
            stopped.set()
            thread.join()
    assert len({result.model_hash for result in results}) == 1
    assert [len(result.history) for result in results] == [rounds] * 3
    for number in range(rounds):
        assert sum(mine[number] for mine in took) == 2


def test_a_plan_for_something_else_is_refused_by_its_first_tensor(running, name):
    plan = plan_for(name)
    with running(plan) as federation:
        site = federation.sites[0]
        with pytest.raises(PlanError, match=r"'w'.*\(9,\)"):
            train(site, model() | {"w": np.zeros(9, np.float32)}, fit_for(0))
        with pytest.raises(PlanError, match="metrics"):
            train(site, model(), fit_for(0), evaluate=evaluate_for(0), evaluation=BinaryScores())
        with pytest.raises(PlanError, match=r"'b'.*model and recipe have not"):
            train(site, {"w": np.zeros(5, np.float32)}, fit_for(0))


def changed(params, task):
    return params | {"w": np.zeros(9, np.float32)}, 5


def diverged(params, task):
    return params | {"w": params["w"] * np.nan}, 5


@pytest.mark.parametrize(
    ("options", "says", "do"),
    [
        ({"fit": changed}, r"'w'.*\(5,\).*\(9,\)", "architecture"),
        ({"fit": diverged}, "'w'.*NaN", "learning rate"),
        ({"fit": lambda params, task: None}, "number of samples", "return len"),
        ({"strategy": FedProx(), "fit": lambda params, task: (params, 3)}, "proximal", "task.proximal"),
        ({"evaluate": lambda params: (np.ones(3), np.full(3, np.nan))}, "NaN", "learning rate"),
        ({"evaluate": None}, "evaluate and evaluation", "BinaryScores"),
        ({"stopping": EarlyStopping("f1"), "fit": None}, "f1", "BinaryScores"),
    ],
    ids=["architecture", "nan", "no-count", "prox", "nan-score", "no-evaluate", "unknown-score"],
)
def test_wrong_use_says_what_to_do(options, says, do, running, name):
    plan = plan_for(name, evaluation=BinaryScores())
    with running(plan, 3) as federation:

        def work(site, i):
            arguments = {"fit": fit_for(i), "evaluate": evaluate_for(i), "evaluation": BinaryScores()} | options
            arguments["fit"] = arguments["fit"] or fit_for(i)
            with pytest.raises(InputError, match=says) as caught:
                train(site, model(), rounds=2, **arguments)
            assert do in caught.value.hint
            assert arguments["fit"] is not diverged or not site.pending(), "nothing was made of it"

        if "stopping" in options:
            federation.everywhere(work)
        else:
            work(federation.sites[0], 0)


def test_a_layer_that_is_excluded_stays_personal(running, name):
    adapter = PytreeAdapter(exclude="b")
    plan = training_plan(name, model(), clip=1.0, weight_cap=256, max_sites=3, adapter=adapter)
    assert [spec.name for spec in plan.layout.tensors] == ["w", SIGNS]
    with running(plan) as federation:
        results = federation.everywhere(lambda site, i: train(site, model(), fit_for(i), adapter=adapter, rounds=3))
    assert len({float(result.model["b"]) for result in results}) == 3
    assert len({result.model["w"].tobytes() for result in results}) == 1


def test_transform_sees_the_update_before_it_is_encrypted(running, name):
    def silence(update, task):
        assert task.step == 1
        return {key: array * 0 for key, array in update.items()}

    with running(plan_for(name)) as federation:
        results = federation.everywhere(lambda site, i: train(site, model(), fit_for(i), transform=silence, rounds=1))
    same(results[0].tensors, PytreeAdapter().tensors(model()))


@pytest.fixture(scope="module")
def zygote():
    # The aggregator's own warming up, since it is Numba that takes its time in each process.
    with Zygote("client_sdk.training", "tests.support.regression", "service.work.folding:warm_up") as running:
        yield running


@pytest.mark.parametrize(
    "when",
    ["fit", "PhaseStarted:encrypt", "PhaseFinished:encrypt", "PhaseFinished:upload", "PhaseStarted:download",
     "PhaseFinished:download", "hook"],
)  # fmt: skip
def test_killed_at_any_time_and_started_again_it_goes_on_bit_for_bit(when, running, name, tmp_path, zygote):
    plan = plan_for(name, evaluation=BinaryScores())
    with running(plan) as federation:
        config = federation.root / federation.sites[2].name / "site.toml"

        def start(kill):
            words = ["tests.client_sdk.training.killed", str(config), str(tmp_path / "c.npz"), "2", kill]
            process = Process(
                [sys.executable, "-P", "-m", *words], tmp_path / f"{kill}.log", spawn=zygote.spawn
            ).start()
            result = "".join(process.lines())
            return process.wait(), result, process.log

        def work(site, i):
            if i == 2:
                code, _, said = start(when)
                assert code == -signal.SIGKILL, said
                code, result, said = start("never")
                assert code == 0, said
                return result.split()
            return train(site, model(), fit_for(i), strategy=FedAdam(0.05), evaluate=evaluate_for(i),
                         evaluation=BinaryScores(), rounds=4)  # fmt: skip

        results = federation.everywhere(work)
    assert results[0].model_hash == results[1].model_hash == results[2][0]
    assert results[2][1] == "4"
    same(results[0].tensors, plaintext(plan, FedAdam(0.05), 4)[-1])


def test_a_finished_training_is_not_repeated_and_more_rounds_may_be_asked_for(running, name, tmp_path):
    with running(plan_for(name)) as federation:

        def go(rounds):
            return federation.everywhere(
                lambda site, i: train(site, model(), fit_for(i), rounds=rounds, checkpoint=tmp_path / site.name)
            )

        first, again, more = go(2), go(2), go(3)
    assert first[0].model_hash == again[0].model_hash
    assert len(more[0].history) == 3


def test_a_checkpoint_of_something_else_or_a_damaged_one_is_refused(running, name, tmp_path):
    path = tmp_path / "c.npz"
    with running(plan_for(name)) as federation:
        federation.everywhere(
            lambda site, i: train(site, model(), fit_for(i), rounds=1, checkpoint=path if i == 0 else None)
        )
        site, other = federation.sites[:2]
        with pytest.raises(ConfigError, match="expected site 'hospital-b', got 'hospital-a'"):
            train(other, model(), fit_for(0), checkpoint=path)
        with pytest.raises(ConfigError, match="expected recipe"):
            train(site, model(), fit_for(0), checkpoint=path, strategy=FedAvgM())
        assert path.stat().st_mode & 0o777 == 0o600
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(
            ConfigError, match="expected a training checkpoint, got a damaged one or something else"
        ) as caught:
            train(site, model(), fit_for(0), checkpoint=path)
        assert "another site" in caught.value.hint


def test_a_site_without_checkpoint_goes_on_from_its_spool(running, name):
    """Killed after the upload, no checkpoint: the round is resumed, not trained again."""
    plan = plan_for(name)
    with running(plan) as federation:

        def work(site, i):
            if i == 0:
                round = next(iter(site.rounds()))
                update = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in plan.layout.tensors}
                from client_sdk.training.agreement import signs_of
                from client_sdk.training.checkpoint import State
                from client_sdk.training.recipe import Recipe
                from client_sdk.training.step import Training

                untrained: Any = None  # the hash asks for no learner
                begun = Training(plan, Recipe(), untrained, State(PytreeAdapter().tensors(model())))
                update[SIGNS] = signs_of(begun.hash)
                round.submit(update, 10)
                with Site.open(federation.root / site.name / "site.toml") as again:
                    return train(again, model(), fit_for(i), rounds=2)
            return train(site, model(), fit_for(i), rounds=2)

        results = federation.everywhere(work)
    assert len({result.model_hash for result in results}) == 1
    assert [entry["took_part"] for entry in results[0].history] == [False, True]
