"""Folding: resumed part by part, and never over a part that is not what was received."""

import pytest

from he_agg.ids import RoundId
from service import rounds
from service.folding import CorruptPartError, fold_round
from service.worker import Worker
from tests.service.test_deadlines import Inside
from tests.support.peers import expected_sum, make_plan, read_part

ROUND = RoundId("f", 1, 1)


@pytest.fixture
def inside(tmp_path):
    opened = Inside(tmp_path / "data", make_plan("f"))
    yield opened
    opened.aggregator.close()


@pytest.fixture
def members(inside):
    submitted = [inside.submit(site, i, "f.1.1") for i, site in enumerate("abc")]
    inside.aggregator.conductor.apply("f", rounds.FoldBegan(1, 1))
    return submitted


def read_sum(inside):
    return [
        read_part(inside.plan, n, inside.aggregator.blobs.sum_path(ROUND, n).read_bytes())
        for n in range(len(inside.plan.public.places))
    ]


def fold(inside, stopping=lambda: False):
    return fold_round(inside.aggregator.store, inside.aggregator.blobs, inside.plan.public, ROUND, stopping)


def test_goes_on_where_it_was_interrupted(inside, members):
    asked = iter([False, True])
    assert not fold(inside, lambda: next(asked))
    first = inside.aggregator.blobs.sum_path(ROUND, 0)
    made = first.stat().st_mtime_ns
    assert not inside.aggregator.blobs.sum_path(ROUND, 1).exists()
    assert fold(inside)
    assert first.stat().st_mtime_ns == made
    for got, expected in zip(read_sum(inside), expected_sum(inside.plan, members), strict=True):
        assert (got == expected).all()


@pytest.mark.parametrize("spoil", [lambda p: p.unlink(), lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"x")])
def test_a_part_of_the_sum_that_is_not_whole_is_made_again(inside, members, spoil):
    assert fold(inside)
    spoil(inside.aggregator.blobs.sum_path(ROUND, 1))
    assert fold(inside)
    for got, expected in zip(read_sum(inside), expected_sum(inside.plan, members), strict=True):
        assert (got == expected).all()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.unlink(),
        lambda p: p.write_bytes(p.read_bytes()[:-1]),
        lambda p: p.write_bytes(p.read_bytes()[:-1] + bytes([p.read_bytes()[-1] ^ 1])),
    ],
    ids=["missing", "short", "one bit"],
)
def test_bit_rot_fails_the_round_loudly(inside, members, spoil):
    spoil(inside.aggregator.blobs.part_path(ROUND, members[1].id, 2))
    with pytest.raises(CorruptPartError) as caught:
        fold(inside)
    assert (caught.value.site, caught.value.number) == ("b", 2)
    assert not inside.aggregator.blobs.sum_path(ROUND, 2).exists()
    worker: Worker = inside.aggregator.worker
    worker._fold_now(ROUND)
    record = inside.record("f.1.1")
    assert record.outcome == "failed"
    assert record.excluded == {"a": "round-failed", "b": "part-corrupt", "c": "round-failed"}
    assert inside.row("f.1.2").phase == "open"
    worker._look()
    assert not inside.aggregator.blobs.sum_path(ROUND, 0).parent.parent.exists()
