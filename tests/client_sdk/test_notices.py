"""What a site tells of when nothing happens, or happens without it: events, a log line, sentences. Never silence."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from typing import Any

import pytest

from client_sdk import Notice, Site
from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.poll import next_round
from client_sdk._protocol.state import federation_state
from he_agg.errors import ProtocolError, Reason
from he_agg.ids import RoundId
from tests.support.flows import OPEN, FakeAggregator, World, session_for, small_plan, update_of

PLAN = small_plan()
DAY_S = 86400.0
ALL = {"a", "b", "c"}


def noticed(world: World) -> list[Notice]:
    return [event for event in world.events if isinstance(event, Notice)]


def waits(tmp_path: Any, server: FakeAggregator, days: float = 1.0) -> list[Notice]:
    """A site that waits for a round for so long."""
    (site,) = ALL - set(server.invited) or {"a"}
    session = dataclasses.replace(session_for(tmp_path, server.plan, site), round_s=days * DAY_S)
    world = World(server)
    with pytest.raises(ProtocolError, match="was invited to no round within") as caught:
        world.run(next_round(session, None))
    assert caught.value.reason == Reason.NOT_INVITED
    assert days * DAY_S < world.time < days * DAY_S + 120
    return noticed(world)


@pytest.mark.parametrize("topic", ["paused", "waiting", "not-invited"])
def test_a_long_wait_is_told_of_less_and_less_often(tmp_path, topic):
    server = FakeAggregator(small_plan(sample_percent=50) if topic == "not-invited" else PLAN)
    assert server.attempt is not None
    if topic == "paused":
        server.stage = "paused"
    elif topic == "waiting":
        server.attempt = None
    else:
        server.draw()
    notices = waits(tmp_path, server)
    assert {notice.topic for notice in notices} == {topic}
    assert {notice.round_id for notice in notices} == {None if topic != "not-invited" else "test.1.1"}
    told = [notice.waited_s for notice in notices]
    assert told[0] == (60 if topic == "waiting" else 0)
    gaps = [after - before for before, after in itertools.pairwise(told)]
    assert [round(gap / 60) for gap in gaps][:7] == [1, 2, 4, 8, 16, 32, 60]
    assert all(3600 <= gap <= 3630 for gap in gaps[6:])
    assert len(notices) < 32
    assert notices[-1].text.endswith(" h")


def test_rounds_without_this_site_are_told_of_once(tmp_path):
    server, session = FakeAggregator(PLAN), session_for(tmp_path, PLAN)
    for number, excluded in enumerate([{"a": "absent"}, {"a": "incomplete"}], 1):
        server.open(RoundId("test", number, 1))
        server.others_submit()
        server.close(excluded=excluded)
    server.open(RoundId("test", 3, 1))
    server.fail()
    world = World(server)
    world.run(federation_state(session))
    assert [(notice.topic, notice.round_id) for notice in noticed(world)] == [
        ("missed", "test.1.1"),
        ("left-out", "test.2.1"),
    ]
    assert "incomplete" in noticed(world)[1].text
    world = World(server)
    world.run(federation_state(session))
    assert noticed(world) == []


def test_a_round_that_counts_is_nothing_to_tell(tmp_path):
    server, session = FakeAggregator(PLAN), session_for(tmp_path, PLAN)
    server.others_submit()
    world = World(server)
    world.run(_flows.aggregate(session, OPEN, update_of()))
    assert noticed(world) == []


def at_the_end(server, session, done):
    """What is told when a federation has ended, after so many rounds."""
    if done:
        server.others_submit()
        server.close()
        server.open(RoundId("test", 2, 1))
    server.end()
    world = World(server)
    assert world.run(next_round(session, None)) is None
    return noticed(world)


@pytest.mark.parametrize("done", [0, 1])
def test_an_early_end(tmp_path, done):
    server, session = FakeAggregator(PLAN), session_for(tmp_path, PLAN)
    notice = at_the_end(server, session, done)[-1]
    assert notice.topic == "ended-early"
    assert f"after {done} of the {PLAN.public.rounds} rounds" in notice.text


def test_an_end_as_the_plan_has_it_is_nothing_to_tell(tmp_path):
    plan = small_plan(rounds=1)
    notices = at_the_end(FakeAggregator(plan), session_for(tmp_path, plan), 1)
    assert [notice.topic for notice in notices] == ["left-out"]


def test_a_disputed_sum_is_told_of_once(tmp_path):
    server, session = FakeAggregator(PLAN), session_for(tmp_path, PLAN)
    server.others_submit()
    server.close()
    server.open(RoundId("test", 2, 1))
    server.disputed = RoundId("test", 1, 1)
    world = World(server)
    for _ in range(3):
        assert world.run(federation_state(session)).body.disputed == RoundId("test", 1, 1)
    topics = [notice.topic for notice in noticed(world)]
    assert topics.count("disputed") == 1
    assert "too few have opened it" in noticed(world)[-1].text


@pytest.mark.parametrize("disputed", [RoundId("test", 1, 2), RoundId("test", 2, 1)])
def test_a_dispute_of_another_sum_than_the_newest_is_refused(tmp_path, disputed):
    server, session = FakeAggregator(PLAN), session_for(tmp_path, PLAN)
    server.others_submit()
    server.close()
    server.open(RoundId("test", 2, 1))
    server.disputed = disputed
    with pytest.raises(ProtocolError, match="state, disputed: expected test"):
        World(server).run(federation_state(session))


def test_what_a_site_keeps_and_logs(tmp_path, caplog):
    site = Site(session_for(tmp_path, PLAN), None)
    heard = site._heard(None)
    with caplog.at_level(logging.WARNING, "client_sdk"):
        for waited_s in (0.0, 60.0, 180.0):
            heard(Notice("paused", f"paused for {waited_s}", None, waited_s))
        heard(Notice("missed", "missed 1", "test.1.1"))
        heard(Notice("missed", "missed 2", "test.2.1"))
        heard(Notice("paused", "paused again", None, 0.0))
    assert [notice.text for notice in site.notices] == ["paused for 180.0", "missed 1", "missed 2", "paused again"]
    assert len(caplog.records) == 6
