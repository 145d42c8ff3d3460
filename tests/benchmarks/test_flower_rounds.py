"""Flower as a scheme: a real round where flwr is, and what is made of its requests and processes everywhere.

HE_AGG_TEST_FLOWER_PYTHON names the Python of an environment that has flwr, if it is not this one.
"""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.rounds import measuring, tree
from benchmarks.rounds.flower import starting
from benchmarks.rounds.flower.scheme import why_no_flower
from benchmarks.rounds.flower.site import _phases
from benchmarks.rounds.measuring import Cell, measure
from benchmarks.rounds.schemes import SCHEMES, skip_reason

PYTHON = os.environ.get("HE_AGG_TEST_FLOWER_PYTHON", sys.executable)


def test_a_round_of_flower_makes_the_mean_and_carries_the_arrays(monkeypatch):
    """The smallest real one: SuperLink, two SuperNodes, no round before it. The benchmark itself checks the mean."""
    if reason := why_no_flower(PYTHON):
        pytest.skip(reason)
    monkeypatch.setattr(measuring, "_WARM_ROUNDS", 0)
    monkeypatch.setattr(measuring, "_ROUND_S", 100.0)
    cell = Cell("cnn", 2, "loopback")
    _, row = measure(cell, ["flower-fedavg"], 1, "proxy", flower_python=PYTHON)
    assert row["label"] == "flower-fedavg"
    assert set(row["seconds"]) == {"upload", "wait", "download", "start"}
    assert sum(row["seconds"].values()) <= row["round_s_max"]
    # One update up, one mean down, and no more than a few kB around them: nothing was kept from an earlier round.
    for size in (row["bytes_up"], row["bytes_down"]):
        assert 4 * cell.values < size < 4 * cell.values + 40_000
    assert row["cpu_s_sites"] > 0 < row["cpu_s_server"]


def test_too_many_sites_and_a_python_without_flower_are_left_out_with_a_reason(monkeypatch, tmp_path):
    missing = str(tmp_path / "python")
    assert "flwr is not installed" in skip_reason(SCHEMES["flower-fedavg"], 100, 3, 0, missing)
    monkeypatch.setattr("benchmarks.rounds.flower.scheme.flower_version", lambda _: "1.41.0")
    assert skip_reason(SCHEMES["flower-secaggplus"], 100, 3, 0) == ""
    assert "too many processes" in skip_reason(SCHEMES["flower-fedavg"], 100, 30, 0)
    assert "only" in skip_reason(SCHEMES["flower-fedavg"], 10**8, 3, 0)
    monkeypatch.setattr("benchmarks.rounds.flower.scheme.flower_version", lambda _: "1.20.0")
    assert "older than 1.41" in skip_reason(SCHEMES["flower-fedavg"], 100, 3, 0)


def test_phases_are_read_from_the_requests_of_a_supernode():
    pull, push, had = "/v1/fleet/pull-messages", "/v1/fleet/push-object", "/v1/fleet/confirm-message-received"
    requests = [
        (9.0, 9.1, pull, 5, 5),
        (10.2, 11.0, push, 400, 5),
        (11.5, 11.6, pull, 5, 5),
        (12.0, 12.1, pull, 5, 90),
        (12.1, 12.5, "/v1/fleet/pull-object", 5, 400),
        (12.5, 13.0, had, 5, 5),
    ]
    expected = {"upload": 1.5, "wait": 0.5, "download": 1.0, "start": 2.0}
    assert _phases(requests, 10.0, 15.0) == pytest.approx(expected)
    assert _phases(requests[:2], 10.0, 15.0) == {"wait": 5.0}


def test_nothing_of_flower_goes_out(tmp_path):
    variables = starting.environment("/opt/flower/bin/python", tmp_path, as_shipped=True)
    assert variables["FLWR_TELEMETRY_ENABLED"] == "0"
    assert variables["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert variables["PATH"].startswith("/opt/flower/bin" + os.pathsep)
    assert "FLWR_SUPEREXEC_TASK_POLL_INTERVAL" not in variables
    assert "FLWR_SUPEREXEC_TASK_POLL_INTERVAL" in starting.environment("/python", tmp_path, as_shipped=False)


def test_a_tree_counts_and_ends_with_its_descendants():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    inner = (
        "import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass\nprint(flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, inner], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        assert tree.cpu_s(process.pid) >= 0.3
        assert tree.largest_rss_bytes(process.pid) > 2**20
    finally:
        tree.stop(process)
    # Its child held the pipe too: end of file says that both are gone.
    assert process.stdout.read() == b""
    assert process.returncode is not None
    process.stdin.close()
    process.stdout.close()


def test_the_project_has_all_that_its_apps_import(tmp_path):
    folder = starting.project(tmp_path / "app", "clients", {"sites": 3, "as-shipped": False, "running": "/x"})
    made = {str(path.relative_to(folder)) for path in folder.rglob("*.py")}
    assert made >= {f"benchmarks/rounds/flower/{name}.py" for name in ("servers", "clients", "training")}
    text = (folder / "pyproject.toml").read_text()
    assert 'clientapp = "benchmarks.rounds.flower.clients:app"' in text
    assert f"as-shipped = {json.dumps(False)}" in text
