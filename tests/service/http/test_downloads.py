"""Sums from any part on, and records with an entity tag that outlives a restart."""

import hashlib
import itertools

import httpx
import pytest

from tests.support.peers import make_plan, prepare, read_ended
from tests.support.real import RealFederation
from tests.support.server import QUICK, start_server


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    with start_server(tmp_path_factory.mktemp("downloads") / "data", environment=QUICK) as server:
        yield server


@pytest.fixture(scope="module")
def published(own_server):
    world = RealFederation(own_server, make_plan("downloaded"), ["a", "b", "c"])
    round_id = world.round_id
    for i, site in enumerate("abc"):
        world.peer(site).submit(prepare(world.plan, round_id, site, i))
    assert world.peer().record(round_id, wait=20).status_code == 200
    yield world, round_id
    world.close()


def test_all_parts_from_one_on(published, own_server):
    """What the record says, in order, also where a restart interrupted it."""
    world, round_id = published
    record = read_ended(world.peer().record(round_id).content).record
    whole = world.peer().sum_from(round_id).content
    ends = list(itertools.accumulate(place.wire_bytes for place in world.plan.public.places))
    parts = [whole[begin:end] for begin, end in itertools.pairwise([0, *ends])]
    assert tuple(hashlib.sha256(part).hexdigest() for part in parts) == record.sum_digests
    for first in range(len(parts)):
        answer = world.peer("b").sum_from(round_id, first)
        assert (answer.status_code, answer.content) == (200, b"".join(parts[first:]))
        assert answer.headers["content-length"] == str(len(answer.content))
        assert answer.headers["content-type"] == "application/octet-stream"
        own_server.start()
    assert world.peer().request("GET", f"/v1/rounds/{round_id}/sum").content == b"".join(parts)
    for beyond in (len(parts), 10**17):
        refused = world.peer().sum_from(round_id, beyond)
        assert (refused.status_code, refused.json()["reason"]) == (404, "unknown-part")
    assert world.peer().sum_from(round_id, "x").status_code == 400


def test_a_sum_that_the_disk_has_lost_ends_the_answer_too_early(published, own_server):
    """A part that is not there cannot be sent, and an answer that breaks off is never taken for a whole one."""
    world, round_id = published
    own_server.start()  # another process than the one that has made it
    path = own_server.data_dir / "rounds" / round_id / "sum" / "2.part"
    data = path.read_bytes()
    for damaged in (None, data[:-1]):
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(httpx.RemoteProtocolError):
            world.peer().sum_from(round_id)
    path.write_bytes(data)
    assert world.peer().sum_from(round_id).status_code == 200


def test_whoever_made_a_sum_sends_it_from_memory(own_server):
    """What is on the disk is for those who come later: it is the same, and nobody waits for it."""
    world = RealFederation(own_server, make_plan("made"), ["a", "b", "c"])
    round_id = world.round_id
    for i, site in enumerate("abc"):
        world.peer(site).submit(prepare(world.plan, round_id, site, i))
    record = read_ended(world.peer().record(round_id, wait=20).content).record
    folder = own_server.data_dir / "rounds" / round_id / "sum"
    places = world.plan.public.places
    kept = [(folder / f"{place.number}.part").read_bytes() for place in places]
    assert tuple(hashlib.sha256(part).hexdigest() for part in kept) == record.sum_digests
    for part in folder.iterdir():
        part.write_bytes(b"rotten")
    for site in "abc":
        assert world.peer(site).sum_from(round_id).content == b"".join(kept)
    world.close()


def test_the_record_has_an_entity_tag(published, own_server):
    world, round_id = published
    first = world.peer("b").record(round_id)
    digest = read_ended(first.content).signed.digest
    assert first.headers["etag"] == f'"{digest}"'
    assert first.headers["content-type"] == "application/json"
    own_server.start()
    again = world.peer("c").record(round_id)
    assert again.content == first.content
    path = f"/v1/rounds/{round_id}/record"
    same = world.peer().request("GET", path, {"If-None-Match": f'"{digest}"'})
    assert (same.status_code, same.content) == (304, b"")
