"""Long polls: at once when there is news, in time when there is none, and never in the way of a shutdown."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from service.operator import operations
from tests.service.monitor.watched import watched_server
from tests.support.holding import Held, put_sharing_key, submit_all
from tests.support.peers import known, operator, prepare
from tests.support.trust import AUDITOR, COORDINATOR

SOON_S = 30.0
"""Sooner than the minute that a test asks for, later than a busy machine holds an answer up."""


def timed(call):
    began = time.monotonic()
    return call(), time.monotonic() - began


def act(world, operation):
    """What an operator's command does: another connection to the same store."""
    with operator(world.server.data_dir) as (store, conductor):
        operation(store, conductor, world.name)


def test_answers_at_once_and_after_the_wait(world):
    answer, seconds = timed(lambda: world.peer().current(wait=60))
    assert (answer["stage"], answer["round_id"]) == ("running", world.round_id)
    assert seconds < SOON_S
    answer, seconds = timed(lambda: world.peer().current(wait=60, after=f"{world.name}.9.9"))
    assert (answer["round_id"], seconds < SOON_S) == (world.round_id, True)
    answer, seconds = timed(lambda: world.peer().current(wait=0.7, after=world.round_id))
    assert answer["round_id"] == world.round_id
    assert 0.6 < seconds < SOON_S
    answer, seconds = timed(lambda: world.peer().record(world.round_id, wait=0.7))
    assert answer.status_code == 204
    assert 0.6 < seconds < SOON_S


def test_the_state_is_signed_once_for_everybody(world, make_world):
    """The same bytes for every member, as long as nothing changes; a digest that is not known is news at once."""
    answers = [world.peers[name].state() for name in ("a", "b", COORDINATOR, AUDITOR) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    digest = answers[0].headers["ETag"].strip('"')
    assert digest == hashlib.sha256(answers[0].content).hexdigest()
    signed = Signed.parse(FederationState, answers[0].content)
    signed.check_signed(known(world.name).roster.body.keys_of(Role.AGGREGATOR))
    assert signed.body.open.invited == ("a", "b", "c")
    answer, seconds = timed(lambda: world.peer().state(wait=60, after="0" * 64))
    assert (answer.content, seconds < SOON_S) == (answers[0].content, True)
    answer, seconds = timed(lambda: world.peer().state(wait=0.7, after=digest))
    assert (answer.content, 0.6 < seconds < SOON_S) == (answers[0].content, True)
    assert make_world().peer().state().content != answers[0].content


def test_a_new_roster_is_news(world):
    """Although no round opens or fails for it."""
    digest = world.peer().state().headers["ETag"].strip('"')
    members = known(world.name)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(timed, lambda: world.peer().state(wait=60, after=digest))
        time.sleep(0.3)
        following = members.next_roster(dict(members.roster.body.members))
        assert world.peers[COORDINATOR].bring("rosters/2", following.encode()).status_code == 201
        answer, seconds = waiting.result()
    assert Signed.parse(FederationState, answer.content).body.roster == following.body_digest
    assert seconds < SOON_S


def test_wakes_when_the_operator_starts_and_ends(make_world):
    world = make_world(start=False)
    assert world.peer().current()["stage"] == "created"
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(timed, lambda s=site: world.peer(s).current(wait=60)) for site in "abc"]
        time.sleep(0.3)
        act(world, operations.start)
        for answer, seconds in (future.result() for future in waiting):
            assert (answer["stage"], answer["round_id"]) == ("running", f"{world.name}.1.1")
            assert seconds < SOON_S
        waiting = [pool.submit(timed, lambda: world.peer().current(wait=60, after=f"{world.name}.1.1"))]
        time.sleep(0.3)
        act(world, operations.end)
        answer, seconds = waiting[0].result()
        assert answer["stage"] == "ended"
        assert seconds < SOON_S


def test_wakes_when_the_round_is_published_and_the_next_opens(world):
    round_id = world.round_id
    with ThreadPoolExecutor(2) as pool:
        record = pool.submit(timed, lambda: world.peer("a").record(round_id, wait=60))
        current = pool.submit(timed, lambda: world.peer("b").current(wait=60, after=round_id))
        time.sleep(0.2)
        for i, site in enumerate("abc"):
            world.peer(site).submit(prepare(world.plan, round_id, site, i))
        (answer, seconds), (following, more_seconds) = record.result(), current.result()
    assert (answer.status_code, following["round_id"]) == (200, f"{world.name}.2.1")
    assert max(seconds, more_seconds) < SOON_S


def test_a_shutdown_does_not_wait_for_polls(make_world, tmp_path):
    with watched_server(tmp_path / "data") as watched, ThreadPoolExecutor(1) as pool:
        world = make_world(server=watched.server)
        first = world.peer().state()
        polling = pool.submit(world.peer().state, wait=60, after=first.headers["ETag"].strip('"'))
        watched.wait_for_requests(1)
        code, seconds = timed(watched.server.stop)
        answer = polling.result()
    assert code == 0
    assert seconds < SOON_S
    assert answer.content == first.content


def test_whoever_waits_for_holders_hears_at_once(make_world):
    """A holder for the quorum of echoes, a site for enough answers, and everybody for what comes then."""
    world = make_world(holders=("a", "b", "c", "t"), min_sites=3)
    for name in "abct":
        assert put_sharing_key(world.peers[name]).status_code == 201
    round_id = world.round_id
    submit_all(world.plan, world.peer, round_id)
    assert world.peer().record(round_id, wait=60).status_code == 200
    held = {name: Held(world.peers[name], round_id) for name in "abct"}
    for what in ("echoes", "answers"):
        answer, seconds = timed(lambda asked=what: held["a"].get(asked, wait=0.7))
        assert (answer.status_code, 0.6 < seconds < SOON_S) == (204, True)
    shares = {name: held[name].shares() for name in "abc"}
    with ThreadPoolExecutor() as pool:
        echoes = [pool.submit(timed, lambda one=one: one.get("echoes", wait=60)) for one in held.values()]
        answers = pool.submit(timed, lambda: held["t"].get("answers", wait=60))
        next_ = pool.submit(timed, lambda: world.peer().current(wait=60, after=round_id))
        time.sleep(0.3)
        assert {held[name].echo().status_code for name in "abc"} == {201}
        for future in echoes:
            answer, seconds = future.result()
            assert (len(answer.json()["echoes"]), seconds < SOON_S) == (3, True)
        assert not answers.done()
        assert {held[name].answer(shares[name]).status_code for name in "ab"} == {201}
        answer, seconds = answers.result()
        assert (len(answer.json()["answers"]), seconds < SOON_S) == (2, True)
        assert next_.result()[0]["round_id"] == f"{world.name}.2.1"
        more = pool.submit(timed, lambda: held["t"].get("answers", wait=60, more_than=2))
        time.sleep(0.3)
        assert held["c"].answer(shares["c"]).status_code == 201
        answer, seconds = more.result()
        assert (len(answer.json()["answers"]), seconds < SOON_S) == (3, True)
