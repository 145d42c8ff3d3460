"""What the pages for a hospital's IT say is so: settings and their defaults, ports, and tests that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from he_agg.protocol.http_signatures import WINDOW_S
from service.monitor.audit_log.sender import WAITING
from service.monitor.dashboard.access import SESSION_S
from service.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = ("network", "retention", "dpia", "questionnaires")
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}


def said(page):
    return " ".join((ROOT / "docs" / f"{page}.md").read_text().split())


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_a_page_names_exist(page):
    named = re.findall(r"`(tests/[\w/.]+)`", said(page))
    assert named or page == "dpia"
    assert [path for path in named if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize(
    ("setting", "words", "value"),
    [
        ("keep_unopened_s", "7 days", 7 * 86400),
        ("upload_expiry_s", "a day after", 86400),
        ("keep_dealings_s", "an hour after", 3600),
        ("keep_sums", "5 newer ones", 5),
        ("oidc_session_s", "8 hours", 8 * 3600),
        ("audit_log", "10,000 that wait", None),
    ],
)
def test_the_retention_table(setting, words, value):
    (row,) = (
        line for line in (ROOT / "docs/retention.md").read_text().splitlines() if line.endswith(f"| `{setting}` |")
    )
    assert words in row
    assert DEFAULTS[setting] == value
    assert WAITING == 10_000


def test_every_setting_of_the_retention_table_has_its_figure_tested():
    (table, _) = (ROOT / "docs/retention.md").read_text().split("## At a hospital")
    settings = set(re.findall(r"\| `(\w+)` \|$", table, re.M))
    (marker,) = (mark for mark in test_the_retention_table.pytestmark if mark.name == "parametrize")
    assert settings == {case[0] for case in marker.args[1]}


def test_ports_times_and_sessions():
    network = said("network")
    assert f"TCP {DEFAULTS['port']} (`--port`)" in network
    assert f"listens on {DEFAULTS['port']} of loopback" in network
    assert DEFAULTS["host"] == "127.0.0.1"
    assert (
        DEFAULTS["operator_port"]
        is DEFAULTS["metrics_port"]
        is DEFAULTS["audit_log"]
        is DEFAULTS["oidc_issuer"]
        is None
    )
    assert f"more than {DEFAULTS['max_wait_s']:.0f} seconds" in network
    assert "within five minutes" in network
    assert WINDOW_S == 300
    assert "after 8 hours by a provider, 12 by a link" in said("questionnaires")
    assert SESSION_S == 12 * 3600
    assert DEFAULTS["oidc_session_s"] == 8 * 3600
