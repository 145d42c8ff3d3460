"""OPERATIONS.md says of every problem what it means and what to do."""

import re
from pathlib import Path

from service.problems import PROBLEMS, RETRY_AFTER_S
from service.settings import Settings

PAGE = (Path(__file__).parents[3] / "OPERATIONS.md").read_text()


def test_every_problem_has_a_row():
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert {reason: int(status) for reason, status, _, _ in rows} == {
        reason.value: status for reason, (status, _) in PROBLEMS.items()
    }
    assert len(rows) == len(PROBLEMS)
    assert [int(status) for _, status, _, _ in rows] == sorted(int(status) for _, status, _, _ in rows)


def test_settings_that_the_page_names_exist():
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)*_(?:s|bytes|uploads|requests|threads|sums|rate))`", PAGE))
    named = {name for name in named if not name.startswith("he_agg_")}  # metrics: tests/service/monitor/
    assert named - {"keep_sums", "bytes_up"} <= Settings.model_fields.keys() | {"min_sites"}


def test_whatever_passes_by_itself_says_after_how_long():
    assert {reason for reason, (status, _) in PROBLEMS.items() if status in (408, 429, 503, 507)} == set(RETRY_AFTER_S)
