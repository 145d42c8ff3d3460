"""A member spoils a sum, or lies about one: the round is tried again, and no site opens two sets of one round."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from client_sdk._protocol import encrypt
from he_agg.audit import audit
from he_agg.documents.roster import Role
from he_agg.documents.verdict import OPENED, REJECTED
from he_agg.errors import InputError, ProtocolError, Reason
from service.operator import operations
from tests.attacks.members import WrongTags
from tests.support.peers import operator, pass_time
from tests.support.real import SITES, until
from tests.support.trust import AUDITOR, identity_of

A, B, C = SITES


@pytest.fixture
def world(found):
    return found(codec="ckks", value_bits=16, rounds=3)


def spoil(world, monkeypatch) -> str:
    """A and B submit honestly, C with wrong tags. Returns the round's id."""
    round_id = world.submit(A, B)
    with monkeypatch.context() as patch:
        patch.setattr(encrypt, "RoundMac", WrongTags)
        assert world.submit(C) == round_id
    return round_id


def dispute(world) -> None:
    with operator(world.server.data_dir) as (store, conductor):
        operations.dispute(store, conductor, world.name)


def findings(world):
    transcript = world.peers[AUDITOR].document("transcript").content
    return audit(io.BytesIO(transcript)).findings


def said(world, round_id) -> dict[str, str]:
    shown = world.peers[AUDITOR].request("GET", f"/v1/rounds/{round_id}/verdicts").json()["verdicts"]
    return {one["body"]["site"]: one["body"]["verdict"] for one in shown}


def test_a_spoilt_round_is_tried_again(world, monkeypatch):
    round_id = spoil(world, monkeypatch)
    for name in (A, B):
        world.assert_rejected(name, round_id)
    assert said(world, round_id) == {A: REJECTED, B: REJECTED}
    dispute(world)
    again = world.submit(A, B, C)
    assert again == f"{world.name}.1.2"
    for name in SITES:
        world.assert_honest(name, again)
    with pytest.raises(ProtocolError) as caught:
        world.fetch(A, round_id)
    assert caught.value.reason is Reason.ROUND_FAILED  # `train` goes on with the next attempt
    later = world.submit(A, B, C, number=2)
    assert later == f"{world.name}.2.2"
    world.assert_honest(A, later, number=2)
    assert findings(world) == []
    assert said(world, again) == dict.fromkeys(SITES, OPENED)


def test_sites_that_were_drawn_try_it_again_and_no_others(found, monkeypatch):
    """Another draw would be another set: the spoiler, who can open both sums, would see what the change has sent."""
    world = found(codec="ckks", value_bits=16, rounds=3, sample_percent=60)
    first = f"{world.name}.1.1"
    honest, bad = sorted(world.peers[A].current(wait=5)["invited"])
    (other,) = set(SITES) - {honest, bad}
    world.submit(honest)
    with monkeypatch.context() as patch:
        patch.setattr(encrypt, "RoundMac", WrongTags)
        world.submit(bad)
    world.assert_rejected(honest, first)
    for attempt in range(2, 5):  # as many draws of all three would have brought the other one in
        dispute(world)
        again = f"{world.name}.1.{attempt}"
        assert world.open_sites[other].current() is None
        assert world.submit(honest) == again
        with monkeypatch.context() as patch:
            patch.setattr(encrypt, "RoundMac", WrongTags)
            assert world.submit(bad) == again
        world.assert_rejected(honest, again)
    dispute(world)
    last = world.submit(honest, bad)
    world.assert_honest(honest, last, members=(honest, bad))
    with pytest.raises(InputError, match="is not"):
        dispute(world)  # the second sum of the same number was opened, and those before are no sums any more
    assert findings(world) == []


def test_nobody_takes_the_place_of_a_member_that_was_removed(world, monkeypatch):
    spoil(world, monkeypatch)
    world.assert_rejected(A, f"{world.name}.1.1")
    members = {name: one for name, one in world.consortium.roster.body.members.items() if name != C}
    members["hospital-d"] = identity_of("hospital-d").member([Role.SITE])
    roster = world.consortium.next_roster(members, min_sites=2)
    with operator(world.server.data_dir) as (store, conductor):
        operations.bring_roster(store, conductor, world.name, roster.encode())
    dispute(world)
    again = world.submit(A, B)
    assert again == f"{world.name}.1.2"
    world.assert_honest(A, again, members=(A, B))
    later = {name: one for name, one in members.items() if name != B}
    assert world.peers[A].current(wait=5)["invited"] == [A, B, "hospital-d"]
    assert findings(world) == []
    # Of a sum of two one is not enough.
    spoilt = world.submit(A, B, number=2)
    pass_time(world.server.data_dir, world.name)
    until(lambda: world.peers[A].record(spoilt).status_code == 200)
    assert world.peers[A].judge(spoilt, REJECTED).status_code == 201
    next_one = replace(world.consortium, roster=roster).next_roster(later, min_sites=2)
    with operator(world.server.data_dir) as (store, conductor):
        operations.bring_roster(store, conductor, world.name, next_one.encode())
    with pytest.raises(InputError, match="of whom the roster has 1, and 2"):
        dispute(world)


def test_who_has_opened_a_sum_takes_part_in_no_other_set_of_the_round(world):
    """Two members say that a good sum is bad: the next set, without one more site, would show what that one sent."""
    round_id = world.submit(A, B, C)
    world.assert_honest(A, round_id)
    for name in (B, C):
        assert world.peers[name].judge(round_id, REJECTED).status_code == 201
    dispute(world)
    with pytest.raises(ProtocolError) as caught:
        world.submit(A)
    assert caught.value.reason is Reason.CHAIN_MISMATCH
    again = world.submit(B, C)
    assert again == f"{world.name}.1.2"
    pass_time(world.server.data_dir, world.name)
    assert world.peers[B].record(again).json()["record"]["body"]["outcome"] == "failed"  # without A there is no sum
    log = (world.directory(A) / "security.log").read_text().splitlines()
    assert {json.loads(line)["event"] for line in log} == {"second-set-refused"}
    assert findings(world) == []


def test_what_enough_sites_have_opened_is_not_given_up(world):
    round_id = world.submit(A, B, C)
    for name in (A, B):
        world.assert_honest(name, round_id)
    assert world.peers[C].judge(round_id, REJECTED).status_code == 201
    with pytest.raises(InputError, match="is not"):
        dispute(world)
    assert said(world, round_id) == {A: OPENED, B: OPENED, C: REJECTED}  # the liar is named by what it signed
