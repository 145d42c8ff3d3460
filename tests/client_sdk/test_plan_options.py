"""What `he-agg found` proposes to agree on, where nobody says otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from client_sdk.cli.plan_options import plan_of


@pytest.mark.parametrize(
    ("sites", "trustees", "said", "keys"),
    [
        (2, 0, {"min_sites": 2}, "shared"),
        (3, 0, {}, "shared"),  # of three holders none may be away
        (3, 1, {}, "split"),
        (4, 0, {}, "split"),
        (31, 0, {}, "split"),
        (32, 0, {}, "shared"),  # a committee of holders has to be named
        (4, 0, {"min_sites": 2}, "shared"),  # in a pair each reads the other by subtraction, whatever the keys
        (4, 0, {"keys": "shared"}, "shared"),
        (3, 0, {"keys": "split"}, "split"),
    ],
)
def test_keys_are_split_where_one_holder_may_be_away(tmp_path, sites, trustees, said, keys):
    np.savez(tmp_path / "model.npz", w=np.zeros(5))
    given = dict.fromkeys(("plan_file", "update", "weight", "max_sites", "min_sites", "keys", "bits"))
    given |= {"model": tmp_path / "model.npz", "clip": 1.0, "weight_cap": 10, "rounds": 3, "deadline_s": 60}
    assert plan_of("stroke", sites, given | said, trustees).public.keys == keys
