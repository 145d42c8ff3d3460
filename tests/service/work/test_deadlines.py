"""Deadlines, by a clock that the test turns, and once by the real one."""

import pytest

from he_agg.errors import ProtocolError, Reason
from he_agg.ids import RoundId
from service.operator import operations
from service.refusal import RefusedError
from service.store.parts.base import SUM, PartKey
from tests.support.peers import (
    expected_sum,
    prepare,
    read_part,
    read_receipt,
    take_end,
)


def test_deadline_with_quorum_closes_without_the_missing(inside):
    members = [inside.submit("a", 1, "f.1.1"), inside.submit("b", 2, "f.1.1")]
    late = inside.submit("c", 3, "f.1.1", complete=False)  # every part is here, but nobody said so in time
    deadline = inside.row("f.1.1").deadline_at
    inside.clock.now = deadline - 0.001
    inside.aggregator.conductor.tick_all()
    assert inside.row("f.1.1").phase == "open"
    inside.clock.now = deadline
    with pytest.raises(RefusedError) as caught:
        take_end(inside.aggregator, "f", "c", late)  # nobody ticked: the request itself closes the round
    assert caught.value.reason is Reason.ROUND_CLOSED
    assert inside.row("f.1.1").phase == "closed"
    inside.fold_one("f.1.1")
    record = inside.record("f.1.1")
    assert record.members == {"a": members[0].id, "b": members[1].id}
    assert record.excluded == {"c": "incomplete"}
    for number, expected in enumerate(expected_sum(inside.plan, members)):
        path = inside.aggregator.part_store.path(PartKey(RoundId.parse("f.1.1"), SUM, number))
        assert (read_part(inside.plan, number, path.read_bytes()) == expected).all()
    with pytest.raises(RefusedError) as caught:
        take_end(inside.aggregator, "f", "c", late)
    assert caught.value.members["record"]["body"]["excluded"] == {"c": "incomplete"}
    assert inside.row("f.2.1").phase == "open"


def test_deadline_without_quorum_opens_the_next_attempt(inside):
    first = inside.submit("a", 1, "f.1.1")
    inside.clock.now += 102
    inside.aggregator.conductor.tick_all()
    record = inside.record("f.1.1")
    assert (record.outcome, record.members, record.sum_digests) == ("failed", {}, ())
    assert record.excluded == {"a": "round-failed", "b": "absent", "c": "absent"}
    assert inside.row("f.1.2").phase == "open"
    # Nothing of the voided attempt enters the next one, not even by an exact repetition.
    receipt = take_end(inside.aggregator, "f", "a", first)  # it stands; the record says the rest
    assert read_receipt(receipt.encode()).round_id == "f.1.1"
    uploads = inside.aggregator.uploads
    with pytest.raises(ProtocolError) as caught:
        uploads.expect("f", "a", "f.1.2", first.upload, 0, len(first.parts[0]))
    assert caught.value.reason is Reason.UNKNOWN_SUBMISSION
    second = [inside.submit(site, i, "f.1.2") for i, site in enumerate("abc")]
    inside.fold_one("f.1.2")
    assert inside.record("f.1.2").members == {s: p.id for s, p in zip("abc", second, strict=True)}


def test_clock_that_jumps_back_reopens_nothing(inside):
    for i, site in enumerate("ab"):
        inside.submit(site, i, "f.1.1")
    inside.clock.now += 102
    inside.aggregator.conductor.tick_all()
    assert inside.row("f.1.1").phase == "closed"
    inside.clock.now -= 10_000
    inside.aggregator.conductor.tick_all()
    assert inside.row("f.1.1").phase == "closed"


def test_round_closes_while_a_part_is_on_its_way(inside):
    for i, site in enumerate("ab"):
        inside.submit(site, i, "f.1.1")
    uploads = inside.aggregator.uploads
    late = prepare(inside.plan, "f.1.1", "c", 3)
    run = uploads.expect("f", "c", "f.1.1", late.upload, 0, len(late.parts[0]))
    inside.clock.now += 102
    inside.aggregator.conductor.tick_all()
    with pytest.raises(ProtocolError) as caught:
        uploads.take(run, [memoryview(late.parts[0])])
    assert caught.value.reason is Reason.ROUND_CLOSED
    assert not inside.aggregator.part_store.path(PartKey(RoundId.parse("f.1.1"), late.upload, 0)).exists()
    inside.fold_one("f.1.1")
    inside.aggregator.part_store.purge_submissions(RoundId.parse("f.1.1"))
    with pytest.raises(ProtocolError) as caught:
        uploads.take(run, [memoryview(late.parts[0])])
    assert caught.value.reason is Reason.ROUND_CLOSED


def test_the_real_clock(make_world):
    world = make_world(deadline_s=3, rounds=5)  # long enough for two submissions on a busy machine
    round_id = world.round_id
    for i, site in enumerate("ab"):
        world.peer(site).submit(prepare(world.plan, round_id, site, i))
    record = world.peer().record(round_id, wait=10)
    assert record.json()["record"]["body"]["outcome"] == "published"
    assert record.json()["record"]["body"]["excluded"] == {"c": "absent"}
    following = world.peer().current(wait=10, after=round_id)
    assert (following["round"], following["attempt"]) == (2, 1)
    failed = world.peer().record(following["round_id"], wait=10).json()["record"]["body"]
    assert failed["outcome"] == "failed"
    following = world.peer().current(wait=10, after=following["round_id"])
    assert (following["round"], following["attempt"]) == (2, 2)


def test_a_round_does_not_end_by_an_expired_roster(inside):
    """Nobody is let in then, so nobody could still submit: its deadline waits for the next roster."""
    conductor, members = inside.aggregator.conductor, inside.members
    expires = members.roster.body.expires_at
    inside.clock.now = expires - 50.0
    conductor.tick_all()
    prepared = [inside.submit(site, seed, "f.1.2") for seed, site in enumerate("ab")]
    inside.clock.now = expires + 60.0
    assert inside.row("f.1.2").deadline_at < inside.clock.now
    conductor.tick_all()
    with conductor.reading("f"):
        assert inside.row("f.1.2").phase == "open"
    times = {"issued_at": int(inside.clock.now), "expires_at": int(inside.clock.now) + 1000}
    following = members.next_roster(dict(members.roster.body.members), **times)
    operations.bring_roster(inside.aggregator.store, conductor, "f", following.encode())
    conductor.tick_all()
    assert inside.row("f.1.2").phase == "closed"
    inside.fold_one("f.1.2")
    record = inside.record("f.1.2")
    assert record.members == {"a": prepared[0].id, "b": prepared[1].id}
    assert record.excluded == {"c": "absent"}
    assert times["issued_at"] <= record.closed_at < times["expires_at"]
