"""Waiting for rounds, believing signed states only, and agreeing on key and plan before anything is encrypted."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import pytest

from client_sdk._effects import Request, Response
from client_sdk._protocol.poll import next_round, open_round
from client_sdk._protocol.state import federation_state
from he_agg.documents.record import NO_RECORD
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.errors import KeystoreError, PlanError, ProtocolError, Reason, TransportError
from he_agg.ids import RoundId
from he_agg.signing import SigningKey
from tests.support.flows import (
    AGGREGATOR_KEY,
    NOW,
    ROUND,
    FakeAggregator,
    World,
    problem,
    security_log,
    session_for,
    signed_state,
    small_plan,
    unreachable,
)
from tests.support.trust import AGGREGATOR, COORDINATOR, identity_of

PLAN = small_plan()
SAMPLED = small_plan(sample_percent=50)
AGGREGATOR_HERE = FakeAggregator(PLAN)
CURRENT = AGGREGATOR_HERE.state
WAITING = dataclasses.replace(CURRENT, open=None)
PAUSED = dataclasses.replace(WAITING, stage="paused")
ENDED = dataclasses.replace(WAITING, stage="ended")


def with_open(**changed: Any) -> FederationState:
    assert CURRENT.open is not None
    return dataclasses.replace(CURRENT, open=dataclasses.replace(CURRENT.open, **changed))


def world_of(*answers, instant: bool = True):
    """A world that gives these answers one after the other, at once."""
    left = list(answers)

    def meddle(request: Request, body: bytes):
        if instant:
            world.time -= 30.0
        answer = left.pop(0)
        return answer if isinstance(answer, Response | Exception) else signed_state(answer)

    world = World(AGGREGATOR_HERE, meddle)
    return world


def test_open_round_comes_at_once(tmp_path):
    world = world_of(CURRENT)
    opened = world.run(next_round(session_for(tmp_path, PLAN), None))
    assert (opened.id, opened.records, opened.closes_at) == (ROUND, 0, 3600.0)
    assert world.paths("GET") == ["/v1/federations/test/state?wait=30"]


def test_waits_until_a_round_opens(tmp_path):
    world = world_of(WAITING, WAITING, CURRENT)
    assert world.run(next_round(session_for(tmp_path, PLAN), None)).id == ROUND
    assert world.sleeps == [1.0, 1.0]  # although they come at once: never a busy loop
    known = Signed.make(WAITING, AGGREGATOR_KEY, AGGREGATOR).digest
    assert world.paths("GET")[1:] == [f"/v1/federations/test/state?wait=30&after={known}"] * 2


def test_a_pause_is_waited_out(tmp_path):
    world = world_of(PAUSED, PAUSED, CURRENT)
    assert world.run(next_round(session_for(tmp_path, PLAN), None)).id == ROUND
    assert world.sleeps == [1.0, 1.0]


def test_round_seen_before_is_not_given_again(tmp_path):
    server, states = FakeAggregator(PLAN), [CURRENT]
    server.others_submit()
    server.close()
    server.open(RoundId("test", 2, 1))
    world = World(server, lambda request, _: signed_state(states.pop()) if states else None)
    assert str(world.run(next_round(session_for(tmp_path, PLAN), "test.1.1")).id) == "test.2.1"


def test_round_without_this_site_is_passed_over(tmp_path):
    """A plan that draws two of the three sites: attempts fail until the third is drawn."""
    server = FakeAggregator(SAMPLED)
    for attempt in itertools.count(1):
        server.open(RoundId("test", 1, attempt))
        server.draw()
        if attempt == 1:
            (site,) = {"a", "b", "c"} - set(server.invited)
            session = session_for(tmp_path, SAMPLED, site)
            assert World(server).run(open_round(session)) is None
        if site in server.invited:
            break
        passed_over = server.state
        server.fail()
    states = [passed_over]
    world = World(server, lambda request, _: signed_state(states.pop()) if states else None)
    assert world.run(next_round(session, None)).id == server.round_id
    assert attempt > 1


@pytest.mark.parametrize(
    ("failed", "sent"), [(0, (1, 2)), (0, (2, 1)), (1, (1, 1)), (1, (1, 3)), (1, (2, 1)), (1, (2, 2))]
)
def test_an_attempt_that_is_not_due_is_not_believed(tmp_path, failed, sent):
    """An attempt that nobody has seen fail could have drawn other sites; one that is over could open again."""
    server, session = FakeAggregator(PLAN), session_for(tmp_path, PLAN)
    if failed:
        server.fail()
    server.open(RoundId("test", *sent))
    got = f"test.{sent[0]}.{sent[1]}"
    with pytest.raises(ProtocolError, match=f"round and attempt: expected test.1.{1 + failed}, got {got}") as caught:
        World(server).run(next_round(session, None))
    assert caught.value.reason is Reason.CHAIN_MISMATCH
    assert security_log(session)[0]["what"] == "state, round and attempt"


@pytest.mark.parametrize("invited", [("b", "c"), ("a", "b"), ("a", "b", "c", "stranger"), ()])
def test_attempt_that_invites_others_than_it_has_to_is_not_believed(tmp_path, invited):
    session = session_for(tmp_path, PLAN)
    with pytest.raises(ProtocolError) as caught:
        world_of(with_open(invited=invited)).run(next_round(session, None))
    assert caught.value.reason == Reason.BAD_ANSWER
    assert security_log(session)[0]["what"] == "state, invited sites"


def test_end_of_the_federation(tmp_path):
    """For a record, not for a word."""
    server, session = FakeAggregator(PLAN), session_for(tmp_path, PLAN)
    server.end()
    world = World(server, lambda request, _: signed_state(WAITING) if request.path.endswith("/state?wait=30") else None)
    assert world.run(next_round(session, None)) is None
    assert session.chain.link(1).ended
    assert World(server).run(open_round(session)) is None


def test_an_end_without_a_record_ends_nothing(tmp_path):
    assert refused(tmp_path, signed_state(ENDED), "state, stage") == Reason.CHAIN_MISMATCH


@pytest.mark.parametrize("stage", ["created", "running", "paused"])
def test_a_federation_that_has_ended_does_not_go_on(tmp_path, stage):
    server, session = FakeAggregator(PLAN), session_for(tmp_path, PLAN)
    server.end()
    World(server).run(federation_state(session))
    server.stage = stage
    with pytest.raises(ProtocolError, match="state, stage: expected ended, as its last record says"):
        World(server).run(federation_state(session))


def test_restart_of_the_aggregator_does_not_end_it(tmp_path):
    world = world_of(unreachable(), problem(503, "internal"), unreachable(), CURRENT, instant=False)
    assert world.run(next_round(session_for(tmp_path, PLAN), None)).id == ROUND


def test_patience_has_an_end(tmp_path):
    world = World(AGGREGATOR_HERE, lambda request, body: unreachable())
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


def refused(tmp_path, answer, what, event="state-rejected"):
    """The state is not believed, and the site says so where people look."""
    session = session_for(tmp_path, PLAN)
    for flow in (next_round, open_round, federation_state):
        arguments = (session, None) if flow is next_round else (session,)
        with pytest.raises(ProtocolError, match=what) as caught:
            world_of(answer).run(flow(*arguments))
        assert str(session.log.path) in caught.value.hint
    assert {(line["event"], line["what"].startswith(what)) for line in security_log(session)} == {(event, True)}
    return caught.value.reason


def test_a_state_of_another_federation(tmp_path):
    answer = dataclasses.replace(CURRENT, federation="other")
    assert refused(tmp_path, answer, "state, federation") == Reason.BAD_ANSWER


@pytest.mark.parametrize("state", [CURRENT, WAITING, PAUSED, ENDED], ids=lambda state: state.stage)
@pytest.mark.parametrize(
    ("name", "key"),
    [
        (AGGREGATOR, SigningKey.generate()),
        ("a", identity_of("a").signing_key),
        (COORDINATOR, identity_of(COORDINATOR).signing_key),
        ("other", AGGREGATOR_KEY),
    ],
    ids=["another key", "a site", "a coordinator", "another name"],
)
def test_a_state_that_no_aggregator_has_signed(tmp_path, state, name, key):
    """Whatever it says: that the federation has ended, rests or waits, or that this site is not invited."""
    assert refused(tmp_path, signed_state(state, name, key), "state, signature") == Reason.BAD_SIGNATURE


@pytest.mark.parametrize("changed", [{"index": 3, "head": "ab" * 32}, {"index": 0, "head": NO_RECORD}])
def test_a_state_with_another_history(tmp_path, changed):
    server = FakeAggregator(PLAN)
    server.others_submit()
    server.close()
    session = session_for(tmp_path, PLAN)
    World(server).run(federation_state(session))
    assert len(session.chain) == 1
    server.lies = {"head": "ab" * 32}
    with pytest.raises(ProtocolError, match="state, digest of record 1") as caught:
        World(server).run(federation_state(session))
    assert caught.value.reason == Reason.CHAIN_MISMATCH
    server.lies = changed
    with pytest.raises(ProtocolError):
        World(server).run(federation_state(session))


def test_a_state_with_another_roster_of_the_same_version(tmp_path):
    answer = dataclasses.replace(CURRENT, roster="ab" * 32)
    assert refused(tmp_path, answer, "state, roster", "roster-rejected") == Reason.ROSTER_MISMATCH


GOOD = signed_state(CURRENT).body
NONSENSE = [b"", b"null", b"3", b"{}", b"{", b'{"federation": 1}', b"\xff", b"<html>", GOOD[:-1], GOOD + b"\n"]
TWICE = [
    GOOD.replace(b'"stage":"running"', b'"stage":"running","stage":"ended"'),
    GOOD.replace(b'"stage":"running"', b'"stage":"ended","stage":"running"'),
    GOOD.replace(b'"v":1}', b'"v":1,"v":1}'),
]


@pytest.mark.parametrize("body", NONSENSE + TWICE)
def test_a_state_that_is_none(tmp_path, body):
    assert refused(tmp_path, Response(200, {}, body), "state") == Reason.BAD_ANSWER


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("stage", "closing"),
        ("open", {}),
        ("index", 1),
        ("head", "ab" * 32),
        ("more", 1),
        ("epoch", 10**400),
    ],
)
def test_a_signed_state_that_makes_no_sense(tmp_path, member, value):
    document = json.loads(GOOD)
    document["body"][member] = value
    assert refused(tmp_path, Response(200, {}, json.dumps(document).encode()), "state") == Reason.BAD_ANSWER


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "unauthenticated"), (403, "forbidden"), (404, "unknown-federation")]
)
def test_refusals_end_the_polling(tmp_path, status, reason):
    world = world_of(problem(status, reason))
    with pytest.raises(ProtocolError) as caught:
        world.run(next_round(session_for(tmp_path, PLAN), None))
    assert caught.value.reason == reason
    assert len(world.sent) == 1


@pytest.mark.parametrize("answer", [WAITING, PAUSED])
def test_no_open_round_now(tmp_path, answer):
    assert world_of(answer).run(open_round(session_for(tmp_path, PLAN))) is None


def test_no_deadline_is_later_than_the_plan_allows(tmp_path):
    world = world_of(with_open(deadline_at=NOW + 10**9), instant=False)
    opened = world.run(next_round(session_for(tmp_path, PLAN), None))
    assert opened.closes_at == world.time + PLAN.public.deadline_s


def test_deadline_in_the_past_is_no_negative_time(tmp_path):
    world = world_of(with_open(deadline_at=NOW - 5), instant=False)
    assert world.run(next_round(session_for(tmp_path, PLAN), None)).closes_at == world.time
