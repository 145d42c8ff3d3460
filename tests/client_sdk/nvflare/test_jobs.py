"""Jobs of NVFlare with our components: its own simulator, transport, workflow and, at the end, deployed processes.

HE_AGG_TEST_NVFLARE_PYTHON names the Python of an environment that has nvflare and he-agg, if it is not this one.
"""

import json
import os
import sys

import numpy as np
import pytest

from benchmarks.nvflare.app import initial, update_of, weight_of
from benchmarks.nvflare.jobs import SITES, job, simulate, why_no_nvflare
from benchmarks.nvflare.poc import Poc
from client_sdk.training import training_plan
from client_sdk.training.agreement import SIGNS
from he_agg import dequantize, quantize
from keys import GroupKey

PYTHON = os.environ.get("HE_AGG_TEST_NVFLARE_PYTHON", sys.executable)
VALUES = 1000
SIMULATED = "simulate_job"


@pytest.fixture(autouse=True)
def _nvflare():
    if reason := why_no_nvflare(PYTHON):
        pytest.skip(reason)


def keystore(folder, min_sites=2):
    folder.mkdir(exist_ok=True)
    plan = training_plan("nvflare", initial(VALUES), clip=0.25, weight_cap=1000, max_sites=5, min_sites=min_sites)
    key = GroupKey.create(plan)
    key.save(folder / "keystore")
    (folder / "federation.json").write_bytes(key.federation_document.encode())
    return plan


def run(folder, rounds, **options):
    paths = {"keystore": str(folder / "keystore"), "federation": str(folder / "federation.json")}
    made = job(folder / "job", "he-agg", values=VALUES, rounds=rounds, out=folder / "out", **(paths | options))
    return simulate(PYTHON, made, folder / "workspace")


def plaintext(plan, rounds, members=lambda number: SITES):
    """What fixed-point FedAvg makes of the same updates in the clear; the model after each round, the initial first."""
    models = [initial(VALUES)]
    for number in range(rounds):
        model, sums = models[-1], np.zeros(plan.public.values, dtype=np.int64)
        for site in members(number):
            after = update_of(site, number, model)
            update = {name: after[name] - model[name] for name in model} | {SIGNS: np.zeros(64, np.float32)}
            sums += quantize(plan, update, weight_of(site)).values
        mean = dequantize(plan, sums, len(members(number))).tensors
        models.append(
            {n: (a.astype(np.float64) + mean[n].astype(np.float64)).astype(np.float32) for n, a in model.items()}
        )
    return models


def same(path, expected):
    with np.load(path) as file:
        return all(file[name].tobytes() == array.tobytes() for name, array in expected.items())


def final_models(store):
    return sorted(store.glob("keystore.runs/*/*/model.npz"))


def test_the_model_is_plaintext_fixed_point_fedavg_bit_for_bit(tmp_path):
    """And the server reads nothing: no weights, no numbers of examples, nothing else that a result says."""
    plan = keystore(tmp_path)
    log = run(tmp_path, 3)
    models = plaintext(plan, 3)
    for site in SITES:
        for number in range(3):
            assert same(tmp_path / "out" / f"{site}.{number}.npz", models[number]), log[-3000:]
        assert f"{site} has opened the last sum" in log
    assert len(final_models(tmp_path)) == 3
    assert all(same(path, models[3]) for path in final_models(tmp_path))
    results = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert len(results) == 9
    assert all(result == {"keys": ["DXO", "he-agg"], "meta": "{}", "data": []} for result in results)
    assert not (tmp_path / "out" / "server.npz").exists()


def test_a_site_that_drops_out_of_a_round_catches_up(tmp_path):
    plan = keystore(tmp_path)
    log = run(tmp_path, 3, fault="dies:site-2:1", min_clients=2)
    models = plaintext(plan, 3, lambda number: ("site-1", "site-3") if number == 1 else SITES)
    assert len(final_models(tmp_path)) == 3, log[-3000:]
    assert all(same(path, models[3]) for path in final_models(tmp_path)), log[-3000:]


@pytest.mark.parametrize("what", ["residue", "site"])
def test_a_sum_that_the_server_altered_is_not_opened(tmp_path, what):
    keystore(tmp_path)
    log = run(tmp_path, 2, alter=what)
    named = "site-1, site-2, site-3" if what == "residue" else "site-2, site-3"
    assert f"of the sum is not what {named} have submitted together; nothing was opened [sum-rejected]" in log
    assert all(same(path, initial(VALUES)) for path in final_models(tmp_path))
    assert not list((tmp_path / "out").glob("*.1.npz"))


def test_a_site_with_another_key_is_named_and_not_counted(tmp_path):
    plan = keystore(tmp_path, min_sites=3)
    GroupKey.create(plan).save(tmp_path / "other.keystore")
    log = run(tmp_path, 2, other_keystore=str(tmp_path / "other.keystore"))
    assert "site-3 is not counted: round nvflare.1.1, site site-3, group key: expected" in log
    assert "expected 3 to 5 encrypted updates, got 2" in log
    assert "he-agg keys show" in log
    assert all(same(path, initial(VALUES)) for path in final_models(tmp_path))


@pytest.mark.slow
def test_on_deployed_processes(tmp_path):
    """Three sites and a server with certificates, from kits of `nvflare poc prepare`; two jobs, one after the other."""
    plan = keystore(tmp_path)
    local = {site: [tmp_path / "keystore"] for site in SITES} | {"server": [tmp_path / "federation.json"]}
    with Poc(PYTHON, tmp_path / "poc", he=False, local=local) as poc:
        for name, options in (("first", {}), ("second", {"may_repeat": True})):
            made = job(
                tmp_path / name,
                "he-agg",
                values=VALUES,
                rounds=2,
                out=tmp_path / f"{name}-out",
                keystore="keystore",
                federation="federation.json",
                options=options,
            )
            completed, _ = poc.run(made)
            assert completed, poc.log("server")[-3000:]
        models = plaintext(plan, 2)
        for site in SITES:
            kept = final_models(poc.kits / site / "local")
            assert len(kept) == 2
            assert all(same(path, models[2]) for path in kept)
