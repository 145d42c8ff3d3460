"""The store keeps its side: durable settings read back, one server per directory, files whole or absent."""

import os
import sqlite3

import pytest

from he_agg.errors import ConfigError, Reason
from he_agg.ids import RoundId
from service.aggregator import Aggregator
from service.settings import Settings, load_settings
from service.store.parts import directory as blobs_module
from service.store.parts.directory import Blobs
from service.store.sql import SqlStore, open_store
from tests.support.peers import make_plan, register
from tests.support.server import he_agg

ROUND = RoundId("f", 1, 1)


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
        SqlStore(url, busy_timeout_s=1, create=True)


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
    with pytest.raises(ConfigError, match="not the directory"):
        Aggregator.open(Settings(data_dir=tmp_path / "other", database_url=url))
    Aggregator.open(Settings(data_dir=tmp_path / "data", database_url=url)).close()


def test_the_directory_is_the_owners_alone(tmp_path):
    Aggregator.open(Settings(data_dir=tmp_path / "data")).close()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_settings_name_what_is_wrong(monkeypatch):
    monkeypatch.setenv("HE_AGG_PORT", "99999")
    with pytest.raises(ConfigError, match="port"):
        load_settings()


# files


@pytest.fixture
def blobs(tmp_path):
    return Blobs(tmp_path)


@pytest.fixture
def path(blobs):
    target = blobs.part_path(ROUND, "ab" * 32, 0)
    blobs.make_parent(target)
    return target


def test_a_file_is_synced_before_its_name_and_the_directory_after(blobs, path, monkeypatch):
    events = []
    real_sync, real_replace = os.fsync, type(path).replace

    def fsync(descriptor):
        events.append("sync directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")  # noqa: PTH112
        real_sync(descriptor)

    def replace(self, target):
        events.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(type(path), "replace", replace)
    blobs.put(path, b"part")
    assert events == ["sync file", "rename", "sync directory"]
    assert path.read_bytes() == b"part"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("call", ["write", "open"])
def test_a_full_disk_leaves_nothing_behind(blobs, path, monkeypatch, call):
    blobs.put(path, b"first")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space"):
            blobs.put(path, b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["0.part"]


def test_an_fsync_error_ends_the_process(blobs, path, monkeypatch, capfd):
    class EndedError(BaseException):
        pass

    def fail(_):
        raise OSError(5, "Input/output error")

    def end(code):
        raise EndedError(code)

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(blobs_module.os, "_exit", end)
    with pytest.raises(EndedError, match="74"):
        blobs.put(path, b"part")
    assert "fsync failed: EIO" in capfd.readouterr().err
    assert not path.exists()


def test_a_database_that_cannot_write_ends_the_process(store, monkeypatch):
    class EndedError(BaseException):
        pass

    def end(code):
        raise EndedError(code)

    monkeypatch.setattr(blobs_module.os, "_exit", end)
    broken = sqlite3.OperationalError("disk I/O error")
    broken.sqlite_errorname = "SQLITE_IOERR_FSYNC"

    def execute(*_, **__):
        raise broken

    with store.read() as tx:
        monkeypatch.setattr(store._engine.dialect, "do_execute", execute)
        with pytest.raises(EndedError):
            tx.generation()
        monkeypatch.undo()


def test_temporary_files_are_removed(blobs, path):
    blobs.put(path, b"part")
    path.with_name(".0.0123456789abcdef.tmp").write_bytes(b"half")
    assert blobs.remove_temporary() == 1
    assert [p.name for p in path.parent.iterdir()] == ["0.part"]
