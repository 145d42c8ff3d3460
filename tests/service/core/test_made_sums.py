"""Parts of sums in memory: found as they were made, within the room there is, and for a minute."""

import numpy as np
import pytest

from he_agg.ids import RoundId
from service.core.made_sums import MadeSums
from service.store.parts.base import SUM, PartKey


def key(number, round_id="f.1.1"):
    return PartKey(RoundId.parse(round_id), SUM, number)


def part(size):
    return np.zeros(size, np.uint8).data


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def made(now):
    return MadeSums(10, clock=lambda: now[0])


def test_what_was_kept_is_found(made):
    data = part(3)
    assert made.keep(key(0), data)
    assert made.find(key(0)) is data
    assert made.find(key(1)) is made.find(key(0, "g.1.1")) is made.find(key(0, "f.1.2")) is None


def test_what_finds_no_room_is_not_kept(made):
    assert made.keep(key(0), part(6))
    assert not made.keep(key(1), part(5))
    assert made.keep(key(2), part(4))
    assert [made.find(key(n)) is None for n in range(3)] == [False, True, False]


def test_made_again_it_takes_its_own_place(made):
    """After its file was lost: the same bytes, since they follow from the closed set."""
    for _ in range(3):
        assert made.keep(key(0), part(10))


@pytest.mark.parametrize("later", ["f.1.2", "f.2.1", "f.10.1"])
def test_the_next_round_of_a_federation_takes_the_place_of_the_one_before(made, later):
    made.keep(key(0), part(4))
    made.keep(key(0, "g.1.1"), part(4))
    assert made.keep(key(5, later), part(6))
    assert made.find(key(0)) is None
    assert made.find(key(0, "g.1.1")) is not None


def test_after_a_minute_it_goes(made, now):
    made.keep(key(0), part(10))
    now[0] += 59
    made.forget_old()
    assert made.find(key(0)) is not None
    now[0] += 2
    assert made.find(key(0)) is None
    made.forget_old()
    assert made.keep(key(1), part(10))


def test_who_reads_slowly_holds_its_room(made, now):
    """Memory is bounded by what is there, not by what can still be found."""
    made.keep(key(0), part(10))
    reading = made.find(key(0))[2:5]
    now[0] += 61
    made.forget_old()
    assert not made.keep(key(1), part(10))
    assert bytes(reading) == bytes(3)
    del reading
    assert made.keep(key(1), part(10))


def test_without_memory_nothing_is_kept(now):
    assert not MadeSums(0).keep(key(0), part(1))
