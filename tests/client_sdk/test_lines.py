"""The lines that people see while a site works: what they say, how often, and to whom."""

from __future__ import annotations

import io
import sys
import types
from typing import Any

import numpy as np
import pytest

from client_sdk import Site
from client_sdk import lines as _lines
from client_sdk.lines import Lines, somebody_watches
from client_sdk.progress import Notice, PhaseFinished, PhaseProgress, PhaseStarted, Retrying, Waits
from client_sdk.training import simulate, train, training_plan
from tests.support.real import SITES

ROUND = "demo.3.1"


@pytest.fixture
def clock(monkeypatch) -> types.SimpleNamespace:
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(_lines, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_quick_round_is_two_lines(clock):
    out = io.StringIO()
    lines = Lines("hospital-a", out=out)
    for phase in ("encrypt", "upload"):
        lines(PhaseStarted(ROUND, phase, 1000))
        lines(PhaseProgress(ROUND, phase, 400, 1000))
        clock.now += 0.5
        lines(PhaseFinished(ROUND, phase, 0.5))
    lines(PhaseStarted(ROUND, "wait", 0))
    lines(Waits(f"round {ROUND}: waiting for the sum of all sites", ROUND, 3000.0))
    lines(PhaseFinished(ROUND, "wait", 4.0))
    lines(PhaseFinished(ROUND, "decrypt", 0.25))
    assert out.getvalue().splitlines() == [
        "hospital-a: round demo.3.1: waiting for the sum of all sites, 50 min at most",
        "hospital-a: round demo.3.1: the mean is there; seconds: encrypt 0.5, upload 0.5, wait 4.0, decrypt 0.2",
    ]


def test_what_takes_long_is_told_of_less_and_less_often(clock):
    out = io.StringIO()
    lines = Lines(out=out)
    lines(PhaseStarted(ROUND, "upload", 10**9))
    for percent in range(100):
        clock.now += 1.0
        lines(PhaseProgress(ROUND, "upload", percent * 10**7, 10**9))
    told = out.getvalue().splitlines()
    assert told[0] == "round demo.3.1: sending, 2 % of 1.0 GB"
    assert [int(line.split()[3]) for line in told] == [2, 5, 11, 23, 47, 95]
    for left_s in range(3600, 0, -30):
        clock.now += 30.0
        lines(Waits("round demo.3.1: waiting for the sum of all sites", ROUND, float(left_s)))
    assert 5 < len(out.getvalue().splitlines()) - len(told) < 25


def test_the_first_retry_says_what_and_for_how_long(clock):
    out = io.StringIO()
    lines = Lines(only_retries=True, out=out)
    lines(Retrying("https://he.example: nobody listens at that port", 1, 0.25, 300.0))
    lines(Retrying("https://he.example: nobody listens at that port", 2, 0.25, 90.0))
    lines(Notice("paused", "the logger tells of it"))
    lines(Waits("federation demo: no round has opened for this site yet"))
    lines(PhaseFinished(ROUND, "decrypt", 1.0))
    assert out.getvalue().splitlines() == [
        "https://he.example: nobody listens at that port; trying again for 5 min at most",
        "https://he.example: nobody listens at that port; 2 tries, giving up in 90 s",
    ]


def test_a_wait_without_an_end_is_told_of_once(clock):
    out = io.StringIO()
    lines = Lines(out=out)
    for _ in range(5):
        lines(Waits("federation demo: no round has opened for this site yet"))
        clock.now += 100.0
    assert out.getvalue() == "federation demo: no round has opened for this site yet\n"


def test_terminals_and_notebooks_are_known(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not somebody_watches()
    shell: Any = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    assert somebody_watches()
    shell = None
    assert not somebody_watches()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert somebody_watches()


@pytest.mark.parametrize(
    ("watched", "progress", "printed"),
    [(False, None, False), (True, None, True), (False, True, True), (True, False, False)],
)
def test_a_site_prints_where_somebody_watches_unless_told_otherwise(
    federate, capsys, monkeypatch, watched, progress, printed
):
    federation = federate(start=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    with Site.open(federation.config(SITES[0]), progress=progress) as site:
        assert site.current() is None
        site.say("a line")
    assert capsys.readouterr() == ("", f"{SITES[0]}: a line\n" if printed else "")


def test_a_training_tells_of_each_round_where_somebody_watches(capsys, monkeypatch):
    """Of a simulation, one site does."""
    model = {"w": np.zeros(40)}
    plan = training_plan("small", model, clip=1.0, weight_cap=30, max_sites=3, rounds=2)

    def fit(model, task):
        model["w"] += 0.5
        return 10

    def work(site, i):
        return train(site, {"w": np.zeros(40)}, fit)

    simulate(plan, ["a", "b", "c"], work)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    simulate(plan, ["a", "b", "c"], work)
    assert capsys.readouterr() == ("", "a: round 1: 3 sites, weight 30\na: round 2: 3 sites, weight 30\n")
