"""A real federation with split keys: exact means, and a transcript that holds, with what its holders have done."""

from __future__ import annotations

import numpy as np

from client_sdk.local import plan_for
from he_agg.audit import audit


def update_of(site, number):
    return {"w": np.arange(300, dtype=np.float64) / 1000 + site + number / 100}


def test_rounds_under_split_keys_are_exact_and_leave_a_transcript_that_holds(running, name, tmp_path):
    plan = plan_for(update_of(0, 1), 4, clip=4.0, weight_cap=4, rounds=2, keys="split", name=name)
    with running(plan, 4) as federation:
        for number in (1, 2):
            means = federation.everywhere(
                lambda site, i, n=number: next(site.rounds()).aggregate(update_of(i, n), weight=i + 1)
            )
            exact = sum((i + 1) * update_of(i, number)["w"] for i in range(4)) / 10
            for mean in means:
                assert mean.n_sites == 4
                assert mean.tensors["w"].tobytes() == means[0].tensors["w"].tobytes()
                # Each of four sites rounds by half a step at most.
                assert np.abs(mean.tensors["w"] - exact).max() <= 4 * mean.resolution["w"] / 2 + np.spacing(4.0)
        transcript = tmp_path / "transcript.jsonl"
        federation.aggregator.operate("federation", "export", name, "--out", transcript)
    with transcript.open("rb") as file:
        result = audit(file)
    assert result.findings == []
    sums = [row for row in result.rounds if row.outcome == "published"]
    assert len(sums) == 2
    assert all(len(row.holders) >= 3 for row in sums)  # a quorum of four
    assert all(list(row.holders.values()).count("answered") >= 2 for row in sums)
