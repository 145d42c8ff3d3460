"""Schema versions: tables of an older one are brought up to date, those of a newer one are left alone."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from he_agg.errors import ConfigError
from he_agg.ids import RoundId
from service.aggregator import Aggregator
from service.settings import Settings
from service.store.base import Keeping
from service.store.migrations import MIGRATIONS
from service.store.schema import SCHEMA_VERSION, metadata
from service.store.sql import SqlStore, open_store

VERSION_1 = Path(__file__).parent / "data" / "schema_v1.sql"


@pytest.fixture
def old(tmp_path):
    """A data directory as he-agg 0.1.0 left it."""
    with contextlib.closing(sqlite3.connect(tmp_path / "aggregator.sqlite3")) as db:
        db.executescript(VERSION_1.read_text())
    return Settings(data_dir=tmp_path)


def shape(url):
    engine = create_engine(url)
    try:
        found = inspect(engine)
        return {
            table: {
                "columns": {
                    c["name"]: (str(c["type"]).replace("BIGINT", "INTEGER"), c["nullable"], c["default"])
                    for c in found.get_columns(table)
                },
                "key": found.get_pk_constraint(table)["constrained_columns"],
                "indexes": sorted(tuple(index["column_names"]) for index in found.get_indexes(table)),
                "unique": sorted(tuple(unique["column_names"]) for unique in found.get_unique_constraints(table)),
            }
            for table in found.get_table_names()
        }
    finally:
        engine.dispose()


def test_there_is_a_step_to_every_version():
    assert sorted(MIGRATIONS) == list(range(2, SCHEMA_VERSION + 1))


def test_an_old_store_becomes_what_a_new_one_is(old, tmp_path):
    store = open_store(old, create=True, migrate=True)
    assert store.found_version == 1
    store.close()
    fresh = f"sqlite:///{tmp_path / 'fresh.sqlite3'}"
    SqlStore(fresh, busy_timeout_s=1, create=True).close()
    assert shape(f"sqlite:///{tmp_path / 'aggregator.sqlite3'}") == shape(fresh)
    again = open_store(old, create=False)
    assert again.found_version == SCHEMA_VERSION
    again.close()


def test_what_was_in_it_goes_on(old):
    aggregator = Aggregator.open(old)
    with aggregator.store.read() as tx:
        (federation,) = tx.federations()
        assert (federation.stage, federation.keeping, federation.paused_at) == ("running", Keeping(), None)
        assert [row.id for row in tx.kept_sums("old")] == [RoundId("old", 1, 1)]
        newest = tx.newest_round("old")
        assert (newest.id, newest.phase, newest.sample_seed) == (RoundId("old", 2, 1), "open", None)
        (submission,) = tx.submissions(newest.id)
        assert tx.missing(submission.id) == []
        assert tx.idle(newest.opened_at + 100) == [submission]
    aggregator.close()


def test_only_the_server_brings_a_store_up_to_date(old):
    with pytest.raises(ConfigError, match=r"expected schema version 2, got 1"):
        open_store(old, create=False)
    with pytest.raises(ConfigError) as caught:
        open_store(old, create=True)
    assert "start this version of it once" in caught.value.hint


def test_a_step_that_fails_changes_nothing(old, tmp_path, monkeypatch):
    def fail(connection):
        MIGRATIONS[2](connection)
        raise RuntimeError

    url = f"sqlite:///{tmp_path / 'aggregator.sqlite3'}"
    before = shape(url)
    monkeypatch.setattr("service.store.migrations.MIGRATIONS", {2: fail})
    with pytest.raises(RuntimeError):
        open_store(old, create=True, migrate=True)
    assert shape(url) == before


def test_the_steps_are_sql_that_postgresql_understands(postgres):
    """No PostgreSQL of version 1 was ever made; the next step may meet one of version 2."""
    url = postgres.new_database().replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.exec_driver_sql("DROP TABLE leases")
        for table, column in (
            ("federations", "paused_at"),
            ("federations", "sample_fraction"),
            ("federations", "keep_sums"),
            ("federations", "keep_submissions"),
            ("rounds", "sample_seed"),
            ("rounds", "sum_scrubbed"),
            ("submissions", "active_at"),
            ("parts", "damaged_at"),
        ):
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.exec_driver_sql("INSERT INTO meta VALUES ('schema', 1), ('generation', 0)")
    engine.dispose()
    store = SqlStore(url, busy_timeout_s=1, create=True, migrate=True)
    assert store.found_version == 1
    store.close()
    fresh = postgres.new_database().replace("postgresql://", "postgresql+psycopg://")
    SqlStore(fresh, busy_timeout_s=1, create=True).close()
    assert shape(url) == shape(fresh)


@pytest.mark.parametrize("migrate", [True, False])
def test_a_newer_store_is_refused(database_url, migrate):
    store = SqlStore(database_url, busy_timeout_s=1, create=True)
    with store.write() as tx:
        tx._connection.exec_driver_sql(f"UPDATE meta SET number = {SCHEMA_VERSION + 1} WHERE name = 'schema'")
    store.close()
    for create in (True, False):
        with pytest.raises(ConfigError, match=f"got {SCHEMA_VERSION + 1}"):
            SqlStore(database_url, busy_timeout_s=1, create=create, migrate=migrate)


def test_a_database_without_tables_is_refused_unless_it_may_be_made(postgres):
    with pytest.raises(ConfigError, match="no aggregator's tables"):
        SqlStore(postgres.new_database(), busy_timeout_s=1, create=False)


def test_a_database_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot use the database") as caught:
        SqlStore(f"postgresql://user:hunter2@/x?host={tmp_path}", busy_timeout_s=1, create=True)
    assert "hunter2" not in str(caught.value)
