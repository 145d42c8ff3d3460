"""No update goes into two sums: the ledger, and the flows that ask it. Attempts that fail do not count."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from client_sdk._disk.ledger import Fate, Ledger
from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.accept import RejectedError
from client_sdk._protocol.history import catch_up, take_record
from he_agg.documents.record import NO_RECORD
from he_agg.errors import ConfigError, InputError, ProtocolError, Reason
from he_agg.ids import RoundId
from tests.support.flows import (
    OPEN,
    ROUND,
    FakeAggregator,
    KilledError,
    World,
    assert_mean_of,
    problem,
    session_for,
    small_plan,
    update_of,
)
from tests.support.seeds import seed_of

PLAN = small_plan()
NEXT, AGAIN = RoundId("test", 2, 1), RoundId("test", 1, 2)
ALL = [update_of(i) for i in range(3)]


@pytest.fixture
def aggregator() -> FakeAggregator:
    return FakeAggregator(PLAN)


def whole_round(session, aggregator, update):
    aggregator.others_submit()
    return World(aggregator).run(_flows.aggregate(session, aggregator.opened, update))


def lines(session) -> list[dict]:
    path = session.spool.ledger_path("test")
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


@pytest.mark.parametrize("later", [NEXT, RoundId("test", 2, 2)])
def test_update_of_a_published_round_is_not_sent_again(tmp_path, aggregator, later):
    session = session_for(tmp_path, PLAN)
    assert_mean_of(whole_round(session, aggregator, update_of()), PLAN, ALL)
    aggregator.open(NEXT)
    if later != NEXT:
        aggregator.fail()
        aggregator.open(later)
    world = World(aggregator)
    with pytest.raises(InputError, match=r"is in the sum of round test\.1\.1") as caught:
        world.run(_flows.submit(session, aggregator.opened, update_of()))
    assert caught.value.reason == Reason.REPEATED_UPDATE
    assert world.paths("PUT") == []
    assert session.pending() == []
    # A restart has the same ledger. Another update, or weight, is another matter, and so is consent.
    session = session_for(tmp_path, PLAN)
    with pytest.raises(InputError):
        World(aggregator).run(_flows.aggregate(session, aggregator.opened, update_of()))
    assert_mean_of(whole_round(session, aggregator, update_of(may_repeat=True)), PLAN, ALL)
    assert [line["state"] for line in lines(session)] == ["sent", "counted", "sent", "counted"]
    assert len({line["update"] for line in lines(session)}) == 1


def test_update_of_a_published_attempt_is_not_sent_to_the_next_one(tmp_path, aggregator):
    """This site has not opened that sum, so nothing but the ledger keeps it from another one of the same round."""
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    aggregator.others_submit()
    aggregator.close()
    World(aggregator).run(catch_up(session, 1))
    aggregator.open(AGAIN)
    with pytest.raises(InputError, match=r"is in the sum of round test\.1\.1") as caught:
        World(aggregator).run(_flows.submit(session, aggregator.opened, update_of()))
    assert caught.value.reason == Reason.REPEATED_UPDATE


def test_another_update_is_sent(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    whole_round(session, aggregator, update_of())
    aggregator.open(NEXT)
    assert_mean_of(whole_round(session, aggregator, update_of(5)), PLAN, [update_of(5), *ALL[1:]])


@pytest.mark.parametrize("receipt", [True, False])
def test_update_of_a_failed_attempt_is_sent_to_the_next(tmp_path, aggregator, receipt):
    """By the site that saw the failure, and by one that catches up with it."""
    session = session_for(tmp_path, PLAN)
    world = World(aggregator, lambda request, _: None if receipt or request.method != "PUT" else problem(409, "x"))
    if receipt:
        world.run(_flows.submit(session, OPEN, update_of()))
    else:
        with pytest.raises(ProtocolError):
            world.run(_flows.submit(session, OPEN, update_of()))
    aggregator.fail()
    aggregator.open(AGAIN)
    assert_mean_of(whole_round(session, aggregator, update_of()), PLAN, ALL)
    assert [(line["round"], line["state"]) for line in lines(session)] == [
        ("test.1.1", "sent"),
        ("test.1.1", "left-out"),
        ("test.1.2", "sent"),
        ("test.1.2", "counted"),
    ]
    aggregator.open(NEXT)
    with pytest.raises(InputError, match=r"is in the sum of round test\.1\.2"):
        World(aggregator).run(_flows.submit(session, aggregator.opened, update_of()))


def test_update_whose_fate_no_record_tells_is_not_sent_again(tmp_path, aggregator):
    """A liar says that the attempt has failed, and that the next is open; a record would say so, and there is none."""
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    for lie in (AGAIN, NEXT):
        opened = dataclasses.replace(OPEN, id=lie)
        world = World(aggregator)
        with pytest.raises(InputError, match="no verified record says") as caught:
            world.run(_flows.submit(session, opened, update_of()))
        assert caught.value.reason == Reason.REPEATED_UPDATE
        assert world.sent == []
    aggregator.others_submit()
    assert_mean_of(World(aggregator).run(_flows.resume(session, OPEN)), PLAN, ALL)


def test_given_up_sum_is_tried_again_with_the_same_update_in_its_own_round_only(tmp_path):
    """Another set of another round would be a second sum for whoever could open the first: a member with the key."""
    ledger = Ledger(tmp_path / "x.ledger")
    ledger.enter(ROUND, "a" * 32, "1" * 64)
    ledger.settle(ROUND, Fate.COUNTED, "9" * 64)
    ledger.give_up("8" * 64)  # the record of a round that this site was not in
    assert ledger.in_another(AGAIN, "1" * 64).round_id == ROUND
    for _ in range(2):
        ledger.give_up("9" * 64)
        assert ledger.in_another(AGAIN, "1" * 64) is None
        assert ledger.in_another(NEXT, "1" * 64).round_id == ROUND
    assert len((tmp_path / "x.ledger").read_bytes().splitlines()) == 3
    ledger.enter(AGAIN, "b" * 32, "1" * 64)
    ledger.settle(AGAIN, Fate.COUNTED, "7" * 64)
    assert ledger.in_another(RoundId("test", 1, 3), "1" * 64).round_id == AGAIN


@pytest.mark.parametrize("gives_up", [False, True])
def test_second_record_of_one_place_settles_nothing(tmp_path, aggregator, gives_up):
    """A lie that the chain refuses must not free an update for another sum either."""
    session, update = session_for(tmp_path, PLAN), update_of(2)
    assert_mean_of(whole_round(session, aggregator, update_of()), PLAN, ALL)
    (first,) = aggregator.chain
    aggregator.open(NEXT)
    World(aggregator).run(_flows.submit(session, aggregator.opened, update))
    aggregator.chain, aggregator.previous = [], NO_RECORD  # beside the first record
    aggregator.fail(gives_up=first.digest if gives_up else None)
    (lie,) = aggregator.chain
    aggregator.chain = [first, lie]
    before = lines(session)
    with pytest.raises(RejectedError) as caught:
        World(aggregator).run(take_record(session, lie))
    assert caught.value.reason is Reason.CHAIN_MISMATCH
    assert lines(session) == before


def test_lost_spool_is_not_encrypted_for_again(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    shutil.rmtree(session.spool.entry(ROUND).path)
    for update in (update_of(), update_of(3), update_of(may_repeat=True)):
        world = World(aggregator)
        with pytest.raises(InputError, match="not in this spool any more") as caught:
            world.run(_flows.submit(session, OPEN, update))
        assert (caught.value.reason, world.paths("PUT")) == (Reason.SECOND_SUBMISSION, [])
    aggregator.others_submit()
    outcome = World(aggregator).run(_flows.take_part(session, OPEN, update_of()))
    assert (outcome.counted, outcome.reason) == (False, Reason.SECOND_SUBMISSION)
    assert_mean_of(outcome.mean, PLAN, ALL)


def test_counted_elsewhere_counts(tmp_path, aggregator):
    """A record has something of this site in the sum: which machine had sent it does not matter."""
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    session.ledger.settle(ROUND, Fate.COUNTED, "9" * 64)
    assert session.ledger.in_another(NEXT, lines(session)[0]["update"]).round_id == ROUND
    assert session.ledger.in_another(ROUND, lines(session)[0]["update"]) is None


def test_line_is_durable_before_the_first_byte_is_sent(tmp_path, aggregator, monkeypatch):
    session, log, fsync = session_for(tmp_path, PLAN), [], os.fsync

    def note(descriptor):
        log.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def meddle(request, body):
        log.append(request.method)

    monkeypatch.setattr(os, "fsync", note)
    World(aggregator, meddle).run(_flows.submit(session, OPEN, update_of()))
    assert log.index(".submission.json.new") < log.index("test.ledger") < log.index("PUT")  # sealed, noted, sent
    assert log.count("test.ledger") == 1


def test_killed_anywhere_the_same_submission_is_finished_and_settled(tmp_path, aggregator):
    """At steps of two attempts: whatever the ledger has by then, it never blocks what is legitimate."""
    seed = seed_of("killed anywhere")
    chance, number, over = random.Random(seed), 0, False
    while not over:
        number += chance.randint(1, 7)  # all of them would take minutes
        server, root = FakeAggregator(PLAN), tmp_path / str(number)

        def kill(step, number=number):
            if step == number:
                raise KilledError

        def failing_then_published(session, world, server=server):
            if server.round_id == ROUND:
                if server.record is None:
                    world.run(_flows.submit(session, OPEN, update_of()))
                    server.fail()
                server.open(AGAIN)
            if "b" not in server.complete:
                server.others_submit()
            return world.run(_flows.take_part(session, server.opened, update_of()))

        world = World(server)
        world.before, over = kill, True
        try:
            failing_then_published(session_for(root, PLAN), world)
        except KilledError:
            over = False
            outcome = failing_then_published(session_for(root, PLAN), World(server))
            assert_mean_of(outcome.mean, PLAN, ALL)
        session = session_for(root, PLAN)
        World(server).run(catch_up(session, len(server.chain)))
        fate = {line["round"]: line["state"] for line in lines(session)}
        assert fate.get("test.1.1", "left-out") == "left-out"
        assert fate["test.1.2"] == "counted"
        server.open(NEXT)
        with pytest.raises(InputError) as caught:
            World(server).run(_flows.submit(session, server.opened, update_of()))
        assert caught.value.reason == Reason.REPEATED_UPDATE
    assert number > 40


@pytest.mark.parametrize("lost", ["all", "part", "garbage"])
def test_line_that_a_power_cut_lost_was_sent_for_nothing(tmp_path, aggregator, lost):
    """It is synced before anything is sent, so what is not whole stands for nothing that was; resuming writes it."""
    session = session_for(tmp_path, PLAN)

    def dark(request, body):
        raise KilledError

    with pytest.raises(KilledError):
        World(aggregator, dark).run(_flows.submit(session, OPEN, update_of()))
    path = session.spool.ledger_path("test")
    whole = path.read_bytes()
    path.write_bytes({"all": b"", "part": whole[:50], "garbage": bytes(len(whole) - 1)}[lost])
    session = session_for(tmp_path, PLAN)
    assert_mean_of(whole_round(session, aggregator, update_of()), PLAN, ALL)
    assert path.read_bytes().startswith(whole)
    assert [line["state"] for line in lines(session)] == ["sent", "counted"]


def test_settled_once_whatever_comes_later(tmp_path):
    path = tmp_path / "x.ledger"
    ledger, other = Ledger(path), Ledger(path)  # two processes
    ledger.settle(ROUND, Fate.COUNTED, "9" * 64)
    assert not path.exists()  # nothing was sent
    ledger.enter(ROUND, "a" * 32, "1" * 64)
    other.enter(ROUND, "b" * 32, "2" * 64)
    assert (other.sent(ROUND).upload, other.newest_counted()) == ("a" * 32, 0)
    other.settle(ROUND, Fate.COUNTED, "9" * 64)
    ledger.settle(ROUND, Fate.LEFT_OUT, "8" * 64)
    assert ledger.sent(ROUND).fate is other.sent(ROUND).fate is Fate.COUNTED
    assert len(path.read_bytes().splitlines()) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_damaged_ledger_is_an_error(tmp_path):
    path = tmp_path / "x.ledger"
    Ledger(path).enter(ROUND, "a" * 32, "1" * 64)
    whole = path.read_bytes()
    for damaged in (b"{}\n", whole.replace(b"sent", b"gone"), whole.replace(b"1.1", b"1.x"), b"\n" + whole):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="line 1, is damaged"):
            Ledger(path).sent(ROUND)
