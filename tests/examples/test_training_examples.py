"""The tutorials run, small, and show what they say."""

import pytest

pytest.importorskip("torch")

from examples.tutorials import compression, fedavg_torch


def test_encrypted_fedavg_of_a_network_at_five_hospitals(tmp_path, capsys):
    out = tmp_path / "fedavg.png"
    found = fedavg_torch.main(["--out", str(out), "--rounds", "4", "--seeds", "3", "--limit", "250"])
    assert out.stat().st_size > 20_000
    assert "bit for bit" in capsys.readouterr().out  # the program itself compares every round
    assert len(found["encrypted"]) == 4
    # The same weights to start from and the same patients; other orders of patients. Three seeds tell the noise.
    floats = [run[-1][-1] for run in found["float"]]
    noise = max(floats) - min(floats)
    assert min(floats) - noise <= found["encrypted"][-1][-1] <= max(floats) + noise
    # The histogram of scores that went through the sum gives the AUC of the pooled test patients, to its own bound.
    for before, after in zip(found["encrypted"], found["through_the_sum"][1:], strict=False):
        assert abs(after["auc"] - before[-1]) <= after["auc_error"]


def test_compression_saves_what_the_table_says(tmp_path):
    out = tmp_path / "compression.png"
    rows = {
        row["recipe"]: row
        for row in compression.main(["--out", str(out), "--steps", "2", "--seeds", "1", "--limit", "60"])
    }
    assert out.stat().st_size > 20_000
    full = rows["none, 16 bits"]["bytes"]
    assert rows["few bits: 8"]["bytes"] < 0.8 * full
    assert rows["mask 1/10, 16 bits"]["bytes"] < 0.5 * full
    assert all(0 <= score <= 1 for row in rows.values() for score in row["scores"])
