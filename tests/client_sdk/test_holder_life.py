"""Journals and sharing keys for as long as a federation lasts, and a trustee from its beginning to its end."""

from __future__ import annotations

import dataclasses

import pytest

from client_sdk._protocol.hold import hold_awaited
from client_sdk._protocol.session import Trustee
from client_sdk._protocol.trustee import hold_until_end
from he_agg.errors import ConfigError, ProtocolError, Reason
from tests.support.flows import KilledError, unreachable
from tests.support.holders import (
    SITES,
    HeldFederation,
    HolderWorld,
    begin,
    held_roster,
    holder_in,
    look,
    notices,
    published,
    round_after,
    split_plan,
)

PLAN = split_plan()


@pytest.fixture
def aggregator():
    return HeldFederation(PLAN)


def test_a_holder_whose_journal_is_gone_answers_nothing_until_it_has_a_new_key(tmp_path, rng, aggregator):
    """Its key still opens what it may have answered before, for another record."""
    holders = published(aggregator, rng, tmp_path)
    path = holders["a"].spool.promises_path("test")
    path.unlink()
    for _ in range(2):
        session, world = holder_in(tmp_path, PLAN, "a"), HolderWorld(aggregator, site="a")
        assert not look(session, aggregator, world)
        assert not session.promises.begun
        assert "journal" in notices(world)[0]
    assert aggregator.said == {}
    aggregator.lies = {"epoch": 2, "open": None}
    look(session, aggregator, world)
    assert session.promises.newest == 1
    assert session.sharing_keys.of(1) is None
    assert session.sharing_keys.of(2) is not None
    assert aggregator.said == {}


def test_a_first_holder_sits_nothing_out_and_a_late_one_what_is_open(tmp_path, aggregator):
    aggregator.stage = "created"
    first = holder_in(tmp_path, PLAN, "a")
    look(first, aggregator)
    assert first.promises.newest == 0
    aggregator.stage = "running"
    late = holder_in(tmp_path, PLAN, "b")
    look(late, aggregator)
    assert late.promises.newest == 1


def test_a_new_epoch_has_a_new_key_and_the_old_one_goes(tmp_path, aggregator):
    session = holder_in(tmp_path, PLAN, "trustee")
    look(session, aggregator)
    kept = session.sharing_keys.of(1)
    aggregator.lies = {"epoch": 2, "open": None}
    look(session, aggregator)
    assert session.sharing_keys.of(1).to_bytes() == kept.to_bytes()  # a sum of that epoch may come yet
    assert sorted(epoch for epoch, _ in aggregator.sharing) == [1, 2]
    aggregator.lies = {"epoch": 2}
    look(session, aggregator)
    assert session.sharing_keys.of(1) is None
    assert session.sharing_keys.of(2) is not None
    requests = len(aggregator.sharing)
    world = HolderWorld(aggregator, site="trustee")
    look(session, aggregator, world)
    assert world.paths("PUT") == []  # the aggregator has it
    assert len(aggregator.sharing) == requests


def test_a_member_that_is_no_holder_makes_no_key(tmp_path, aggregator):
    session = holder_in(tmp_path, PLAN, "c")
    without = held_roster(2, ("a", "b", "trustee"))
    aggregator.rosters.append(without)
    aggregator.roster = without.body_digest
    world = HolderWorld(aggregator, site="c")
    look(session, aggregator, world)
    assert aggregator.sharing == {}
    assert not session.promises.begun
    assert world.run(hold_awaited(session, aggregator.state)) is False


def until_end(session, aggregator, meddle=None):
    """The trustee's own flow, and what it said."""
    assert isinstance(session, Trustee)
    world = HolderWorld(aggregator, meddle, site=session.site)
    world.run(hold_until_end(session))
    return world


def test_a_trustee_holds_until_the_end(tmp_path, rng, aggregator):
    holders = begin(aggregator, tmp_path)
    for site in SITES:
        aggregator.deal(rng, site)
    aggregator.publish()
    look(holders["a"], aggregator)
    polls = []

    def meddle(request, _):
        if "/state" in request.path:
            polls.append(request.path)
            if len(polls) == 2:
                look(holders["b"], aggregator)
            if len(polls) == 4:
                aggregator.open(round_after(aggregator.round_id))
                end = dataclasses.replace(
                    aggregator.chain[-1].body, round_id=aggregator.round_id, index=2, previous=aggregator.head,
                    outcome="ended", members={}, excluded={}, sum_digests=(), reason="operator",
                )  # fmt: skip
                aggregator.write(end)
                aggregator.stage = "ended"

    world = until_end(holders["trustee"], aggregator, meddle)
    assert notices(world) == [
        "epoch 1: the aggregator has the sharing key of trustee",
        "round test.1.1: trustee has answered",
    ]
    assert sorted(aggregator.said) == [
        *(f"rounds/test.1.1/answers/{name}" for name in ("b", "trustee")),  # enough: nobody else is asked
        *(f"rounds/test.1.1/echoes/{name}" for name in ("a", "b", "trustee")),
    ]


def test_a_trustee_waits_for_an_aggregator_that_is_away(tmp_path, aggregator):
    session, asked = holder_in(tmp_path, PLAN, "trustee"), []
    assert isinstance(session, Trustee)

    def meddle(request, _):
        asked.append(request.path)
        if len(asked) < 200:
            return unreachable()
        raise KilledError

    world = HolderWorld(aggregator, meddle, site="trustee")
    with pytest.raises(KilledError):
        world.run(hold_until_end(session))
    assert world.time > 2000
    assert "trying again every 60 s" in notices(world)[0]


def test_a_trustee_that_is_removed_stops(tmp_path, aggregator):
    session = holder_in(tmp_path, PLAN, "trustee")
    aggregator.rosters.append(held_roster(2, SITES))
    with pytest.raises(ConfigError) as caught:
        until_end(session, aggregator)
    assert caught.value.reason == Reason.NO_LONGER_MEMBER
    assert "holder trustee" in caught.value.message


def test_a_trustee_does_not_go_on_with_an_aggregator_that_takes_records_back(tmp_path, rng, aggregator):
    holders = published(aggregator, rng, tmp_path)
    look(holders["trustee"], aggregator)
    aggregator.chain.clear()
    aggregator.record = None
    with pytest.raises(ProtocolError) as caught:
        until_end(holders["trustee"], aggregator)
    assert caught.value.reason == Reason.CHAIN_MISMATCH
