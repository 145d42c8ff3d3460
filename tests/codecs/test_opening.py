"""A sum that is opened as its parts come: in any order, from any thread, with nothing to be seen before the end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from he_agg.codecs import codec_for
from he_agg.errors import DecryptionError, WireError
from he_agg.plan.sections import Part
from keys import GroupKey
from tests.support.federation import ROUND, by_number, fold_all, key_of, plan_of, source

PLANS: dict[str, dict[str, Any]] = {
    "ckks": {"n_values": 9_000, "codec": "ckks", "value_bits": 16, "part_bytes": 2**16},
    "one modulus": {"n_values": 140_000, "codec": "hybrid", "value_bits": 16, "max_sites": 100, "part_bytes": 2**17},
    "two moduli": {"n_values": 140_000, "codec": "hybrid", "value_bits": 24, "max_sites": 31, "part_bytes": 2**17},
}


class Sum:
    """Two submissions, their sum, and which parts of it were asked for again."""

    def __init__(self, name: str, rng) -> None:
        self.plan = plan_of(**PLANS[name])
        public, self.key, self.codec = self.plan.public, key_of(self.plan), codec_for(self.plan.public)
        m = public.magnitude
        self.values = rng.integers(-m, m, (2, public.values), dtype=np.int32, endpoint=True)
        submissions = [by_number(self.codec.encrypt(values, self.key, ROUND)) for values in self.values]
        self.parts = fold_all(public, submissions)
        self.asked: list[int] = []

    def source(self, number: int) -> Part:
        self.asked.append(number)
        return source(self.parts)(number)

    def opening(self, key: GroupKey | None = None):
        return self.codec.opening(self.source, 2, key or self.key, ROUND)

    def passing(self, part: Part) -> Part:
        """A part whose memory is used for something else as soon as it was taken."""
        return Part(part.number, memoryview(bytearray(part.packed)))


@pytest.fixture(params=PLANS)
def total(request, rng):
    total = Sum(request.param, rng)
    assert len(total.parts) > 2
    return total


def test_parts_may_come_in_any_order(total, rng):
    numbers = range(len(total.parts))
    for order in (numbers, reversed(numbers), rng.permutation(len(total.parts)).tolist()):
        with total.opening() as opening:
            for number in order:
                part = total.passing(total.parts[number])
                opening.take(part)
                part.packed[:] = bytes(len(part.packed))
            assert np.array_equal(opening.sums(), total.values.sum(axis=0, dtype=np.int64))


def test_in_order_no_part_is_asked_for_again_but_what_opens_with_another(total):
    with total.opening() as opening:
        for part in total.parts:
            opening.take(part)
        opening.sums()
    moduli = len(total.plan.public.sections) - (len(total.plan.public.sections) > 1)
    others = (len(total.parts) - 1) // 2 if moduli == 2 else 0
    assert len(total.asked) == others


def test_threads_may_take_parts(total):
    with total.opening() as opening, ThreadPoolExecutor(4) as pool:
        list(pool.map(opening.take, total.parts))
        assert np.array_equal(opening.sums(), total.values.sum(axis=0, dtype=np.int64))


def test_sums_of_some_parts_are_none(total):
    with total.opening() as opening:
        for part in total.parts[:-1]:
            opening.take(part)
        with pytest.raises(ValueError, match="1 parts were not taken"):
            opening.sums()
    with total.opening() as opening:
        opening.take(total.parts[0])
        with pytest.raises((ValueError, KeyError)):
            opening.take(total.parts[0])


def test_what_does_not_open_shows_at_the_end_only(total):
    """Another key, and a residue that is none: every part is taken as if nothing were, and then it is told."""
    with total.opening(GroupKey.create(total.plan)) as opening:
        for part in total.parts:
            opening.take(part)
        with pytest.raises(DecryptionError):
            opening.sums()
    for number in (0, 1, len(total.parts) - 1):
        wrong = bytearray(total.parts[number].packed)
        wrong[:] = b"\xff" * len(wrong)
        parts = [*total.parts[:number], Part(number, bytes(wrong)), *total.parts[number + 1 :]]
        total.parts, honest = parts, total.parts
        with total.opening() as opening:
            for part in parts:
                opening.take(part)
            with pytest.raises(WireError, match=rf"part (\d+, )*{number}(, \d+)*: "):
                opening.sums()
        total.parts = honest


def test_what_is_not_handed_out_is_wiped(total):
    for release in (False, True):
        opening = total.opening()
        with opening:
            for part in total.parts:
                opening.take(part)
            inside = opening._sums
            assert inside.any()
            if release:
                sums = opening.sums()
        if release:
            assert np.array_equal(sums, total.values.sum(axis=0, dtype=np.int64))
        else:
            assert not inside.any()
