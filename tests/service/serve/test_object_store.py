"""One aggregator over SQLite and a real object store: rounds, and what happens while the store is not there."""

import shutil
import sqlite3
from contextlib import closing

import httpx
import pytest

from he_agg.errors import ConfigError
from he_agg.ids import RoundId
from service.aggregator import Aggregator
from service.settings import Settings
from service.store.parts.base import SUM, PartKey
from service.store.parts.directory import DirectoryParts
from service.store.parts.s3 import S3Parts
from tests.support.peers import expected_sum, prepare, read_sum
from tests.support.real import until
from tests.support.server import QUICK, he_agg, start_server

SITES = "abc"


@pytest.fixture
def place(object_store, monkeypatch):
    """Where parts go, for this process and for its children."""
    for name, value in object_store.environment().items():
        monkeypatch.setenv(name, value)
    return object_store.new_place()


@pytest.fixture
def server(place, object_store, tmp_path):
    environment = QUICK | object_store.environment() | {"HE_AGG_PARTS": place, "HE_AGG_PARTS_TIMEOUT_S": "8"}
    with start_server(tmp_path / "data", environment=environment) as started:
        yield started


def submit(world, round_id, prepared, sites):
    for site in sites:
        assert world.peer(site).submit(prepared[SITES.index(site)]).status_code == 200


def assert_sum(world, round_id, prepared):
    record = world.peer().record(round_id, wait=30).json()["record"]["body"]
    assert record["members"] == {site: one.id for site, one in zip(SITES, prepared, strict=True)}
    got = read_sum(world.plan, world.peer().sum_from(round_id).content)
    for one, expected in zip(got, expected_sum(world.plan, prepared), strict=True):
        assert (one == expected).all()


def test_rounds_with_a_death_between(server, make_world, place, tmp_path):
    world = make_world(server=server)
    for number in range(2):
        round_id = world.peer().current(wait=20)["round_id"]
        prepared = [prepare(world.plan, round_id, site, i) for i, site in enumerate(SITES)]
        submit(world, round_id, prepared, "ab")
        if number:
            server.kill()
            server.start()
        submit(world, round_id, prepared, "c")
        assert_sum(world, round_id, prepared)
    part_store = S3Parts(Settings(parts=place))
    assert {str(found) for found in part_store.rounds()} >= {round_id}
    assert not list((tmp_path / "data").rglob("*.part"))


def test_there_is_no_receipt_while_the_store_is_gone_and_none_is_broken(server, make_world, object_store):
    world = make_world(server=server)
    round_id = world.peer().current(wait=20)["round_id"]
    prepared = [prepare(world.plan, round_id, site, i) for i, site in enumerate(SITES)]
    receipt = world.peer("a").submit(prepared[0])
    assert receipt.status_code == 200
    assert world.peer("b").put(prepared[1], 0, prepared[1].parts[0]).status_code == 204
    object_store.kill()
    try:
        refused = world.peer("b").put(prepared[1], 1, b"".join(prepared[1].parts[1:]))
        assert refused.status_code == 503
        assert "the object store cannot be reached" in refused.json()["detail"]
        assert "the object store cannot be reached" in {line.get("why") for line in server.log_lines}
        assert httpx.get(server.url + "/readyz").status_code == 503
        assert world.peer("a").state().status_code == 200
        assert world.peer("b").status(prepared[1]).json()["missing"] == list(range(1, len(prepared[1].parts)))
    finally:
        object_store.start()
    until(lambda: httpx.get(server.url + "/readyz").status_code == 200)
    assert world.peer("a").complete(prepared[0]).content == receipt.content
    submit(world, round_id, prepared, "bc")
    assert_sum(world, round_id, prepared)


def test_a_part_that_is_lost_is_asked_for_again(server, make_world, place):
    world = make_world(server=server)
    round_id = world.peer().current(wait=20)["round_id"]
    prepared = [prepare(world.plan, round_id, site, i) for i, site in enumerate(SITES)]
    submit(world, round_id, prepared, "ab")
    part_store = S3Parts(Settings(parts=place))
    part_store.put_all([(PartKey(RoundId.parse(round_id), prepared[0].upload, 1), b"rotten")])
    server.kill()  # it may have added the part to a sum already: that it forgets
    server.start()
    submit(world, round_id, prepared, "c")
    until(lambda: world.peer("a").status(prepared[0]).json()["missing"] == [1])
    assert world.peer("a").put(prepared[0], 1, prepared[0].parts[1]).status_code in (200, 204)
    assert_sum(world, round_id, prepared)


def test_a_start_without_the_store_says_what_is_wrong(place, tmp_path, monkeypatch):
    monkeypatch.setenv("HE_AGG_PARTS_TIMEOUT_S", "1")
    for parts, why in ((place.replace("parts", "nobodys", 1), "404 NoSuchBucket"), ("s3://Not-a-bucket/x", "parts")):
        failed = he_agg("serve", "--port", "0", "--data-dir", tmp_path / "data", "--parts", parts, check=False)
        assert failed.returncode != 0
        assert why in failed.stderr
        assert "Traceback" not in failed.stderr


def test_one_place_for_each_database(place, object_store, tmp_path):
    """Neither another prefix, nor the directory again, nor another database with the same place."""
    one = Settings(data_dir=tmp_path / "one", parts=place)
    Aggregator.open(one).close()
    elsewhere = {"parts": object_store.new_place()}, {"parts": None}
    for changed in elsewhere:
        with pytest.raises(ConfigError, match="is not where the parts are"):
            Aggregator.open(one.model_copy(update=changed))
    key = PartKey(RoundId("f", 1, 1), SUM, 0)
    S3Parts(one).put_all([(key, b"x")])
    with pytest.raises(ConfigError, match=f"{place} is not where the parts are"):
        Aggregator.open(Settings(data_dir=tmp_path / "two", parts=place))
    Aggregator.open(one).close()


def test_moving_from_a_directory_into_an_object_store(place, tmp_path):
    """Its files are its objects: a copy is all that it takes, and without the copy it is refused."""
    settings = Settings(data_dir=tmp_path / "data")
    Aggregator.open(settings).close()
    with closing(sqlite3.connect(settings.data_dir / "aggregator.sqlite3")) as db:
        # As after a round: its sum is here.
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("INSERT INTO sum_parts (round_id, number, digest) VALUES ('f.1.1', 0, ?)", ("00" * 32,))
        db.commit()
    key = PartKey(RoundId("f", 1, 1), SUM, 0)
    directory = DirectoryParts(settings.data_dir)
    directory.put_all([(key, b"the sum")])
    moved = settings.model_copy(update={"parts": place})
    with pytest.raises(ConfigError, match="is not where the parts are"):
        Aggregator.open(moved)
    objects = S3Parts(moved)
    for path in (settings.data_dir / "rounds").rglob("*.part"):
        name = str(path.relative_to(settings.data_dir))
        objects._put(name, path.read_bytes())
    assert objects.read(key) == b"the sum"
    Aggregator.open(moved).close()
    shutil.rmtree(settings.data_dir / "rounds")
    with pytest.raises(ConfigError, match="is not where the parts are"):
        Aggregator.open(settings)
