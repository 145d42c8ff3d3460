"""OPERATIONS.md and the explanations of reasons name settings that exist."""

import re
from pathlib import Path

from he_agg.explanations import EXPLANATIONS
from service.problems import PROBLEMS, RETRY_AFTER_S
from service.settings import Settings

PAGE = (Path(__file__).parents[3] / "OPERATIONS.md").read_text() + str(list(EXPLANATIONS.values()))


def test_settings_that_the_page_names_exist():
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)*_(?:s|bytes|uploads|requests|threads|sums|rate))`", PAGE))
    named = {name for name in named if not name.startswith("he_agg_")}  # metrics: tests/service/monitor/
    assert named - {"keep_sums", "bytes_up"} <= Settings.model_fields.keys() | {"min_sites"}


def test_whatever_passes_by_itself_says_after_how_long():
    assert {reason for reason, (status, _) in PROBLEMS.items() if status in (408, 429, 503, 507)} == set(RETRY_AFTER_S)
