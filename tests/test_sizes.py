"""The sizes that pages name are what plans have."""

from __future__ import annotations

from pathlib import Path

import pytest

from he_agg.plan.schemes import SCHEMES, scheme_of
from he_agg.plan.sections import part_places

OPERATIONS = " ".join((Path(__file__).parents[1] / "OPERATIONS.md").read_text().split())


@pytest.mark.parametrize("codec", sorted(SCHEMES))
def test_the_size_of_a_submission_in_operations(codec):
    values = 10**7
    sections = scheme_of(codec).parameters.choose(2**15 - 1, 31).sections(values, 4 * 2**20)
    per_value = sum(place.wire_bytes for place in part_places(sections)) / values
    said = {"hybrid": "3.75 bytes per value with 16-bit values and up to 31 sites (`hybrid`, the default)"}
    assert said.get(codec, f"20 with `{codec}`") in OPERATIONS
    assert per_value == pytest.approx(3.75 if codec == "hybrid" else 20, rel=0.01)
