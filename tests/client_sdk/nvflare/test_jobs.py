"""Jobs of NVFlare with our components: its own simulator, transport, workflow and, at the end, deployed processes.

HE_AGG_TEST_NVFLARE_PYTHON names the Python of an environment that has nvflare and he-agg, if it is not this one.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

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


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """Three sites and a server with certificates, from kits of `nvflare poc prepare`; the plan, and where they are."""
    if reason := why_no_nvflare(PYTHON):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("poc")
    plan = keystore(folder)
    local = {site: [folder / "keystore"] for site in SITES} | {"server": [folder / "federation.json"]}
    with Poc(PYTHON, folder / "kits", he=False, local=local) as poc:
        yield plan, poc


def deployed_job(folder, patients, seed, **options):
    files = {"keystore": "keystore", "federation": "federation.json"}
    facts = {"patients": patients, "width": WIDTH, "rounds": 3, "out": folder / "out", "seed": seed}
    return job(folder / "job", "he-agg", **(files | facts | options))


def newest(poc):
    """Where each site's model of the newest run is."""
    found = {}
    for site in SITES:
        models = final_models(poc.kits / site / "local")
        found[site] = max(models, key=lambda path: path.stat().st_mtime)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["in_process", "once"])
def test_on_deployed_processes(tmp_path, patients, deployed, launch):
    """Scripts of the Client API: one that sites have, in the job's process; one that the job brings, in its own."""
    plan, poc = deployed
    seed = ["in_process", "once"].index(launch)
    completed, _ = poc.run(deployed_job(tmp_path, patients, seed, launch=launch))
    assert completed, poc.log("server")[-3000:]
    expected = clear.fixed_point(plan, patients, WIDTH, 3, seed)[3]
    assert all(same(path, expected) for path in newest(poc).values())


def until(done, running, poc):
    while not done():
        assert not running.done(), poc.log("server")[-3000:]
        time.sleep(0.1)


def run_with_a_death(folder, patients, poc, seed, act, then=lambda running: None):
    """Run a job, act while site-2 trains in the second round, and return whether NVFlare says that it completed."""
    out = folder / "out"
    made = deployed_job(folder, patients, seed, fault="waits:site-2:1", min_clients=2, launch="once")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(poc.run, made)
        until((out / "waiting").exists, running, poc)
        until(lambda: len(list(out.glob("*.1.npz"))) == len(SITES), running, poc)  # all have opened the first sum
        act()
        (out / "waiting").unlink()
        then(running)
        return running.result()[0]


@pytest.mark.slow
def test_a_job_process_that_is_killed_ends_the_job_and_every_site_has_the_model_of_the_last_sum(
    tmp_path, patients, deployed
):
    """NVFlare's client sees it and has the job fail, whatever `min_clients` says."""
    plan, poc = deployed
    assert not run_with_a_death(tmp_path, patients, poc, 5, lambda: poc.kill_job("site-2"))
    assert "due to reported failure from site-2" in poc.log("server")
    expected = clear.fixed_point(plan, patients, WIDTH, 1, 5)[1]
    assert all(same(path, expected) for path in newest(poc).values())


@pytest.mark.slow
def test_a_site_that_dies_with_its_machine_is_left_out_and_comes_back_in_the_next_job(tmp_path, patients, deployed):
    """NVFlare keeps the job open until it hears of the site, and then calls it failed; the others have their model."""
    plan, poc = deployed

    def back(running):
        until(lambda: "site-2 has not opened the last sum" in poc.log("server"), running, poc)
        poc.start("site-2")

    assert not run_with_a_death(tmp_path, patients, poc, 3, lambda: poc.kill("site-2"), back)
    assert "site-2 has not opened the last sum: it is not in the job any more" in poc.log("server")
    models = clear.fixed_point(plan, patients, WIDTH, 3, 3, lambda number: SITES[::2] if number else SITES)
    found = newest(poc)
    assert same(found["site-1"], models[3])
    assert same(found["site-3"], models[3])
    assert same(found["site-2"], models[1])
    (tmp_path / "next").mkdir()
    completed, _ = poc.run(deployed_job(tmp_path / "next", patients, 6))
    assert completed, poc.log("server")[-3000:]
    expected = clear.fixed_point(plan, patients, WIDTH, 3, 6)[3]
    assert all(same(path, expected) for path in newest(poc).values())
