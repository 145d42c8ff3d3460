"""The store keeps its side: durable settings read back, one server per directory, failures told apart."""

import os
import sqlite3
import stat

import psycopg
import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from he_agg.errors import ConfigError, Reason
from service.aggregator import Aggregator
from service.settings import Settings, load_settings
from service.store.failures import StoreBusyError, StoreFullError
from service.store.lock import DirectoryLock
from service.store.sql import Store, open_store
from tests.support.peers import make_plan, register
from tests.support.server import he_agg


@pytest.fixture
def store(tmp_path):
    opened = open_store(Settings(data_dir=tmp_path), create=True)
    yield opened
    opened.close()


def test_every_connection_is_durable_and_checks_foreign_keys(store):
    with store.read() as one, store.read() as two:
        for tx in (one, two):
            values = [
                tx._connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
            assert values == ["wal", 2, 1, 20_000]


def test_a_connection_that_is_not_durable_is_refused(tmp_path, monkeypatch):
    class Forgetful(sqlite3.Connection):
        def execute(self, statement, *arguments):
            return super().execute(statement.replace("synchronous=FULL", "synchronous=NORMAL"), *arguments)

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3.dbapi2, "connect", lambda *a, **k: real(*a, **{**k, "factory": Forgetful}))
    monkeypatch.setattr(sqlite3, "connect", sqlite3.dbapi2.connect)
    with pytest.raises(ConfigError, match="synchronous 2"):
        open_store(Settings(data_dir=tmp_path), create=True)


@pytest.mark.parametrize("url", ["mysql://h/d", "sqlite://", "sqlite:///:memory:", "nonsense"])
def test_other_databases_are_refused(tmp_path, url):
    with pytest.raises(ConfigError):
        Store(url, busy_timeout_s=1, create=True)


def test_no_store_is_made_by_accident(tmp_path):
    with pytest.raises(ConfigError) as caught:
        open_store(Settings(data_dir=tmp_path / "typo"), create=False)
    assert caught.value.reason is Reason.FILE_MISSING
    assert not (tmp_path / "typo").exists()


def test_one_server_per_directory(tmp_path):
    first = Aggregator.open(Settings(data_dir=tmp_path / "data"))
    second = he_agg("serve", "--port", "0", "--data-dir", tmp_path / "data", check=False)
    assert second.returncode == 4
    assert "another aggregator is serving" in second.stderr
    # Operator commands need no lock.
    register(tmp_path / "data", make_plan("f"), ["a", "b"])
    first.close()
    Aggregator.open(Settings(data_dir=tmp_path / "data")).close()


def test_one_directory_per_database(tmp_path):
    url = f"sqlite:///{tmp_path / 'elsewhere.sqlite3'}"
    Aggregator.open(Settings(data_dir=tmp_path / "data", database_url=url)).close()
    with pytest.raises(ConfigError, match="not where the parts are"):
        Aggregator.open(Settings(data_dir=tmp_path / "other", database_url=url))
    Aggregator.open(Settings(data_dir=tmp_path / "data", database_url=url)).close()


def test_the_directory_is_the_owners_alone(tmp_path):
    Aggregator.open(Settings(data_dir=tmp_path / "data")).close()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_settings_name_what_is_wrong(monkeypatch):
    monkeypatch.setenv("HE_AGG_PORT", "99999")
    with pytest.raises(ConfigError, match="HE_AGG_PORT"):
        load_settings()


def test_a_database_that_cannot_write_ends_the_process(store, monkeypatch):
    class EndedError(BaseException):
        pass

    def end(code):
        raise EndedError(code)

    monkeypatch.setattr(os, "_exit", end)
    broken = sqlite3.OperationalError("disk I/O error")
    broken.sqlite_errorname = "SQLITE_IOERR_FSYNC"

    class Broken:
        @property
        def dbapi_connection(self):
            return self

        def execute(self, *_):
            raise broken

    with store.read() as tx:
        monkeypatch.setattr(Connection, "connection", Broken())  # a statement that is always the same
        with pytest.raises(EndedError):
            tx.generation()
        monkeypatch.undo()


def sqlite_error(name):
    error = sqlite3.OperationalError("x")
    error.sqlite_errorname = name
    return OperationalError("SELECT", {}, error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (sqlite_error("SQLITE_BUSY"), StoreBusyError),
        (sqlite_error("SQLITE_BUSY_SNAPSHOT"), StoreBusyError),
        (sqlite_error("SQLITE_FULL"), StoreFullError),
        (sqlite_error("SQLITE_CANTOPEN"), StoreBusyError),
        (sqlite_error("SQLITE_CORRUPT"), OperationalError),
        (OperationalError("SELECT", {}, psycopg.OperationalError("gone")), StoreBusyError),
        (OperationalError("SELECT", {}, psycopg.errors.LockNotAvailable("x")), StoreBusyError),
        (OperationalError("SELECT", {}, psycopg.errors.DiskFull("x")), StoreFullError),
        (OperationalError("SELECT", {}, psycopg.errors.AdminShutdown("x")), StoreBusyError),
        (OperationalError("SELECT", {}, psycopg.errors.UndefinedTable("x")), OperationalError),
        (PoolTimeoutError("x"), StoreBusyError),
        (RuntimeError("x"), RuntimeError),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["read", "write"])
def test_trouble_that_passes_is_told_from_failures(store, kind, error, expected):
    with pytest.raises(expected), getattr(store, kind)():
        raise error


def test_nobody_else_reads_the_database(tmp_path):
    """Neither a new one nor one whose files a backup has put there with modes of their own."""
    settings = Settings(data_dir=tmp_path)
    before = os.umask(0o022)
    try:
        for _ in range(2):
            store = open_store(settings, create=True)
            with store.write():
                pass
            files = sorted(tmp_path.glob("aggregator.sqlite3*"))
            assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600] * 3
            store.close()
            for path in tmp_path.glob("aggregator.sqlite3*"):
                path.chmod(0o644)
    finally:
        os.umask(before)


def test_a_data_directory_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "server.lock").mkdir()
    with pytest.raises(ConfigError, match=f"cannot write to the data directory {tmp_path}"):
        DirectoryLock(tmp_path)
