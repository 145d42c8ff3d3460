"""A member spoils a sum, or lies about one: the round is tried again, and no site opens two sets of one round."""

from __future__ import annotations

import io
import json

import pytest

from client_sdk._protocol import prepare
from he_agg.audit import audit
from he_agg.documents.verdict import OPENED, REJECTED
from he_agg.errors import InputError, ProtocolError, Reason
from service.operator import operations
from tests.attacks.members import WrongTags
from tests.support.peers import operator
from tests.support.real import SITES
from tests.support.trust import AUDITOR

A, B, C = SITES


@pytest.fixture
def world(found):
    return found(codec="ckks", value_bits=16, rounds=3)


def spoil(world, monkeypatch) -> str:
    """A and B submit honestly, C with wrong tags. Returns the round's id."""
    round_id = world.submit(A, B)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "RoundMac", WrongTags)
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
