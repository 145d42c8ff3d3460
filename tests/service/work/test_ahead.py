"""Sums that are made before a round closes are taken only for exactly the set they were made of, and only whole."""

from __future__ import annotations

import pytest

from he_agg.ids import RoundId
from service.store.parts.base import AHEAD, SUM, PartKey
from service.work import folding
from tests.support.peers import expected_sum, make_plan, read_part
from tests.support.simulated import SimulatedFederation

ROUND = RoundId("f", 1, 1)


@pytest.fixture
def folded(monkeypatch):
    """How often a part of a sum was made after the round closed; what is made ahead does not count."""
    made = []
    real = folding.fold_part
    monkeypatch.setattr(folding, "fold_part", lambda *what: made.append(1) or real(*what))
    return made


def settled(inside):
    """Wait until everything that can be made ahead is made."""
    ahead = inside.aggregator._ahead
    known = ahead and ahead._rounds.get(ROUND)
    for _, future in (known.made if known else {}).values():
        future.exception()
    return sorted(inside.aggregator.part_store.path(PartKey(ROUND, AHEAD, 0)).parent.glob("*"))


def finish(inside):
    inside.aggregator.worker._fold_now(ROUND)
    assert inside.row("f.1.1").phase == "published"


def check_sum(inside, members):
    expected = expected_sum(inside.plan, members)
    for n, numbers in enumerate(expected):
        assert (
            read_part(inside.plan, n, inside.aggregator.part_store.path(PartKey(ROUND, SUM, n)).read_bytes()) == numbers
        ).all()


def test_what_was_made_ahead_is_the_sum(inside, folded):
    members = [inside.submit(site, i, "f.1.1") for i, site in enumerate("abc")]
    assert len(settled(inside)) == len(inside.plan.public.places)
    finish(inside)
    assert folded == []
    check_sum(inside, members)


def test_nothing_is_made_before_the_last_site_has_sent_the_part(inside):
    for i, site in enumerate("ab"):
        inside.submit(site, i, "f.1.1")
    assert settled(inside) == []


def test_a_site_that_sent_all_and_did_not_complete_is_not_in_the_sum(inside, folded):
    """All parts were there, so a sum of three was made ahead; the set that closed has two."""
    members = [inside.submit("a", 1, "f.1.1"), inside.submit("b", 2, "f.1.1")]
    inside.submit("c", 3, "f.1.1", complete=False)
    assert len(settled(inside)) == len(inside.plan.public.places)
    inside.clock.now = inside.row("f.1.1").deadline_at + 1
    inside.aggregator.conductor.tick_all()
    finish(inside)
    assert sorted(inside.record("f.1.1").members) == ["a", "b"]
    assert len(folded) == len(inside.plan.public.places)
    assert settled(inside) == []
    check_sum(inside, members)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.unlink(),
        lambda p: p.write_bytes(p.read_bytes()[:-1]),
        lambda p: p.write_bytes(p.read_bytes()[:-1] + bytes([p.read_bytes()[-1] ^ 1])),
    ],
    ids=["missing", "short", "one bit"],
)
def test_one_that_the_disk_has_damaged_is_made_again(inside, folded, spoil):
    members = [inside.submit(site, i, "f.1.1") for i, site in enumerate("abc")]
    (spoiled,) = [path for path in settled(inside) if path.name == "1.part"]
    spoil(spoiled)
    finish(inside)
    assert len(folded) == 1
    check_sum(inside, members)


def test_a_damaged_submission_is_not_summed_ahead_either(inside):
    members = [inside.submit(site, i, "f.1.1") for i, site in enumerate("ab")]
    inside.aggregator.part_store.path(PartKey(ROUND, members[0].id, 1)).write_bytes(b"x")
    inside.submit("c", 2, "f.1.1")
    assert "1.part" not in [path.name for path in settled(inside)]
    inside.aggregator.worker._fold_now(ROUND)
    assert inside.row("f.1.1").phase == "folding"


def test_what_a_restart_forgot_is_folded(tmp_path, folded):
    inside = SimulatedFederation(tmp_path / "data", make_plan("f"))
    members = [inside.submit(site, i, "f.1.1") for i, site in enumerate("abc")]
    settled(inside)
    inside.aggregator._ahead._rounds.clear()  # all that another process would not know
    finish(inside)
    assert len(folded) == len(inside.plan.public.places)
    check_sum(inside, members)
    inside.end()


def test_it_can_be_switched_off(tmp_path):
    inside = SimulatedFederation(tmp_path / "data", make_plan("f"), fold_ahead=False)
    members = [inside.submit(site, i, "f.1.1") for i, site in enumerate("abc")]
    assert settled(inside) == []
    finish(inside)
    check_sum(inside, members)
    inside.end()


def test_nothing_of_it_is_left_when_the_round_is_over(inside):
    for i, site in enumerate("abc"):
        inside.submit(site, i, "f.1.1")
    settled(inside)
    finish(inside)
    inside.aggregator.worker._look()
    assert settled(inside) == []
