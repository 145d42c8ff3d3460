"""Limits and back-pressure: room, quotas, slow bodies, too much at once, trouble of the machine, and a graceful end."""

import asyncio
import http.client
import shutil
import threading
import time
from collections import namedtuple
from contextlib import ExitStack, closing
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from he_agg.errors import ProtocolError, Reason
from he_agg.protocol.http_signatures import manifest_field
from service.aggregator import NotReadyError
from service.core.event_loop import leave_reading
from service.http.reading import run_reading
from service.limits import Limits, _Slots
from service.operator import operations
from service.settings import Settings
from service.store.rows import Keeping
from tests.service.monitor.watched import watched_server
from tests.support.peers import OCTETS, make_plan, operator, prepare, read_receipt, take_end, take_parts
from tests.support.server import QUICK, start_server
from tests.support.simulated import SimulatedFederation

Usage = namedtuple("Usage", "total used free")
PLAN = make_plan("f", rounds=10)
SIZE = PLAN.public.wire_bytes
RESERVE = 10 * SIZE


@pytest.fixture
def make(tmp_path):
    opened = []

    def make(**options):
        inside = SimulatedFederation(tmp_path / "data", PLAN, **{"reserve_bytes": RESERVE, **options})
        opened.append(inside)
        return inside

    yield make
    for inside in opened:
        inside.end()


@pytest.fixture
def disk(monkeypatch):
    """Sets how much space is left."""

    def leave(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free))

    return leave


def refused(act, reason):
    with pytest.raises(ProtocolError) as caught:
        act()
    assert caught.value.reason is reason


def test_new_submissions_are_refused_before_the_disk_is_full(make, disk):
    inside = make()
    disk(RESERVE + 2 * SIZE)  # one submission and one sum
    begun = inside.submit("a", 1, "f.1.1", complete=False)
    disk(RESERVE + 2 * SIZE - 1)
    refused(lambda: inside.submit("b", 2, "f.1.1"), Reason.STORAGE_FULL)
    disk(RESERVE - 1)
    with pytest.raises(NotReadyError, match="disk space"):
        inside.aggregator.check_ready()
    # What was let in goes on to its end, whatever the disk says.
    disk(0)
    assert read_receipt(take_end(inside.aggregator, "f", "a", begun).encode()).site == "a"


def test_what_others_were_promised_counts(make, disk):
    inside = make()
    disk(RESERVE + 3 * SIZE)
    first, second, third = (prepare(PLAN, "f.1.1", site, i) for i, site in enumerate("abc"))
    for site, one in (("a", first), ("b", second)):
        assert take_parts(inside.aggregator, "f", site, one, range(1)) is None
    refused(lambda: take_parts(inside.aggregator, "f", "c", third, range(1)), Reason.STORAGE_FULL)


def test_room_is_given_with_the_first_parts(make, disk):
    """Heads of two submissions are looked at before anything of either is here: one of them has room."""
    inside = make()
    disk(RESERVE + 2 * SIZE)
    uploads, begun = inside.aggregator.uploads, []
    for seed, site in enumerate("ab"):
        one = prepare(PLAN, "f.1.1", site, seed)
        begun.append((uploads.expect("f", site, "f.1.1", one.upload, 0, len(one.parts[0])), one))
    (first, one), (second, other) = begun
    assert uploads.take(first, [memoryview(one.parts[0])]) is None
    refused(lambda: uploads.take(second, [memoryview(other.parts[0])]), Reason.STORAGE_FULL)
    assert [path.parent.name for path in inside.settings.data_dir.rglob("*.part")] == [one.upload]


def test_a_head_is_refused_where_others_were_promised_the_room(make, disk):
    inside = make()
    disk(RESERVE + 3 * SIZE)
    assert take_parts(inside.aggregator, "f", "a", prepare(PLAN, "f.1.1", "a", 1), range(1)) is None
    other, uploads = prepare(PLAN, "f.1.1", "b", 2), inside.aggregator.uploads
    disk(RESERVE + 2 * SIZE)  # for its own and the sum, and a has more to come
    refused(lambda: uploads.expect("f", "b", "f.1.1", other.upload, 0, len(other.whole)), Reason.STORAGE_FULL)
    # What was counted last may be past.
    inside.aggregator.capacity._awaited_bytes = 2**60
    disk(RESERVE + 3 * SIZE)
    assert uploads.expect("f", "b", "f.1.1", other.upload, 0, len(other.whole)).begins


def test_who_reads_waits_for_nobody_who_writes():
    """Rows are read for everybody by few threads where the database is behind a network."""
    shared: Any = SimpleNamespace(store=SimpleNamespace(is_shared=True))
    waiting, go = threading.Semaphore(0), threading.Event()

    def write():
        leave_reading()
        waiting.release()
        return go.wait(20)

    async def main():
        writing = [asyncio.create_task(run_reading(shared, write)) for _ in range(8)]
        for _ in writing:
            assert await asyncio.to_thread(waiting.acquire, timeout=20)
        assert await run_reading(shared, lambda: "read") == "read"
        assert not any(task.done() for task in writing)
        go.set()
        assert all(await asyncio.gather(*writing))

    asyncio.run(main())


def test_room_is_made_elsewhere_than_where_heads_are_looked_at(make, disk):
    """A head is looked at on the event loop, where nothing is written."""
    inside = make()
    for i, site in enumerate("abc"):
        inside.submit(site, i, "f.1.1")
    inside.fold_one("f.1.1")
    disk(0)
    one = prepare(PLAN, "f.2.1", "a", 5)
    expect = partial(inside.aggregator.uploads.expect, "f", "a", "f.2.1", one.upload, 0, len(one.whole))

    async def look():
        return await run_reading(inside.aggregator, expect)

    written_by = []
    inside.aggregator.store.on_write = lambda _: written_by.append(threading.get_ident())
    for waiting in (1, 0):
        with inside.aggregator.store.read() as tx:
            assert len(tx.unreleased("f")) == waiting
        refused(lambda: asyncio.run(look()), Reason.STORAGE_FULL)
    assert written_by
    assert threading.get_ident() not in written_by


def test_quota_of_a_federation(make):
    inside = make(federation_quota_bytes=4 * SIZE, reserve_bytes=0)
    for i, site in enumerate("abc"):  # and one sum
        inside.submit(site, i, "f.1.1")
    inside.fold_one("f.1.1")
    inside.submit("a", 5, "f.2.1")  # those behind the sum are still here, and do not count
    inside.submit("b", 6, "f.2.1")
    refused(lambda: inside.submit("c", 7, "f.2.1"), Reason.QUOTA_EXCEEDED)


def test_quota_of_a_site(make):
    inside = make(site_quota_bytes=SIZE, reserve_bytes=0, keeping=Keeping(keep_submissions=True))
    for i, site in enumerate("abc"):
        inside.submit(site, i, "f.1.1")
    inside.fold_one("f.1.1")
    inside.aggregator.worker._look()
    for seed in range(5):
        refused(lambda seed=seed: inside.submit("a", seed, "f.2.1"), Reason.QUOTA_EXCEEDED)
    assert not list(inside.settings.data_dir.glob("rounds/f.2.1/submissions/*"))


def begin_put(world, site, submission, sent=100, *, is_read=True):
    """A PUT whose body stays away after some bytes. Once its turn has come the server asks for it, and it `is_read`."""
    part = submission.parts[0]
    host, port = world.server.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    path = f"/v1/rounds/{world.round_id}/submissions/{submission.upload}"
    connection.putrequest("PUT", path)
    fields = world.peer(site).signature("PUT", path, manifest_field(submission.upload))
    for name, value in {**fields, **OCTETS, "Content-Length": str(len(part)), "Expect": "100-continue"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    if is_read:
        assert connection.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(part[:sent])
    return connection


def test_a_body_that_is_too_slow_is_given_up(make_world, tmp_path):
    hasty = {"HE_AGG_MIN_RATE": "1000000", "HE_AGG_SLOW_GRACE_S": "0.5"}
    with start_server(tmp_path / "data", environment=QUICK | hasty) as server:
        world = make_world(server=server)
        slow = prepare(world.plan, world.round_id, "a", 0)
        with closing(begin_put(world, "a", slow)) as connection:
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Retry-After"]) == (408, "1")
            assert b"too-slow" in answer.read()
        assert world.peer("a").status(slow).status_code == 404


@pytest.fixture
def strict(tmp_path):
    limits = {
        "HE_AGG_SLOW_GRACE_S": "600",
        "HE_AGG_MAX_UPLOADS": "1",
        "HE_AGG_UPLOAD_QUEUE_S": "0.1",
        "HE_AGG_MAX_SITE_REQUESTS": "2",
        "HE_AGG_MAX_REQUESTS": "4",
    }
    with watched_server(tmp_path / "data", environment=limits) as watched:
        yield watched


def test_too_much_at_once(make_world, strict):
    world = make_world(server=strict.server)
    first, waiting = (prepare(world.plan, world.round_id, site, seed) for seed, site in enumerate("ab"))
    with closing(begin_put(world, "a", first)) as connection:
        # The one body that may be read is being read, so the next one waits its turn, in vain.
        answer = world.peer("b").put(waiting, 0, waiting.parts[0])
        assert (answer.status_code, answer.json()["reason"], answer.headers["Retry-After"]) == (503, "busy", "2")
        connection.send(first.parts[0][100:])
        assert connection.getresponse().status == 204
    assert world.peer("b").put(waiting, 0, waiting.parts[0]).status_code == 204
    # Requests at once: of one site, and of all.
    news = {"wait": 60, "after": world.round_id}
    polls = [threading.Thread(target=world.peer(site).current, kwargs=news) for site in "aab"]
    for poll in polls[:2]:
        poll.start()
    strict.wait_for_requests(2)
    answer = world.peer("a").state()
    assert (answer.status_code, answer.json()["reason"]) == (429, "too-many-requests")
    assert answer.headers["Retry-After"] == "1"
    assert world.peer("b").state().status_code == 200
    polls[2].start()
    strict.wait_for_requests(3)
    answer = world.peer("b").state()
    assert (answer.status_code, answer.json()["reason"]) == (503, "busy")
    # The last one is for who has none.
    assert world.peer("c").state().status_code == 200
    assert world.client.get("/healthz").status_code == 200
    with operator(world.server.data_dir) as (store, conductor):
        operations.end(store, conductor, world.name)
    for poll in polls:
        poll.join()
    assert world.peer("c").state().status_code == 200


def test_sigterm_lets_a_part_that_is_coming_in_finish(make_world, tmp_path):
    with start_server(tmp_path / "data", environment=QUICK) as server:
        world = make_world(server=server)
        submission = prepare(world.plan, world.round_id, "a", 1)
        connection = begin_put(world, "a", submission)
        codes = []
        ending = threading.Thread(target=lambda: codes.append(server.stop()))
        ending.start()
        time.sleep(0.5)
        assert ending.is_alive()
        connection.send(submission.parts[0][100:])
        assert connection.getresponse().status == 204
        ending.join()
        assert codes == [0]
        connection.close()
        server.start()
        assert world.peer("a").status(submission).json()["missing"] == [1, 2]


def test_one_member_that_drips_uploads_keeps_nobody_waiting(make_world, tmp_path):
    """32 bodies of which 4 bytes come; before, everybody else waited until they were given up."""
    patient = {"HE_AGG_SLOW_GRACE_S": "600", "HE_AGG_UPLOAD_QUEUE_S": "600"}
    with watched_server(tmp_path / "data", environment=patient) as watched:
        world = make_world(server=watched.server)
        greedy, round_id = prepare(world.plan, world.round_id, "a", 1), world.round_id
        dripping = [begin_put(world, "a", greedy, sent=4, is_read=False) for _ in range(32)]
        watched.wait_for_requests(32)
        for seed, site in enumerate("bc"):
            submission = prepare(world.plan, round_id, site, seed)
            assert world.peer(site).submit(submission).status_code == 200
        watched.wait_for_requests(32)  # they still drip
        for connection in dripping:
            connection.close()


def test_whoever_has_no_place_finds_one():
    """Whatever members do, in any order: the last place is never taken by one that has others."""
    slots, random = _Slots(32), Random(1)
    held = []
    for _ in range(5000):
        if held and random.random() < 0.3:
            held.pop(random.randrange(len(held))).close()
        member = ("f", f"greedy-{random.randrange(10)}")
        if slots.may_take(member):
            stack = ExitStack()
            stack.enter_context(slots.one(member))
            held.append(stack)
        assert slots.may_take(("f", "modest"))
    assert len(held) > 20


def test_requests_of_one_member_leave_the_others_theirs():
    limits = Limits(Settings(max_requests=8, max_site_requests=100))
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(limits.request("f", "a"))
        with pytest.raises(ProtocolError) as caught:
            limits.request("f", "a").__enter__()
        assert caught.value.reason is Reason.BUSY
        with limits.request("f", "b"):
            assert limits.under_way == 5
    assert limits.under_way == 0
