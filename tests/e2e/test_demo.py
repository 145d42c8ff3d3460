"""`he-agg demo`, as a user runs it: real processes, real patients, and the figures it promises."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from he_agg.plan.schemes import SCHEMES
from tests.support.real import until

OTHERS = [pytest.param((name, "shared"), marks=pytest.mark.slow) for name in sorted(SCHEMES.keys() - {"hybrid"})]
SPLIT = pytest.param(("hybrid", "split"), marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[("hybrid", "shared"), SPLIT, *OTHERS], ids="-".join)
def demo(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    run = subprocess.run(
        [sys.executable, "-m", "he_agg", "demo", "--codec", request.param[0], "--keys", request.param[1]],
        cwd=folder,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return (
        request.param[0],
        run.stdout,
        folder / "demo-report",
        json.loads((folder / "demo-report/summary.json").read_text()),
    )


def test_every_average_is_exact(demo):
    _, _, _, summary = demo
    assert summary["encrypted_vs_fixed_point_max_abs_diff"] == 0
    assert 0 < summary["encrypted_vs_float_max_abs_diff"] <= summary["encrypted_vs_float_bound"]


def test_the_federation_beats_every_hospital_alone(demo):
    _, _, _, summary = demo
    score = summary["score"]
    assert len(score["local"]) == summary["sites"] >= 3
    assert score["encrypted"] > max(score["local"].values())
    # The mean's grid moves a weight by less than 3e-5; the score follows to the fourth digit or so.
    assert abs(score["encrypted"] - score["plaintext"]) < 0.002


def test_the_summary_has_what_it_promises(demo):
    codec, _, _, summary = demo
    assert summary["codec"] == codec
    assert summary["values"] > 9000
    assert summary["rounds"] == len(summary["score_per_round"]["encrypted"]) >= 5
    assert len(summary["score_per_round"]["plaintext"]) == summary["rounds"]  # side by side in the picture, to the end
    assert set(summary["seconds"]) == {"train", "encrypt", "upload", "wait", "fold", "download", "decrypt"}
    assert all(seconds > 0 for seconds in summary["seconds"].values())
    sites, rounds = summary["sites"], summary["rounds"]
    # A hospital that was killed in round 2 counts from then on.
    sums = sites * rounds - (1 if summary["keys"] == "split" else 0)
    assert summary["verified"] == {"records": sums, "manifests": sites * sums, "sums": sums}
    assert 0 < summary["bytes_per_value_up"] < 25
    assert 0 < summary["bytes_per_value_down"] < 25


def test_what_two_read_together_depends_on_the_keys(demo):
    _, printed, _, summary = demo
    values = f"{summary['values']:,}"
    if summary["keys"] == "shared":
        assert summary["read_together"] == {}
        return
    assert summary["read_together"]["shared"] == f"{values} of {values} values"
    assert summary["read_together"]["split"].startswith(f"0 of {values} values: 1 share of the 3")
    assert "is killed, after its upload to round 2" in " ".join(printed.split())


def test_table_and_picture_are_there(demo):
    _, printed, folder, summary = demo
    assert f"{summary['score']['encrypted']:.4f}" in printed
    assert "exact" in printed
    assert "Verified by the hospitals before they decrypted anything" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert (folder / "demo.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "</svg>" in (folder / "demo.svg").read_text()


def test_who_ends_it_finds_no_folders_left(tmp_path):
    """SIGTERM, as of a container or a service manager, once there is something to leave behind."""
    with subprocess.Popen(
        [sys.executable, "-m", "he_agg", "demo"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until(lambda: list(tmp_path.glob("he-agg-demo-*/*/share.npz")), 120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert [path.name for path in tmp_path.iterdir() if path.name != "demo-report"] == []
