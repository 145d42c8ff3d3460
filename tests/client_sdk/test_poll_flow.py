"""Waiting for rounds, and agreeing on key and plan before anything is encrypted."""

from __future__ import annotations

import dataclasses

import pytest

from client_sdk._effects import Request, Response
from client_sdk._protocol.poll import current_round, next_round, open_round
from he_agg.errors import KeystoreError, PlanError, ProtocolError, Reason, TransportError
from he_agg.protocol.messages import CurrentRound
from tests.support.flows import ROUND, FakeAggregator, World, json_of, problem, session_for, small_plan, unreachable

PLAN = small_plan()
AGGREGATOR = FakeAggregator(PLAN)
CURRENT = AGGREGATOR.current
WAITING = CurrentRound("test", "running", 1, CURRENT.key_id, CURRENT.plan_id)
ENDED = CurrentRound("test", "ended", 1, CURRENT.key_id, CURRENT.plan_id)


def world_of(*answers, instant: bool = True):
    """A world that gives these answers one after the other, at once."""
    left = list(answers)

    def meddle(request: Request, body: bytes):
        if instant:
            world.time -= 30.0
        answer = left.pop(0)
        return answer if isinstance(answer, Response | Exception) else json_of(answer)

    world = World(AGGREGATOR, meddle)
    return world


def test_open_round_comes_at_once(tmp_path):
    world = world_of(CURRENT)
    opened = world.run(next_round(session_for(tmp_path, PLAN), None))
    assert (opened.id, opened.submitted, opened.closes_at) == (ROUND, False, 3600.0)
    assert world.paths("GET") == ["/v1/federations/test/rounds/current?wait=30"]


def test_waits_until_a_round_opens(tmp_path):
    world = world_of(WAITING, WAITING, CURRENT)
    assert world.run(next_round(session_for(tmp_path, PLAN), None)).id == ROUND
    assert world.sleeps == [1.0, 1.0]  # although they come at once: never a busy loop


def test_a_pause_is_waited_out(tmp_path):
    paused = CurrentRound("test", "paused", 1, CURRENT.key_id, CURRENT.plan_id)
    world = world_of(paused, paused, CURRENT)
    assert world.run(next_round(session_for(tmp_path, PLAN), None)).id == ROUND
    assert world.sleeps == [1.0, 1.0]


def test_round_seen_before_is_passed_on_and_not_given_again(tmp_path):
    second = dataclasses.replace(CURRENT, round_id="test.2.1", number=2)
    world = world_of(CURRENT, second)
    assert str(world.run(next_round(session_for(tmp_path, PLAN), "test.1.1")).id) == "test.2.1"
    assert world.paths("GET")[0].endswith("?wait=30&after=test.1.1")


def test_round_without_this_site_is_passed_over(tmp_path):
    second = dataclasses.replace(CURRENT, round_id="test.2.1", number=2)
    world = world_of(dataclasses.replace(CURRENT, invited=False), second)
    assert str(world.run(next_round(session_for(tmp_path, PLAN), None)).id) == "test.2.1"
    assert world.paths("GET")[1].endswith("&after=test.1.1")


def test_end_of_the_federation(tmp_path):
    assert world_of(WAITING, ENDED).run(next_round(session_for(tmp_path, PLAN), None)) is None


def test_restart_of_the_aggregator_does_not_end_it(tmp_path):
    world = world_of(unreachable(), problem(503, "internal"), unreachable(), CURRENT, instant=False)
    assert world.run(next_round(session_for(tmp_path, PLAN), None)).id == ROUND


def test_patience_has_an_end(tmp_path):
    world = World(AGGREGATOR, lambda request, body: unreachable())
    with pytest.raises(TransportError, match="gave up"):
        world.run(next_round(session_for(tmp_path, PLAN, patience_s=300.0), None))
    assert 270 <= world.time <= 360


def test_patience_starts_anew_after_each_answer(tmp_path):
    answers = [a for _ in range(20) for a in (unreachable(), WAITING)]
    world = world_of(*answers, CURRENT, instant=False)
    assert world.run(next_round(session_for(tmp_path, PLAN, patience_s=35.0), None)).id == ROUND
    assert world.time > 600


@pytest.mark.parametrize("state", [CURRENT, WAITING])
@pytest.mark.parametrize(
    ("changed", "error", "reason"),
    [
        ({"plan_id": "00" * 32}, PlanError, Reason.PLAN_MISMATCH),
        ({"key_id": "00" * 32}, KeystoreError, Reason.KEY_MISMATCH),
        ({"epoch": 2}, KeystoreError, Reason.KEY_MISMATCH),
        ({"plan_id": "00" * 32, "key_id": "00" * 32}, PlanError, Reason.PLAN_MISMATCH),
    ],
)
def test_another_key_or_plan_is_found_before_anything_is_encrypted(tmp_path, state, changed, error, reason):
    world = world_of(dataclasses.replace(state, **changed))
    with pytest.raises(error) as caught:
        world.run(next_round(session_for(tmp_path, PLAN), None))
    assert caught.value.reason == reason
    assert "nothing was encrypted" in caught.value.hint
    assert CURRENT.plan_id[:12] in caught.value.message or CURRENT.key_id[:12] in caught.value.message


@pytest.mark.parametrize(
    "changed",
    [
        {"federation": "other"},
        {"stage": "closing"},
        {"round_id": None},
        {"round_id": "nonsense"},
        {"round_id": "other.1.1"},
        {"round_id": "test.1.2"},
        {"number": 2},
        {"number": None},
        {"attempt": None},
        {"remaining_s": None},
    ],
)
def test_state_that_makes_no_sense(tmp_path, changed):
    world = world_of(dataclasses.replace(CURRENT, **changed))
    with pytest.raises(ProtocolError) as caught:
        world.run(next_round(session_for(tmp_path, PLAN), None))
    assert caught.value.reason == Reason.BAD_ANSWER


@pytest.mark.parametrize("body", [b"", b"null", b"3", b"{}", b"{", b'{"federation": 1}', b"\xff"])
def test_state_that_is_none(tmp_path, body):
    with pytest.raises(ProtocolError) as caught:
        world_of(Response(200, {}, body)).run(current_round(session_for(tmp_path, PLAN)))
    assert caught.value.reason == Reason.BAD_ANSWER


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "unauthenticated"), (403, "forbidden"), (404, "unknown-federation")]
)
def test_refusals_end_the_polling(tmp_path, status, reason):
    world = world_of(problem(status, reason))
    with pytest.raises(ProtocolError) as caught:
        world.run(next_round(session_for(tmp_path, PLAN), None))
    assert caught.value.reason == reason
    assert len(world.sent) == 1


@pytest.mark.parametrize("answer", [WAITING, ENDED, dataclasses.replace(CURRENT, invited=False)])
def test_no_open_round_now(tmp_path, answer):
    assert world_of(answer).run(open_round(session_for(tmp_path, PLAN))) is None


def test_no_deadline_is_later_than_the_plan_allows(tmp_path):
    world = world_of(dataclasses.replace(CURRENT, remaining_s=10**9), instant=False)
    opened = world.run(next_round(session_for(tmp_path, PLAN), None))
    assert opened.closes_at == world.time + PLAN.public.deadline_s


def test_deadline_in_the_past_is_no_negative_time(tmp_path):
    world = world_of(dataclasses.replace(CURRENT, remaining_s=-5), instant=False)
    assert world.run(next_round(session_for(tmp_path, PLAN), None)).closes_at == world.time
