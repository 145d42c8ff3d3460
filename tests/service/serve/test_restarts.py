"""kill -9 of the real server between any two requests of a round, and within them: the same sum every time."""

import contextlib
import random
import sqlite3
import threading
import time

import httpx
import pytest

from he_agg.ids import RoundId
from service.aggregator import Aggregator
from service.settings import Settings
from tests.support.peers import expected_sum, prepare, read_sum, take_parts
from tests.support.seeds import seed_of
from tests.support.trees import living

SITES = "ab"
PARTS = 2
STEPS = 1 + len(SITES) * (PARTS + 1) + 2


def steps(world, round_id, prepared):
    """Every request of a round, in order, each with the status codes that may answer it."""
    yield lambda: world.peer().state(), {200}
    for site in SITES:
        peer, submission = world.peer(site), prepared[site]
        for number in range(PARTS):
            yield lambda p=peer, s=submission, n=number: p.put(s, n, s.parts[n]), {204, 200}
        yield lambda p=peer, s=submission: p.complete(s), {200}
    yield lambda: world.peer().record(round_id, wait=20), {200}
    yield lambda: world.peer().sum_from(round_id), {200}


def prepare_round(world):
    round_id = world.peer().current(wait=20)["round_id"]
    return round_id, {site: prepare(world.plan, round_id, site, i) for i, site in enumerate(SITES)}


def assert_sum(world, round_id, prepared):
    record = world.peer().record(round_id, wait=20).json()["record"]["body"]
    assert record["members"] == {site: p.id for site, p in prepared.items()}
    expected = expected_sum(world.plan, list(prepared.values()))
    got = read_sum(world.plan, world.peer().sum_from(round_id).content)
    for number in range(PARTS):
        assert (got[number] == expected[number]).all()


def assert_sound(server):
    with contextlib.closing(sqlite3.connect(server.data_dir / "aggregator.sqlite3")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    assert not [path for path in living(server.data_dir) if path.name.endswith(".tmp")]
    assert not [line for line in server.log_lines if line["level"] in ("ERROR", "CRITICAL")]


@pytest.fixture
def killed(own_server, make_world):
    return make_world(SITES, server=own_server, values=3000, rounds=1000)


def test_killed_between_any_two_requests(killed, own_server):
    assert len(killed.plan.public.places) == PARTS
    for position in range(STEPS):
        round_id, prepared = prepare_round(killed)
        requests = list(steps(killed, round_id, prepared))
        assert len(requests) == STEPS
        for number, (request, statuses) in enumerate(requests):
            assert request().status_code in statuses
            if number == position:
                own_server.start()
                # The answer may have been lost, so a client says it once more.
                assert request().status_code in statuses
        assert_sum(killed, round_id, prepared)
    assert_sound(own_server)


def test_killed_within_requests(killed, own_server):
    seed = seed_of("killed within requests")
    chance = random.Random(seed)
    for _ in range(2):
        round_id, prepared = prepare_round(killed)
        requests = list(steps(killed, round_id, prepared))
        kill_at = set(chance.sample(range(STEPS), 3))
        for number, (request, statuses) in enumerate(requests):
            if number in kill_at:
                delay = chance.uniform(0, 0.012)
                killer = threading.Thread(target=lambda d=delay: (time.sleep(d), own_server.kill()))
                killer.start()
                with contextlib.suppress(httpx.TransportError):
                    assert request().status_code in statuses
                killer.join()
                own_server.start()
            assert request().status_code in statuses
        assert_sum(killed, round_id, prepared)
    assert_sound(own_server)


def test_a_round_that_was_closed_when_the_server_died_is_folded_at_the_next_start(killed, own_server):
    round_id, prepared = prepare_round(killed)
    for site in SITES:
        killed.peer(site).put(prepared[site], 0, prepared[site].parts[0])
    own_server.kill()
    # The sites complete at an aggregator that has no background work: it closes the round and goes no further.
    idle = Aggregator.open(Settings(data_dir=own_server.data_dir))
    receipts = [take_parts(idle, killed.name, site, prepared[site], range(1, PARTS)) for site in SITES]
    with idle.store.read() as tx:
        assert tx.round(RoundId.parse(round_id)).phase == "closed"
    idle.close()
    half = own_server.data_dir / "rounds" / round_id / "submissions" / prepared["a"].upload / ".0.feedfeedfeedfeed.tmp"
    half.write_bytes(b"half a part")
    own_server.start()
    assert_sum(killed, round_id, prepared)
    assert [killed.peer(site).complete(prepared[site]).content for site in SITES] == [
        receipt.encode() for receipt in receipts
    ]
    assert_sound(own_server)
