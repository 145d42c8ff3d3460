"""The whole aggregator over each part store: a round from its first part to its sum, damage included."""

import pytest

from he_agg.ids import RoundId
from service.store.parts.base import SUM, PartKey
from service.store.parts.directory import DirectoryParts
from service.store.parts.memory import MemoryParts
from tests.support.peers import expected_sum, make_plan, prepare, read_part
from tests.support.simulated import Clock, SimulatedFederation

ONE = RoundId("f", 1, 1)


@pytest.fixture(params=["directory", "memory"])
def part_store(request, tmp_path):
    (tmp_path / "parts").mkdir()
    return MemoryParts() if request.param == "memory" else DirectoryParts(tmp_path / "parts")


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_round(part_store, in_memory, tmp_path):
    plan = make_plan("f", rounds=5)
    inside = SimulatedFederation(
        tmp_path / "data",
        plan,
        clock=Clock(1_800_000_000.5),
        part_store=part_store,
        running_sum_bytes=2**20 if in_memory else 0,
        keep_sums=1,
    )
    peers = {site: inside.at(site) for site in "abc"}

    def submit(round_id, sites="abc"):
        sent = [prepare(plan, round_id, site, i) for i, site in enumerate(sites)]
        for site, one in zip(sites, sent, strict=True):
            assert peers[site].put(one, 0, one.whole).status_code == 200
        return sent

    sent = submit(str(ONE))
    if not in_memory:
        part_store.put_all([(PartKey(ONE, sent[1].upload, 1), b"rotten")])
        part_store.delete(PartKey(ONE, sent[2].upload, 0))
        inside.fold()
        missing = [peers[site].status(one).json()["missing"] for site, one in zip("abc", sent, strict=True)]
        assert missing == [[], [1], [0]]
        for site, one in zip("bc", sent[1:], strict=True):
            assert peers[site].put(one, 0, one.whole).status_code == 200
    inside.close()
    inside.open()
    peers = {site: inside.at(site) for site in "abc"}
    inside.fold()
    inside.look()
    assert all(part_store.size(PartKey(ONE, one.upload, place.number)) for one in sent for place in plan.public.places)
    for peer in peers.values():
        assert peer.judge(str(ONE)).status_code == 201
    inside.look()
    whole, places = peers["a"].sum_from(str(ONE)).content, plan.public.places
    for place, expected in zip(places, expected_sum(plan, sent), strict=True):
        part, whole = whole[: place.wire_bytes], whole[place.wire_bytes :]
        assert (read_part(plan, place.number, part) == expected).all()
        assert part_store.read(PartKey(ONE, SUM, place.number)) == part
    assert all(part_store.size(PartKey(ONE, one.upload, place.number)) is None for one in sent for place in places)
    submit("f.2.1")
    inside.fold()
    for peer in peers.values():
        assert peer.judge("f.2.1").status_code == 201
    inside.look()
    assert list(part_store.rounds()) == [RoundId("f", 2, 1)]
    assert peers["a"].sum_from(str(ONE)).status_code == 410
    assert not list((tmp_path / "data").rglob("*.part"))
    inside.end()
