"""Jobs of NVFlare with our components: its own simulator, transport, workflow and, at the end, deployed processes.

HE_AGG_TEST_NVFLARE_PYTHON names the Python of an environment that has nvflare and he-agg, if it is not this one.
"""

import json
import os
import sys

import numpy as np
import pytest

from benchmarks.frameworks import clear
from benchmarks.frameworks.nvflare.jobs import job, simulate, why_no_nvflare
from benchmarks.frameworks.nvflare.poc import Poc
from benchmarks.frameworks.task import SITES, initial, share_out
from keys import GroupKey

PYTHON = os.environ.get("HE_AGG_TEST_NVFLARE_PYTHON", sys.executable)
WIDTH = 16


@pytest.fixture(autouse=True)
def _nvflare():
    if reason := why_no_nvflare(PYTHON):
        pytest.skip(reason)


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patients")
    share_out(folder)
    return folder


def keystore(folder, min_sites=2):
    folder.mkdir(exist_ok=True)
    plan = clear.plan_of("nvflare", WIDTH, max_sites=5, min_sites=min_sites)
    key = GroupKey.create(plan)
    key.save(folder / "keystore")
    (folder / "federation.json").write_bytes(key.federation_document.encode())
    return plan


def run(folder, patients, rounds, **options):
    paths = {"keystore": str(folder / "keystore"), "federation": str(folder / "federation.json")}
    out = {"patients": patients, "width": WIDTH, "rounds": rounds, "out": folder / "out"}
    made = job(folder / "job", "he-agg", **(out | paths | options))
    return simulate(PYTHON, made, folder / "workspace")


def plaintext(plan, patients, rounds, members=lambda number: SITES):
    """What fixed-point FedAvg makes of the same updates in the clear; the model after each round, the initial first."""
    return clear.fixed_point(plan, patients, WIDTH, rounds, 0, members)


def same(path, expected):
    with np.load(path) as file:
        return all(file[name].tobytes() == array.tobytes() for name, array in expected.items())


def final_models(store):
    return sorted(store.glob("keystore.runs/*/*/model.npz"))


def test_the_model_is_plaintext_fixed_point_fedavg_bit_for_bit(tmp_path, patients):
    """And the server reads nothing: no weights, no numbers of examples, nothing else that a result says."""
    plan = keystore(tmp_path)
    log = run(tmp_path, patients, 3)
    models = plaintext(plan, patients, 3)
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


def test_a_site_that_drops_out_of_a_round_catches_up(tmp_path, patients):
    plan = keystore(tmp_path)
    log = run(tmp_path, patients, 3, fault="dies:site-2:1", min_clients=2, launch="each_task")
    models = plaintext(plan, patients, 3, lambda number: ("site-1", "site-3") if number == 1 else SITES)
    assert len(final_models(tmp_path)) == 3, log[-3000:]
    assert all(same(path, models[3]) for path in final_models(tmp_path)), log[-3000:]


@pytest.mark.parametrize("what", ["residue", "site"])
def test_a_sum_that_the_server_altered_is_not_opened(tmp_path, patients, what):
    keystore(tmp_path)
    log = run(tmp_path, patients, 2, alter=what)
    named = "site-1, site-2, site-3" if what == "residue" else "site-2, site-3"
    assert f"of the sum is not what {named} have submitted together; nothing was opened [sum-rejected]" in log
    assert all(same(path, initial(WIDTH, 0)) for path in final_models(tmp_path))
    assert not list((tmp_path / "out").glob("*.1.npz"))


def test_a_site_with_another_key_is_named_and_not_counted(tmp_path, patients):
    plan = keystore(tmp_path, min_sites=3)
    GroupKey.create(plan).save(tmp_path / "other.keystore")
    log = run(tmp_path, patients, 2, other_keystore=str(tmp_path / "other.keystore"))
    assert "site-3 is not counted: round nvflare.1.1, site site-3, group key: expected" in log
    assert "expected 3 to 5 encrypted updates, got 2" in log
    assert "he-agg keys show" in log
    assert all(same(path, initial(WIDTH, 0)) for path in final_models(tmp_path))


@pytest.mark.slow
def test_on_deployed_processes(tmp_path, patients):
    """Three sites and a server with certificates, from kits of `nvflare poc prepare`; two jobs, one after the other."""
    plan = keystore(tmp_path)
    local = {site: [tmp_path / "keystore"] for site in SITES} | {"server": [tmp_path / "federation.json"]}
    with Poc(PYTHON, tmp_path / "poc", he=False, local=local) as poc:
        for name, options in (("first", {}), ("second", {"may_repeat": True})):
            made = job(
                tmp_path / name,
                "he-agg",
                patients=patients,
                width=WIDTH,
                rounds=2,
                out=tmp_path / f"{name}-out",
                keystore="keystore",
                federation="federation.json",
                options=options,
            )
            completed, _ = poc.run(made)
            assert completed, poc.log("server")[-3000:]
        models = plaintext(plan, patients, 2)
        for site in SITES:
            kept = final_models(poc.kits / site / "local")
            assert len(kept) == 2
            assert all(same(path, models[2]) for path in kept)
