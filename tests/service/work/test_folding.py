"""Folding: resumed part by part, and never over a part that is not what was received."""

import hashlib
import shutil

import pytest

from he_agg.errors import ProtocolError, Reason
from he_agg.ids import RoundId
from service.domain import events
from service.store.failures import StoreFullError
from service.store.parts.base import SUM, PartKey
from service.work.folding import CorruptPartError, fold_round
from service.work.worker import Worker
from tests.support.peers import expected_sum, make_plan, prepare, read_part, take_parts
from tests.support.simulated import SimulatedFederation

ROUND = RoundId("f", 1, 1)


@pytest.fixture
def inside(tmp_path):
    opened = SimulatedFederation(tmp_path / "data", make_plan("f"), running_sum_bytes=0)
    yield opened
    opened.end()


@pytest.fixture
def members(inside):
    submitted = [inside.submit(site, i, "f.1.1") for i, site in enumerate("abc")]
    inside.aggregator.conductor.apply("f", events.FoldBegan(1, 1))
    return submitted


def expect(inside, site, member, number):
    """What the aggregator expects of a part."""
    length = len(member.run(number, member.parts[number]))
    return inside.aggregator.uploads.expect("f", site, member.round_id, member.upload, number, length).parts[0]


def read_sum(inside):
    return [
        read_part(inside.plan, n, inside.aggregator.part_store.path(PartKey(ROUND, SUM, n)).read_bytes())
        for n in range(len(inside.plan.public.places))
    ]


def fold(inside, stopping=lambda: False):
    return fold_round(inside.aggregator.store, inside.aggregator.part_store, inside.plan.public, ROUND, stopping)


def test_goes_on_where_it_was_interrupted(inside, members):
    asked = iter([False, True])
    assert not fold(inside, lambda: next(asked))
    first = inside.aggregator.part_store.path(PartKey(ROUND, SUM, 0))
    made = first.stat().st_mtime_ns
    assert not inside.aggregator.part_store.path(PartKey(ROUND, SUM, 1)).exists()
    assert fold(inside)
    assert first.stat().st_mtime_ns == made
    for got, expected in zip(read_sum(inside), expected_sum(inside.plan, members), strict=True):
        assert (got == expected).all()


def test_makes_the_parts_that_it_is_told_and_no_others(inside, members):
    store, part_store, plan = inside.aggregator.store, inside.aggregator.part_store, inside.plan.public
    assert fold_round(store, part_store, plan, ROUND, places=plan.places[1:2])
    assert [number for number in range(3) if part_store.path(PartKey(ROUND, SUM, number)).exists()] == [1]
    assert fold_round(store, part_store, plan, ROUND, places=[plan.places[0], plan.places[2]], threads=2)
    for got, expected in zip(read_sum(inside), expected_sum(inside.plan, members), strict=True):
        assert (got == expected).all()


@pytest.mark.parametrize("spoil", [lambda p: p.unlink(), lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"x")])
def test_a_part_of_the_sum_that_is_not_whole_is_made_again(inside, members, spoil):
    assert fold(inside)
    spoil(inside.aggregator.part_store.path(PartKey(ROUND, SUM, 1)))
    assert fold(inside)
    for got, expected in zip(read_sum(inside), expected_sum(inside.plan, members), strict=True):
        assert (got == expected).all()


SPOIL = pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.unlink(),
        lambda p: p.write_bytes(p.read_bytes()[:-1]),
        lambda p: p.write_bytes(p.read_bytes()[:-1] + bytes([p.read_bytes()[-1] ^ 1])),
    ],
    ids=["missing", "short", "one bit"],
)


@SPOIL
def test_bit_rot_is_never_summed(inside, members, spoil):
    spoil(inside.aggregator.part_store.path(PartKey(ROUND, members[1].upload, 2)))
    with pytest.raises(CorruptPartError) as caught:
        fold(inside)
    assert (caught.value.site, caught.value.number) == ("b", 2)
    assert not inside.aggregator.part_store.path(PartKey(ROUND, SUM, 2)).exists()


@SPOIL
def test_a_damaged_part_is_asked_for_again_and_the_sum_is_the_same(inside, members, spoil):
    uploads, worker = inside.aggregator.uploads, inside.aggregator.worker
    for member, number in ((members[1], 2), (members[2], 2), (members[2], 0)):
        spoil(inside.aggregator.part_store.path(PartKey(ROUND, member.upload, number)))
    worker.folder.fold(ROUND)
    assert inside.row("f.1.1").phase == "folding"
    assert [p.exists() for p in (inside.aggregator.part_store.path(PartKey(ROUND, SUM, n)) for n in range(3))] == [
        False,
        True,
        False,
    ]
    status = uploads.status("f", "c", members[2].round_id, members[2].upload)
    assert (status.state, status.missing) == ("complete", [0, 2])
    assert worker._look()[1] == []  # it waits, and does not try again and again
    other = prepare(inside.plan, "f.1.1", "c", 99)
    for member, number in ((members[1], 2), (members[2], 0), (members[2], 2)):
        site = "abc"[members.index(member)]
        expected = expect(inside, site, member, number)
        assert expected.digest == member_digest(member, number) != member_digest(other, number)
        assert not expected.stored
        for _ in range(2):  # once more, and it is no news
            take_parts(inside.aggregator, "f", site, member, range(number, number + 1))
        assert expect(inside, site, member, number).stored
    assert worker._look()[1] == [ROUND]
    worker.folder.fold(ROUND)
    record = inside.record("f.1.1")
    assert (record.outcome, sorted(record.members)) == ("published", ["a", "b", "c"])
    for got, expected in zip(read_sum(inside), expected_sum(inside.plan, members), strict=True):
        assert (got == expected).all()


def test_a_whole_directory_that_was_lost_comes_again(inside, members):
    """As after a restore from a backup whose files are older than its rows."""
    uploads, worker = inside.aggregator.uploads, inside.aggregator.worker
    shutil.rmtree(inside.aggregator.part_store.path(PartKey(ROUND, members[0].upload, 0)).parent)
    worker.folder.fold(ROUND)
    assert uploads.status("f", "a", members[0].round_id, members[0].upload).missing == [0, 1, 2]
    assert take_parts(inside.aggregator, "f", "a", members[0], range(3))
    worker.folder.fold(ROUND)
    assert inside.record("f.1.1").outcome == "published"
    for got, expected in zip(read_sum(inside), expected_sum(inside.plan, members), strict=True):
        assert (got == expected).all()


def test_a_round_waits_for_a_damaged_part_only_so_long(inside, members):
    worker: Worker = inside.aggregator.worker
    inside.aggregator.part_store.path(PartKey(ROUND, members[1].upload, 2)).unlink()
    worker.folder.fold(ROUND)
    inside.clock.now += inside.aggregator.settings.repair_wait_s - 2
    assert worker._look()[1] == []
    inside.clock.now += 3
    assert worker._look()[1] == [ROUND]
    worker.folder.fold(ROUND)
    record = inside.record("f.1.1")
    assert record.outcome == "failed"
    assert record.excluded == {"a": "round-failed", "b": "part-corrupt", "c": "round-failed"}
    assert inside.row("f.1.2").phase == "open"
    with pytest.raises(ProtocolError) as caught:
        expect(inside, "b", members[1], 2)
    assert caught.value.reason is Reason.ROUND_CLOSED
    worker._look()
    assert not inside.aggregator.part_store.path(PartKey(ROUND, SUM, 0)).parent.parent.exists()


def test_a_sum_that_was_whole_when_its_worker_died_is_published(inside, members):
    assert fold(inside)
    assert inside.row("f.1.1").phase == "folding"
    assert inside.aggregator.worker._look()[1] == [ROUND]
    inside.aggregator.worker.folder.fold(ROUND)
    assert inside.record("f.1.1").outcome == "published"


def test_a_part_of_the_sum_that_a_restore_has_lost_is_made_again(inside, members):
    assert fold(inside)
    inside.aggregator.part_store.path(PartKey(ROUND, SUM, 1)).unlink()
    inside.aggregator.worker.folder.fold(ROUND)
    assert inside.record("f.1.1").outcome == "published"
    for got, expected in zip(read_sum(inside), expected_sum(inside.plan, members), strict=True):
        assert (got == expected).all()


def test_threads_make_the_same_sum(inside, members):
    assert fold_round(inside.aggregator.store, inside.aggregator.part_store, inside.plan.public, ROUND, threads=3)
    for got, expected in zip(read_sum(inside), expected_sum(inside.plan, members), strict=True):
        assert (got == expected).all()


def test_trouble_in_a_thread_ends_the_folding(inside, members, monkeypatch):
    def fail(*_, **__):
        raise StoreFullError

    monkeypatch.setattr(inside.aggregator.part_store, "put_all", fail)
    with pytest.raises(StoreFullError):
        fold_round(inside.aggregator.store, inside.aggregator.part_store, inside.plan.public, ROUND, threads=2)
    monkeypatch.undo()
    assert fold(inside)


def member_digest(member, number):
    return hashlib.sha256(member.parts[number]).hexdigest()
