"""Parts in a real object store: the contract, and what the store's failures are called."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import contextmanager
from pathlib import Path

import obstore
import pytest

from he_agg.errors import ConfigError
from service.settings import Settings
from service.store.failures import StoreBusyError, StoreFullError
from service.store.parts.base import SUM, PartKey, PartLostError
from service.store.parts.s3 import S3Parts
from tests.service.store.parts.contract import KEY, LONG, MINE, ONE, PartStoreContract, streamed
from tests.support.faulty_proxy import LOSE_ANSWER, FaultyProxy
from tests.support.ports import free_ports

PATH = f"rounds/{ONE}/submissions/{MINE}/1.part"
LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.fixture
def settings(object_store, monkeypatch):
    """A place of its own in the object store, and what finds it."""
    for name, value in object_store.environment().items():
        monkeypatch.setenv(name, value)
    return Settings(parts=object_store.new_place(), parts_timeout_s=40)


@pytest.fixture
def proxy(object_store):
    with FaultyProxy(object_store.url) as opened:
        yield opened


@pytest.fixture
def through(settings, proxy, monkeypatch):
    """Opens the same place through the proxy."""

    def open_(timeout_s):
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        return S3Parts(settings.model_copy(update={"parts_timeout_s": timeout_s}))

    return open_


@pytest.fixture
def store(settings):
    return S3Parts(settings)


class TestS3(PartStoreContract):
    @pytest.fixture
    def store(self, settings, through):
        self.settings, self.through = settings, through
        return S3Parts(settings)

    def opened_again(self, store):
        return S3Parts(self.settings)

    def spoil(self, store, key, data):
        path = f"rounds/{key.round_id}/submissions/{key.owner}/{key.number}.part"
        if data is None:
            obstore.delete(store._client, path)
        else:
            obstore.put(store._client, path, data)

    @contextmanager
    def room_for(self, store, size):
        through, left = self.through(2), size

        def rule(method, _, length):
            nonlocal left
            if method != "PUT":
                return None
            if length > left:
                return 507
            left -= length
            return None

        self.proxy.rule = rule
        own, store._client = store._client, through._client
        yield
        store._client = own

    @pytest.fixture(autouse=True)
    def with_proxy(self, proxy):
        self.proxy = proxy


def ways(store, key=KEY):
    """Every way to ask a store for something."""
    return {
        "put": lambda: store.put_all([(key, b"part")]),
        "read": lambda: store.read(key),
        "stream": lambda: streamed(store, key, 4),
        "size": lambda: store.size(key),
        "is whole": lambda: store.is_whole(key, hashlib.sha256(b"part").hexdigest()),
        "delete": lambda: store.delete(key),
        "purge": lambda: store.purge_round(ONE),
        "purge leftovers": store.purge_leftovers,
        "rounds": lambda: list(store.rounds()),
        "check": store.check,
        "number": store.number,
        "take a number": lambda: store.take_number(1),
    }


def assert_busy(store, why):
    for name, act in ways(store).items():
        print(name)
        with pytest.raises(StoreBusyError, match=why):
            act()


def test_the_same_bytes_are_written_once(store, through, proxy):
    store.put_all([(KEY, LONG)])
    e_tag = obstore.head(store._client, PATH)["e_tag"]
    again = through(20)
    again.put_all([(KEY, LONG)])
    assert [method for method, _ in proxy.passed] == ["PUT", "GET"]
    assert obstore.head(store._client, PATH)["e_tag"] == e_tag
    proxy.passed.clear()
    again.put_all([(KEY, b"other bytes")])
    assert [method for method, _ in proxy.passed] == ["PUT", "GET", "PUT"]
    assert store.read(KEY) == b"other bytes"


@pytest.mark.parametrize("lost", range(1, 4))
def test_a_part_whose_answers_were_lost_is_there_once_and_whole(store, through, proxy, lost):
    """It arrives, and whoever sent it sees the connection end: then it looks what is there."""
    answers = iter([LOSE_ANSWER] * lost)
    proxy.rule = lambda *_: next(answers, None)
    sender = through(20)
    sender.put_all([(KEY, LONG)])
    assert store.read(KEY) == LONG
    assert len(proxy.passed) > lost


def test_a_part_is_streamed_by_ranges_of_one_and_the_same_object(store, through, proxy):
    size = 9 * 2**20
    store.put_all([(KEY, bytes(size))])
    reader = through(20)

    async def read():
        pieces = reader.stream(KEY, size)
        assert await anext(pieces) == bytes(2**20)
        assert len(proxy.passed) == 1
        assert sum([len(piece) async for piece in pieces]) == size - 2**20
        assert len(proxy.passed) == 3
        pieces = reader.stream(KEY, size)
        await anext(pieces)
        store.put_all([(KEY, b"\1" * size)])
        with pytest.raises(PartLostError):
            async for _ in pieces:
                pass

    asyncio.run(read())


def test_a_store_that_nobody_serves(settings, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    store = S3Parts(settings.model_copy(update={"parts_timeout_s": 0.4}))
    assert_busy(store, "cannot be reached")
    with pytest.raises(ConfigError, match=r"s3://parts/test/\d+ cannot be used"):
        store.prove()


def test_a_store_that_hangs_is_waited_for_so_long_and_no_longer(store, through, proxy, object_store):
    store.put_all([(KEY, b"part")])
    slow = through(2)
    for act in (lambda: slow.put_all([(KEY, b"part")]), lambda: slow.read(KEY), lambda: slow.size(KEY)):
        began = time.monotonic()
        with object_store.hanging(), pytest.raises(StoreBusyError, match="did not answer in time"):
            act()
        assert time.monotonic() - began < 20
    assert store.read(KEY) == b"part"


def test_credentials_that_expire_lose_nothing(settings, object_store, monkeypatch):
    object_store.shell("s3.configure -user=passing -access_key=p -secret_key=q -actions=Read,Write,List -apply")
    for name, value in object_store.environment("p", "q").items():
        monkeypatch.setenv(name, value)
    store = S3Parts(settings)
    store.prove()
    store.put_all([(KEY, b"part")])
    object_store.shell("s3.configure -user=passing -delete -apply")
    assert_busy(store, "the object store answered 403")
    with pytest.raises(ConfigError, match="403"):
        store.prove()
    object_store.shell("s3.configure -user=passing -access_key=p -secret_key=q -actions=Read,Write,List -apply")
    assert store.read(KEY) == b"part"
    object_store.shell("s3.configure -user=passing -delete -apply")


def test_a_bucket_that_does_not_exist_is_not_taken_for_lost_parts(settings):
    store = S3Parts(settings.model_copy(update={"parts": "s3://nobodys/test"}))
    for name in ("put", "read", "stream", "is whole", "check", "number", "take a number"):
        with pytest.raises(StoreBusyError, match="404"):
            ways(store)[name]()
    with pytest.raises(ConfigError, match="NoSuchBucket"):
        store.prove()


def test_what_cannot_be_read_is_lost_and_can_be_put_again(store, through, proxy):
    store.put_all([(KEY, b"part")])
    reader = through(4)
    proxy.rule = lambda method, path, _: 500 if method == "GET" and PATH in path else None
    for ask in (reader.read, lambda key: streamed(reader, key, 4)):
        with pytest.raises(PartLostError):
            ask(KEY)
    e_tag = obstore.head(store._client, PATH)["last_modified"]
    time.sleep(1)
    reader.put_all([(KEY, b"part")])
    assert obstore.head(store._client, PATH)["last_modified"] > e_tag
    proxy.rule = lambda *_: 500
    for ask in (reader.read, lambda key: streamed(reader, key, 4)):
        with pytest.raises(StoreBusyError, match="500"):
            ask(KEY)


def test_a_number_in_an_address_is_not_what_the_store_has_answered(store, through, proxy):
    key = PartKey(ONE, "416" * 10, 1)
    store.put_all([(key, b"part")])
    reader = through(2)
    proxy.rule = lambda *_: 503
    for ask in (reader.read, lambda key: streamed(reader, key, 4)):
        with pytest.raises(StoreBusyError, match="503"):
            ask(key)
    proxy.rule = lambda *_: None
    assert reader.read(key) == b"part"


@pytest.mark.slow  # it tries for 13 seconds before it says so
def test_a_bit_that_flips_on_the_disk_is_noticed_and_repaired(settings, object_store, rng):
    store, data = S3Parts(settings), rng.bytes(300_000)
    store.put_all([(KEY, data), (PartKey(ONE, SUM, 1), b"sum")])
    object_store.flip_a_bit(data[1000:2000])
    assert not store.is_whole(KEY, hashlib.sha256(data).hexdigest())
    assert store.read(PartKey(ONE, SUM, 1)) == b"sum"
    store.put_all([(KEY, data)])
    assert store.read(KEY) == data


@pytest.mark.parametrize("status", [507, 403, 503])
def test_what_failures_are_called(store, through, proxy, status):
    store.put_all([(KEY, b"before")])
    proxy.rule = lambda method, *_: status if method == "PUT" else None
    with pytest.raises(StoreFullError if status == 507 else StoreBusyError):
        through(1).put_all([(KEY, b"after")])
    assert store.read(KEY) == b"before"


def test_plain_http_to_another_machine_is_refused_unless_it_is_wanted(settings, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://192.0.2.1:9000")
    with pytest.raises(ConfigError, match="expected https"):
        S3Parts(settings)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    S3Parts(settings)


def test_what_a_killed_probe_left_is_removed(store, settings):
    obstore.put(store._client, "probes/0123/first", b"x")
    assert store.purge_leftovers(older_than_s=3600) == 0
    assert store.purge_leftovers() == 1
    store.prove()
    assert store.purge_leftovers() == 0


@pytest.mark.skipif(not LOCAL_PORTS.exists(), reason="Linux says there which ports it hands out")
def test_ports_that_a_server_comes_back_to_are_handed_out_to_nobody():
    first, last = map(int, LOCAL_PORTS.read_text().split())
    ports = free_ports(8)
    assert len(set(ports)) == 8
    assert not set(ports) & set(range(first, last + 1))
