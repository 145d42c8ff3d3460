"""Several aggregators over one PostgreSQL and one place for parts: any may die at any time, and no sum changes.

The place is a shared directory, or an object store; then each replica has a directory of its own, with the same key.
"""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from he_agg.errors import ConfigError, ProtocolError
from he_agg.ids import RoundId
from service.aggregator import Aggregator
from service.core.aggregator_key import FILE_NAME
from service.domain import events
from service.domain.events import Phase
from service.settings import Settings
from service.store.parts.base import SUM, PartKey
from service.store.parts.directory import DirectoryParts
from service.work.folder import RANGE_PARTS
from service.work.folding import fold_round
from service.work.leases import LeaseLostError
from tests.support.peers import (
    enrol,
    expected_sum,
    make_plan,
    prepare,
    read_part,
    take_end,
    take_parts,
)
from tests.support.postgres import end_connections
from tests.support.real import until
from tests.support.replicas import Replicas
from tests.support.server import he_agg

SITES = "abc"
ONE = RoundId("f", 1, 1)


@pytest.fixture(params=["directory", "objects"])
def pair(postgres, tmp_path, request):
    environment = {}
    if request.param == "objects":
        object_store = request.getfixturevalue("object_store")
        environment = object_store.environment() | {"HE_AGG_PARTS": object_store.new_place()}
    opened = Replicas(postgres.new_database(), tmp_path, **environment)
    for _ in range(2):
        opened.serve()
    yield opened
    opened.close()


def test_a_round_through_both_replicas_while_they_die_in_turn(pair):
    for number in range(4):
        victim = number % 2
        other = 1 - victim
        round_id = pair.peer("a", 0).current(wait=10)["round_id"]
        prepared = {site: prepare(pair.plan, round_id, site, i, one_hot=i) for i, site in enumerate(SITES)}
        for site in SITES:
            assert pair.peer(site, victim).put(prepared[site], 0, prepared[site].parts[0]).status_code == 204
        if number < 2:
            pair.processes[victim].kill()
        # What one replica has taken, the other knows.
        assert pair.peer("a", other).status(prepared["a"]).json()["missing"] == [1, 2]
        for site in SITES:
            for n in (1, 2):
                status = pair.peer(site, other).put(prepared[site], n, prepared[site].parts[n]).status_code
                assert status == {1: 204, 2: 200}[n]
        if number >= 2:
            # Whoever folds may be the one that dies.
            pair.processes[victim].kill()
        pair.check_sum(round_id, prepared, other)
        pair.processes[victim].start()
        assert pair.peer("a", victim).complete(prepared["a"]).status_code == 200
        pair.check_sum(round_id, prepared, victim)
    for server in pair.processes:
        assert not [line for line in server.log_lines if line["level"] in ("ERROR", "CRITICAL")]


def test_news_reaches_who_waits_at_the_other_replica(pair):
    round_id = pair.peer("a", 0).current(wait=10)["round_id"]
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(pair.peer("a", 1).record(round_id, wait=60)))
    began = time.monotonic()
    waiting.start()
    for i, site in enumerate(SITES):
        assert pair.peer(site, 0).submit(prepare(pair.plan, round_id, site, i)).status_code == 200
    waiting.join()
    assert answers[0].json()["record"]["body"]["outcome"] == "published"
    assert time.monotonic() - began < 30


class Twins:
    """Two aggregators in this process without background work: the test says who does what, and when."""

    def __init__(self, url, tmp_path, values):
        self.plan = make_plan("f", values=values)
        settings = Settings(data_dir=tmp_path / "shared", database_url=url)
        self.both = [Aggregator.open(settings) for _ in range(2)]
        enrol(self.both[0].store, self.both[0].conductor, self.plan, list(SITES))
        self.both[0].conductor.apply("f", events.Started())
        self.prepared = [prepare(self.plan, ONE, site, i) for i, site in enumerate(SITES)]

    def submit(self, site, replica):
        prepared, aggregator = self.prepared[SITES.index(site)], self.both[replica]
        return take_parts(aggregator, "f", site, prepared, range(len(prepared.parts)))

    def check_sum(self):
        part_store = self.both[0].part_store
        assert isinstance(part_store, DirectoryParts)
        for number, expected in enumerate(expected_sum(self.plan, self.prepared)):
            path = part_store.path(PartKey(ONE, SUM, number))
            assert (read_part(self.plan, number, path.read_bytes()) == expected).all()

    def submit_all(self):
        for i, site in enumerate(SITES):
            self.submit(site, i % 2)

    def record_digest(self):
        with self.both[0].store.read() as tx:
            row = tx.round(ONE)
            assert tx.leases("") == []
        assert row.phase is Phase.PUBLISHED
        return row.record_digest


@pytest.fixture
def make_twins(postgres, tmp_path):
    opened = []

    def make(values=5000):
        opened.append(Twins(postgres.new_database(), tmp_path, values))
        return opened[-1]

    yield make
    for twins in opened:
        for one in twins.both:
            one.close()


@pytest.fixture
def twins(make_twins):
    return make_twins()


class Gate:
    """Holds a worker up where it has made its first part and is about to store it; counts what it stores."""

    def __init__(self, aggregator, monkeypatch):
        self.reached, self.open = threading.Event(), threading.Event()
        self.stored = []
        put_all = aggregator.part_store.put_all

        def put(parts, **how):
            self.reached.set()
            assert self.open.wait(60)
            put_all(parts, **how)
            self.stored += [key.number for key, _ in parts]

        monkeypatch.setattr(aggregator.part_store, "put_all", put)


def test_a_folder_that_was_asleep_writes_nothing_over_its_successor(twins):
    one, two = twins.both
    for i, site in enumerate(SITES):
        twins.submit(site, i % 2)
    one.conductor.apply("f", events.FoldBegan(1, 1))
    lease = one.worker._leases.take("fold:f.1.1:0")
    assert two.worker._look()[1] == []
    # It makes one part, then sleeps for a minute; the other takes over and publishes.
    steps = iter([False, True])
    hold = lambda tx: one.worker._leases.hold(tx, lease)  # noqa: E731
    assert not fold_round(one.store, one.part_store, twins.plan.public, ONE, lambda: next(steps), hold=hold)
    two.worker._leases._clock = lambda: time.time() + 60
    assert two.worker._look()[1] == [ONE]
    two.worker.folder.fold(ONE)
    with one.store.read() as tx:
        assert tx.round(ONE).phase is Phase.PUBLISHED
        digest = tx.round(ONE).record_digest
    one.part_store.path(PartKey(ONE, SUM, 2)).unlink()  # so that it would have to write again
    with pytest.raises(LeaseLostError):
        fold_round(one.store, one.part_store, twins.plan.public, ONE, hold=hold)
    with one.store.read() as tx:
        assert tx.round(ONE).record_digest == digest
    twins.check_sum()


THREE_RANGES = 40_000
"""Values of 20 parts."""


def test_two_workers_make_one_sum_side_by_side(make_twins, monkeypatch):
    twins = make_twins(THREE_RANGES)
    assert 2 * RANGE_PARTS < len(twins.plan.public.places) < 3 * RANGE_PARTS
    twins.submit_all()
    one, two = twins.both
    gate, other = Gate(one, monkeypatch), Gate(two, monkeypatch)
    other.open.set()
    with ThreadPoolExecutor(1) as pool:
        folding = pool.submit(one.worker.folder.fold, ONE)
        assert gate.reached.wait(60)
        two.worker.folder.fold(ONE)
        with one.store.read() as tx:
            assert tx.round(ONE).phase is Phase.FOLDING  # the first range is still being made
        assert two.worker._look()[1] == []
        gate.open.set()
        folding.result()
    # Each part was made once: the first range by one of them, the others by the other, and the last one published.
    assert sorted(gate.stored) == list(range(RANGE_PARTS))
    assert sorted(other.stored) == list(range(RANGE_PARTS, len(twins.plan.public.places)))
    assert twins.record_digest()
    twins.check_sum()


def test_a_worker_that_was_asleep_over_its_range_writes_nothing(make_twins, monkeypatch):
    twins = make_twins(THREE_RANGES)
    twins.submit_all()
    one, two = twins.both
    gate = Gate(one, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        folding = pool.submit(one.worker.folder.fold, ONE)
        assert gate.reached.wait(60)
        two.worker._leases._clock = lambda: time.time() + 60
        two.worker.folder.fold(ONE)
        digest = twins.record_digest()
        gate.open.set()
        folding.result()
    assert twins.record_digest() == digest
    twins.check_sum()


def test_a_round_that_fails_takes_the_ranges_of_it_from_their_workers(make_twins, monkeypatch):
    twins = make_twins(THREE_RANGES)
    twins.submit_all()
    one, two = twins.both
    gate = Gate(one, monkeypatch)
    # What the other one took in, so that this one has it in no running sum.
    two.part_store.path(PartKey(ONE, twins.prepared[0].upload, RANGE_PARTS)).unlink()
    with ThreadPoolExecutor(1) as pool:
        folding = pool.submit(one.worker.folder.fold, ONE)
        assert gate.reached.wait(60)
        two.worker.folder.fold(ONE)
        with one.store.read() as tx:
            assert [part.number for part in tx.damaged(ONE)] == [RANGE_PARTS]
        two.conductor._clock = lambda: time.time() + 2 * two.settings.repair_wait_s
        two.worker.folder.fold(ONE)
        with one.store.read() as tx:
            assert (tx.round(ONE).phase, tx.leases("")) == (Phase.FAILED, [])
            durable = tx.sum_digests(ONE)
        gate.open.set()
        folding.result()
    with one.store.read() as tx:
        assert tx.sum_digests(ONE) == durable
        assert not any(number < RANGE_PARTS for number in durable)


def test_folding_twice_at_once_is_harmless(twins):
    for i, site in enumerate(SITES):
        twins.submit(site, i % 2)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda one: fold_round(one.store, one.part_store, twins.plan.public, ONE), twins.both))
    assert done == [True, True]
    twins.check_sum()


def test_one_transaction_decides_between_completing_and_closing(twins):
    one, two = twins.both
    for site in "ab":
        twins.submit(site, 0)
    c = twins.prepared[2]
    with pytest.raises(ProtocolError, match="1 part"):
        take_parts(one, "f", "c", c, range(1, len(c.parts)))
    take_parts(one, "f", "c", c, range(1))
    two.conductor._clock = lambda: time.time() + 10**6  # its clock is wrong, and the deadline has passed there
    two.conductor.tick_all()
    with one.store.read() as tx:
        assert tx.round(ONE).phase is Phase.CLOSED
        assert tx.submission(c.upload).state == "excluded"
    with pytest.raises(ProtocolError, match="takes no more submissions"):
        take_end(one, "f", "c", c)


def test_a_replica_with_another_directory_is_refused(twins, tmp_path, postgres):
    url = twins.both[0].settings.database_url
    with pytest.raises(ConfigError, match="not where the parts are"):
        Aggregator.open(Settings(data_dir=tmp_path / "another", database_url=url))
    twins.submit("a", 0)
    with pytest.raises(ConfigError, match="not where the parts are"):
        Aggregator.open(Settings(data_dir=tmp_path / "shared", database_url=postgres.new_database()))
    Aggregator.open(Settings(data_dir=tmp_path / "shared", database_url=url)).close()


def test_a_replica_with_another_key_is_refused(postgres, tmp_path, object_store, monkeypatch):
    for name, value in object_store.environment().items():
        monkeypatch.setenv(name, value)
    url, place = postgres.new_database(), object_store.new_place()
    one, two = (Settings(data_dir=tmp_path / name, database_url=url, parts=place) for name in ("one", "two"))
    Aggregator.open(one).close()
    with pytest.raises(ConfigError, match="is not the key that the other replicas sign with"):
        Aggregator.open(two)
    shutil.copy(one.data_dir / FILE_NAME, two.data_dir)
    Aggregator.open(two).close()
    (two.data_dir / FILE_NAME).unlink()
    for said in ("forgotten", "nothing to forget"):
        assert said in he_agg("aggregator", "forget-key", "--data-dir", two.data_dir, "--database-url", url).stdout
    Aggregator.open(two).close()
    with pytest.raises(ConfigError, match="is not the key"):
        Aggregator.open(one)


def test_what_another_replica_is_writing_is_left_alone(twins):
    twins.submit("a", 0)
    half = twins.both[0].part_store.path(PartKey(ONE, twins.prepared[0].upload, 0)).with_name(".1.feedfeedfeedfeed.tmp")
    half.write_bytes(b"half")
    Aggregator.open(twins.both[0].settings).close()
    assert half.exists()


def test_a_database_that_was_restarted_is_met_with_patience(pair):
    """All connections end, as when PostgreSQL restarts: an answer may be 503, and never a failure."""
    url = pair.settings.database_url
    answers = []
    for _ in range(5):
        end_connections(url)
        answers += [pair.peer("a", replica).state().status_code for replica in (0, 1)]
        time.sleep(0.1)
    assert set(answers) <= {200, 503}
    until(lambda: pair.peer("a", 0).state().status_code == 200)
    until(lambda: all(server.url and httpx.get(server.url + "/readyz").status_code == 200 for server in pair.processes))
