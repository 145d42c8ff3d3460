"""What a site does, in a process that lacks what Windows lacks, against a real aggregator.

Nothing was run on Windows itself: docs/platforms.md says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from client_sdk.local import found, plan_for, settings_of
from tests.support.server import QUICK, start_server

ROOT = Path(__file__).parents[2]
SITES = ["hospital-a", "hospital-b", "hospital-c"]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the process said, after three hospitals averaged an update in it."""
    root = tmp_path_factory.mktemp("windows")
    (place := root / "place").mkdir()
    with start_server(root / "data", environment=QUICK) as server:
        plan = plan_for({"w": np.zeros(1000)}, SITES, "windows", clip=4.0)
        settings = [settings_of(folder, server.url, patience_s=60) for folder in found(server, plan, SITES, root)]
        command = [sys.executable, "-m", "tests.client_sdk.on_windows", place, *settings]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    print(run.stderr)
    return json.loads(run.stdout.splitlines()[-1]) | {"stderr": run.stderr}


def test_three_hospitals_average_an_update(said):
    """The same to the bit; values are rounded before they are sent, and the updates are w, 2 w and 3 w."""
    first, *others = said["means"]
    assert others == [first, first]
    assert first == [3, pytest.approx(-2.0, abs=0.01), pytest.approx(2.0, abs=0.01)]


def test_a_secret_file_is_read_only_if_its_access_list_names_nobody_else(said):
    assert said["identity"] == "hospital-x"
    assert said["open to users"].startswith("unsafe-permissions: ")
    assert said["open to users"].endswith(
        "x.identity: expected a file of this user alone, got one that BU may read or change"
    )
    assert "on Windows none is followed" in said["link"]


def test_no_secret_is_written_where_others_read(said):
    assert said["shared folder"].endswith("shared: BU may read what is written there; nothing was")
    assert said["left in it"] == []


def test_a_round_is_locked_and_let_go(said):
    assert "is being worked on by another process or thread" in said["locked twice"]
    assert (said["locked again"], said["locks left"]) == (["round.lock"], [])


def test_no_charge_of_several_threads_is_lost(said):
    assert (said["charged"], said["charges"]) == (12, 12)


def test_what_windows_cannot_is_refused_in_a_sentence(said):
    assert "cannot be started on Windows" in said["process"]
    assert said["he-agg site"] == 0
    assert said["he-agg serve"] == 4
    assert "he-agg: error: an aggregator runs on Linux or macOS, not on Windows" in said["stderr"]
    assert "Traceback" not in said["stderr"]
