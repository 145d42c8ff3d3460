"""Schema versions: tables of an older one are brought up to date, those of a newer one are left alone."""

import contextlib
import re
import sqlite3
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy import text as insert_text

from he_agg.documents.federation import FederationDocument
from he_agg.documents.record import NO_RECORD, SignedRecord
from he_agg.documents.roster import Role
from he_agg.errors import ConfigError, ProtocolError
from he_agg.ids import RoundId
from service.aggregator import Aggregator
from service.domain.events import Phase
from service.operator import operations
from service.settings import Settings
from service.store.migrations import MIGRATIONS
from service.store.rows import Basis, EpochRow, Keeping, PartRow
from service.store.schema import SCHEMA_VERSION
from service.store.sql import SqlStore, open_store
from tests.support.peers import make_plan
from tests.support.trust import consortium

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
        assert tx.newest_epoch("old") == EpochRow("old", 1, "5d" * 32)
        assert (tx.newest_roster("old"), newest.basis, tx.chain_head("old").index) == (None, Basis(), 0)
        assert tx.invited(newest.id) == {"a", "b", "c"}
    aggregator.close()


@pytest.mark.parametrize("phase", ["open", "closed", "folding"])
def test_without_a_roster_nothing_runs_and_with_one_it_begins_anew(old, phase):
    aggregator = Aggregator.open(old, lambda: time.time() + 1000)
    store, conductor = aggregator.store, aggregator.conductor
    with store.write() as tx:
        tx.set_phase(RoundId("old", 2, 1), Phase(phase))
        before = tx.round(RoundId("old", 1, 1))
    conductor.tick_all()  # the deadline is long over
    assert aggregator.worker._look()[1] == []
    with store.read() as tx:
        assert tx.newest_round("old").phase == phase
    with pytest.raises(ProtocolError, match="has no roster yet") as caught:
        aggregator.newest_roster("old")
    assert "he-agg federation roster old" in caught.value.hint
    members = consortium("old", "abd", conductor.key.signing_key)
    assert operations.bring_roster(store, conductor, "old", members.roster.encode())
    assert not operations.bring_roster(store, conductor, "old", members.roster.encode())
    with store.read() as tx:
        newest, ended = tx.newest_round("old"), tx.round(RoundId("old", 2, 1))
        assert (newest.id, newest.basis.roster) == (RoundId("old", 2, 2), members.roster.digest)
        assert tx.invited(newest.id) == {"a", "b", "d"}
        assert tx.round(RoundId("old", 1, 1)) == before
    signed = SignedRecord.parse(ended.record)
    signed.check_signed(members.roster.roster.keys_of(Role.AGGREGATOR))
    assert (signed.record.outcome, signed.record.index, signed.record.previous) == ("failed", 1, NO_RECORD)
    assert signed.record.excluded.keys() == {"a", "b", "c"}
    aggregator.close()


def test_only_the_server_brings_a_store_up_to_date(old):
    with pytest.raises(ConfigError, match=r"expected schema version 3, got 1"):
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
    monkeypatch.setattr("service.store.migrations.MIGRATIONS", {2: fail, 3: MIGRATIONS[3]})
    with pytest.raises(RuntimeError):
        open_store(old, create=True, migrate=True)
    assert shape(url) == before


def test_the_steps_are_sql_that_postgresql_understands(postgres):
    """No PostgreSQL of version 1 was ever made; the steps may meet one of version 2."""
    url = postgres.new_database().replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.begin() as connection:
        tables = [text for text in VERSION_1.read_text().split(";\n") if text.startswith("CREATE TABLE")]
        waiting = [text.replace("BLOB", "BYTEA") for text in tables]
        while waiting:  # in an order in which what is referred to is there
            text = waiting.pop(0)
            made = inspect(connection).get_table_names()
            if set(re.findall(r"REFERENCES (\w+)", text)) <= set(made):
                connection.exec_driver_sql(text)
            else:
                waiting.append(text)
        connection.exec_driver_sql("CREATE INDEX ix_rounds_phase ON rounds (phase)")
        connection.exec_driver_sql("CREATE INDEX rounds_to_scrub ON rounds (scrubbed, phase)")
        connection.exec_driver_sql("INSERT INTO meta VALUES ('schema', 1), ('generation', 0)")
        document = FederationDocument(make_plan("old").public, 7, "5d" * 32).encode()
        row = {"document": document}
        connection.execute(insert_text("INSERT INTO federations VALUES ('old', :document, 'running', 1)"), row)
        connection.exec_driver_sql("INSERT INTO sites VALUES ('old', 'a', 'x', true, 1)")
        connection.exec_driver_sql(
            "INSERT INTO rounds VALUES ('old.1.1', 'old', 1, 1, 'open', 1, 2, NULL, NULL, NULL, false)"
        )
        connection.exec_driver_sql("INSERT INTO invitations VALUES ('old.1.1', 'old', 'a')")
        connection.exec_driver_sql("INSERT INTO submissions VALUES ('s', 'old.1.1', 'a', '', 'open', 1, NULL)")
        connection.exec_driver_sql("INSERT INTO parts VALUES ('s', 0, 'd', true)")
    engine.dispose()
    store = SqlStore(url, busy_timeout_s=1, create=True, migrate=True)
    assert store.found_version == 1
    with store.read() as tx:
        assert tx.newest_epoch("old") == EpochRow("old", 7, "5d" * 32)
        assert tx.invited(RoundId("old", 1, 1)) == {"a"}
        assert tx.part("s", 0) == PartRow("s", 0, "d", True)
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
