"""Sums in memory are taken only where the closed set has all that is in them; the rest is read from files."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from he_agg.errors import HeAggError, Reason
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import pack, residue_dtype
from service.core.submissions.running_sums import RunningSums
from service.store.parts.base import SUM, PartKey
from tests.support.peers import expected_sum, make_plan, read_part, take_parts
from tests.support.seeds import seed_of
from tests.support.simulated import SimulatedFederation

ROUND = RoundId("f", 1, 1)
PLAN = make_plan("f").public
PLACE = PLAN.places[0]


@pytest.fixture
def read(inside, monkeypatch):
    """Keys of the parts that folding reads."""
    keys, part_store = [], inside.aggregator.part_store
    real = part_store.read
    monkeypatch.setattr(part_store, "read", lambda key: keys.append(key) or real(key))
    return keys


def finish(inside):
    inside.aggregator.worker.folder.fold(ROUND)
    assert inside.row("f.1.1").phase == "published"


def check_sum(inside, members):
    expected = expected_sum(inside.plan, members)
    for n, numbers in enumerate(expected):
        path = inside.aggregator.part_store.path(PartKey(ROUND, SUM, n))
        assert (read_part(inside.plan, n, path.read_bytes()) == numbers).all()


def path_of(inside, member, number):
    return inside.aggregator.part_store.path(PartKey(ROUND, member.upload, number))


def test_what_came_in_is_the_sum_and_nothing_is_read(inside, read):
    members = [inside.submit(site, i, "f.1.1") for i, site in enumerate("abc")]
    finish(inside)
    assert read == []
    check_sum(inside, members)


def test_what_a_restart_forgot_is_read_and_the_rest_is_added_to(inside, monkeypatch):
    members = [inside.submit(site, i, "f.1.1") for i, site in enumerate("ab")]
    inside.close()
    inside.open()
    members.append(inside.submit("c", 2, "f.1.1"))
    keys, part_store = [], inside.aggregator.part_store
    real = part_store.read
    monkeypatch.setattr(part_store, "read", lambda key: keys.append(key) or real(key))
    finish(inside)
    assert {key.owner for key in keys} == {members[0].upload, members[1].upload}
    check_sum(inside, members)


def test_a_site_that_sent_all_and_did_not_complete_is_not_in_the_sum(inside, read):
    members = [inside.submit("a", 1, "f.1.1"), inside.submit("b", 2, "f.1.1")]
    inside.submit("c", 3, "f.1.1", complete=False)
    inside.clock.now = inside.row("f.1.1").deadline_at + 1
    inside.aggregator.conductor.tick_all()
    finish(inside)
    assert sorted(inside.record("f.1.1").members) == ["a", "b"]
    assert {key.owner for key in read} == {member.upload for member in members}
    check_sum(inside, members)


def test_an_upload_that_expired_and_came_again_is_added_once(inside, read):
    late = inside.submit("c", 3, "f.1.1", complete=False)
    part_store = inside.aggregator.part_store
    with inside.aggregator.store.write() as tx:
        tx.unmark_parts(late.upload)
    part_store.purge_submission(ROUND, late.upload)
    members = [inside.submit(site, i, "f.1.1") for i, site in enumerate("ab")]
    take_parts(inside.aggregator, "f", "c", late, range(len(late.parts)))
    finish(inside)
    assert read == []
    check_sum(inside, [*members, late])


@pytest.mark.parametrize("spoil", [lambda p: p.unlink(), lambda p: p.write_bytes(b"x")], ids=["missing", "short"])
def test_damage_to_what_is_in_the_sum_is_of_no_account(inside, spoil):
    members = [inside.submit(site, i, "f.1.1") for i, site in enumerate("abc")]
    spoil(path_of(inside, members[0], 1))
    finish(inside)
    check_sum(inside, members)


def test_damage_to_what_is_not_is_found_and_repaired(inside):
    members = [inside.submit(site, i, "f.1.1") for i, site in enumerate("ab")]
    inside.close()
    inside.open()
    members.append(inside.submit("c", 2, "f.1.1"))
    path_of(inside, members[0], 1).write_bytes(b"x")
    path_of(inside, members[2], 1).write_bytes(b"x")  # in memory; read when it is folded again
    worker = inside.aggregator.worker
    for site, member in (("a", members[0]), ("c", members[2])):
        worker.folder.fold(ROUND)
        assert inside.row("f.1.1").phase == "folding"
        assert inside.aggregator.uploads.status("f", site, member.round_id, member.upload).missing == [1]
        take_parts(inside.aggregator, "f", site, member, range(1, 2))
    finish(inside)
    check_sum(inside, members)


def test_a_bad_residue_is_refused_and_spoils_nothing(inside):
    """The kernel has added it by the time it is found."""
    members = [inside.submit(site, i, "f.1.1") for i, site in enumerate("ab")]
    sums, bits = inside.aggregator.uploads._sums, PLACE.section.modulus_bits
    bad = np.zeros(PLACE.residues, residue_dtype(bits))
    bad[3] = PLACE.section.modulus
    with pytest.raises(HeAggError) as caught:
        sums.add(ROUND, PLACE, "ab" * 32, "cd" * 32, pack(bad, bits).data)
    assert caught.value.reason is Reason.RESIDUE_OUT_OF_RANGE
    assert "residue 3 " in str(caught.value)
    members.append(inside.submit("c", 2, "f.1.1"))
    finish(inside)
    check_sum(inside, members)


def test_it_keeps_to_its_memory(tmp_path, monkeypatch):
    need = [p.residues * np.dtype(residue_dtype(p.section.modulus_bits)).itemsize for p in PLAN.places]
    inside = SimulatedFederation(tmp_path / "data", make_plan("f"), running_sum_bytes=need[0] + need[1])
    members = [inside.submit(site, i, "f.1.1") for i, site in enumerate("abc")]
    keys, part_store = [], inside.aggregator.part_store
    real = part_store.read
    monkeypatch.setattr(part_store, "read", lambda key: keys.append(key) or real(key))
    finish(inside)
    assert {key.number for key in keys} == set(range(2, len(need)))
    check_sum(inside, members)
    assert inside.aggregator.uploads._sums._room == need[0] + need[1]
    inside.end()


def residues(seed):
    bits = PLACE.section.modulus_bits
    values = np.random.default_rng(seed).integers(0, PLACE.section.modulus, PLACE.residues, dtype=np.uint64)
    return values, pack(values.astype(residue_dtype(bits)), bits).data


def test_from_many_threads_each_part_is_added_once_or_the_taker_knows():
    """Whatever a sum says that it is made of, it is made of, when it is taken while parts still come in."""
    seed = seed_of("running sums")
    parts = {f"{i:064x}": residues(seed + i) for i in range(6)}
    for turn in range(20):
        sums, begin, taken = RunningSums(2**24), threading.Barrier(13), []

        def add(who, sums=sums, begin=begin):
            begin.wait()
            sums.add(ROUND, PLACE, who, who, parts[who][1])

        def take(sums=sums, begin=begin, taken=taken):
            begin.wait()
            taken.append(sums.take(ROUND, 0))

        order = [*parts, *parts]
        random.Random(seed + turn).shuffle(order)
        with ThreadPoolExecutor(13) as pool:
            for future in [*(pool.submit(add, who) for who in order), pool.submit(take)]:
                future.result()
        if taken[0] is not None:
            expected = sum(parts[who][0] for who in taken[0].added) % np.uint64(PLACE.section.modulus)
            assert (taken[0].total == expected).all()
        assert sums.take(ROUND, 0) is None
        assert not sums.add(ROUND, PLACE, "ab" * 32, "ab" * 32, parts[order[0]][1])
        assert sums._room == 2**24


def test_another_attempt_takes_its_place_and_a_round_at_rest_makes_room():
    now = [0.0]
    size = PLACE.residues * np.dtype(residue_dtype(PLACE.section.modulus_bits)).itemsize
    sums = RunningSums(size, lambda: now[0])
    (first, one), (_, two) = residues(1), residues(2)
    assert sums.add(ROUND, PLACE, "a" * 64, "a", one)
    assert not sums.add(RoundId("g", 1, 1), PLACE, "b" * 64, "b", two)
    now[0] = 61.0
    assert sums.add(RoundId("g", 1, 1), PLACE, "b" * 64, "b", two)
    assert sums.take(ROUND, 0) is None
    assert sums.add(RoundId("g", 1, 2), PLACE, "c" * 64, "c", one)
    assert sums.take(RoundId("g", 1, 1), 0) is None
    made = sums.take(RoundId("g", 1, 2), 0)
    assert made.added == {"c" * 64: "c"}
    assert (made.total == first).all()
    assert not sums.add(RoundId("g", 1, 1), PLACE, "b" * 64, "b", two)
