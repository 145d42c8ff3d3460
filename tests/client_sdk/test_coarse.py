"""A site is told when its update vanishes in rounding; nobody else is."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from client_sdk._protocol import verbs as _flows
from client_sdk.federated import Update
from client_sdk.progress import PhaseProgress
from client_sdk.training import Report, simulate, train, training_plan
from he_agg import ResolutionWarning
from tests.support.flows import OPEN, FakeAggregator, World, session_for, small_plan, update_of

PLAN = small_plan()


def test_the_mean_says_what_rounding_did_and_nobody_else_learns_of_it(tmp_path, caplog, capfd):
    """A tiny update and an ordinary one look the same from outside: requests, events, log records, the terminal."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.WARNING, logger="numba")  # it tells of every kernel that it has to compile
    seen: list[Any] = []
    for name, factor in (("fine", 1.0), ("tiny", 1e-7)):
        server = FakeAggregator(PLAN)
        server.others_submit()
        session, world = session_for(tmp_path / name, PLAN), World(server)
        update = Update({"w": update_of().tensors["w"] * factor}, 1)
        if name == "tiny":
            told = (
                r"^site a: tensor 'w': 100 % of its entries .*, relative error 100 %; better: clip 2e-07 instead of 1"
            )
            with pytest.warns(ResolutionWarning, match=told):
                mean = world.run(_flows.aggregate(session, OPEN, update))
        else:
            mean = world.run(_flows.aggregate(session, OPEN, update))
        (one,) = mean.rounded
        assert (one.tensor, one.entries, one.lost) == ("w", 1, float(name == "tiny"))
        asked = [
            (line.partition("submissions")[0], len(body) if "/submissions/" in line else 0, set(headers))
            for (line, body), headers in zip(world.sent, world.headers, strict=True)
        ]
        seen.append((asked, [type(event) for event in world.events if not isinstance(event, PhaseProgress)]))
    assert seen[0] == seen[1]
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_of_one_tensor_a_site_is_told_once(tmp_path):
    session = session_for(tmp_path, PLAN)
    update = Update({"w": update_of().tensors["w"] * 1e-7}, 1)
    with pytest.warns(ResolutionWarning, match="tensor 'w'"):
        World(FakeAggregator(PLAN)).run(_flows.submit(session, OPEN, update))
    World(FakeAggregator(PLAN)).run(_flows.submit(session, OPEN, update))  # a warning would be an error


def test_a_training_tells_of_it_in_its_reports_and_notes():
    model = {"w": np.zeros(40), "b": np.zeros(2)}
    plan = training_plan("small", model, clip=1.0, weight_cap=30, max_sites=3, rounds=2)

    def fit(model, task):
        model["w"] += np.linspace(1e-5, 2e-5, 40)
        model["b"] += 0.5
        return 10

    def work(site, i):
        reports: list[Report] = []
        result = train(site, {name: array.copy() for name, array in model.items()}, fit, hooks=[reports.append])
        return result, reports

    with pytest.warns(ResolutionWarning, match="tensor 'w'") as caught:
        answers = simulate(plan, ["a", "b", "c"], work)
    assert len(caught) == 3
    for result, reports in answers:
        assert [[one.tensor for one in report.rounded] for report in reports] == [["w", "b"]] * 2
        assert [one.lost for one in reports[0].rounded] == [1.0, 0.0]
        assert len(result.notes) == 1
        assert "better: clip 5e-05 instead of 1" in result.notes[0]
        assert all("rounded" not in entry for entry in result.history)
