"""The store in SQLite: WAL, synchronous=FULL, foreign keys, one writer at a time by BEGIN IMMEDIATE.

Another database comes with the issue about replicas; until then a URL of one is refused rather than half supported.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, make_url, select
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError

from he_agg.errors import ConfigError, Reason
from service.failpoints import failpoint
from service.settings import Settings
from service.store import schema
from service.store.blobs import die
from service.store.transaction import SqlTransaction

__all__ = ["SqlStore", "make_data_dir", "open_store"]

_WRITE = "he_agg_write"
_SYNCHRONOUS_FULL = 2


def open_store(settings: Settings, *, create: bool) -> SqlStore:
    """Open the store of a data directory, for a server or for one command of the operator.

    Raises:
        ConfigError: there is none, or it cannot be used.
    """
    if create:
        make_data_dir(settings.data_dir)
    url = settings.database_url or f"sqlite:///{settings.data_dir / 'aggregator.sqlite3'}"
    return SqlStore(url, busy_timeout_s=settings.busy_timeout_s, create=create)


def make_data_dir(path: Path) -> None:
    """Make a data directory that only its owner can read, unless there is one.

    Raises:
        ConfigError: that is not possible.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(Reason.BAD_CONFIG, f"cannot make the data directory {path}: {error.strerror}") from error


class SqlStore:
    """Rows in SQLite.

    Args:
        url: SQLAlchemy URL.
        busy_timeout_s: how long to wait for a writer in another process. Units: seconds.
        create: make the tables when there are none; otherwise refuse a database without them.

    Raises:
        ConfigError: not SQLite, no durable journal, no tables, or tables of another version.
    """

    def __init__(self, url: str, *, busy_timeout_s: float, create: bool) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise ConfigError(Reason.BAD_CONFIG, "database_url: expected an SQLAlchemy URL, got none") from error
        if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"database_url: expected a SQLite file, got {parsed.get_backend_name()!r}",
                "leave HE_AGG_DATABASE_URL unset to use the file in the data directory",
            )
        if not create and not Path(parsed.database).exists():
            raise ConfigError(
                Reason.FILE_MISSING,
                f"there is no aggregator store at {parsed.database}",
                "name the right --data-dir, or begin with `he-agg federation create federation.json`",
            )
        # Error texts must not quote parameters: a manifest is one.
        self._engine = create_engine(
            parsed,
            hide_parameters=True,
            pool_size=8,
            max_overflow=40,
            connect_args={"timeout": busy_timeout_s, "check_same_thread": False},
        )
        self._one_writer = threading.Lock()
        _prepare(self._engine)
        try:
            self._check_schema(create)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[SqlTransaction]:
        """A transaction that only reads and sees one state throughout."""
        with self._engine.connect() as connection, connection.begin():
            yield SqlTransaction(connection)

    @contextmanager
    def write(self) -> Iterator[SqlTransaction]:
        """A transaction that may write, alone among all processes."""
        # SQLite lets waiting writers poll; the lock gives threads of this process a queue instead.
        with self._one_writer, self._begin_write() as connection:
            yield SqlTransaction(connection)
            failpoint("transaction.before_commit")
        failpoint("transaction.committed")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _begin_write(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.execution_options(**{_WRITE: True}).begin():
            yield connection

    def _check_schema(self, create: bool) -> None:
        with self._begin_write() as connection:
            if create:
                schema.metadata.create_all(connection)
            versions = connection.execute(
                select(schema.meta.c.number).where(schema.meta.c.name == "schema")
            ).scalars().all()  # fmt: skip
            if create and not versions:
                connection.execute(
                    insert(schema.meta),
                    [{"name": "schema", "number": schema.SCHEMA_VERSION}, {"name": "generation", "number": 0}],
                )
            elif versions != [schema.SCHEMA_VERSION]:
                raise ConfigError(
                    Reason.BAD_CONFIG,
                    f"store: expected schema version {schema.SCHEMA_VERSION}, got {versions}",
                    "use the version of he-agg that wrote it",
                )


def _prepare(engine: Engine) -> None:
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    event.listen(engine, "handle_error", _on_error)


def _on_connect(connection: Any, _record: Any) -> None:
    # The driver's own idea of transactions is switched off: BEGIN is ours.
    connection.isolation_level = None
    for pragma in ("foreign_keys=ON", "synchronous=FULL", "fullfsync=ON", "checkpoint_fullfsync=ON"):
        connection.execute(f"PRAGMA {pragma}")
    journal = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
    foreign_keys = connection.execute("PRAGMA foreign_keys").fetchone()[0]
    if (journal, synchronous, foreign_keys) != ("wal", _SYNCHRONOUS_FULL, 1):
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"store: expected journal wal, synchronous 2 and foreign keys 1, "
            f"got {journal}, {synchronous} and {foreign_keys}",
            "the data directory must be on a local disk that SQLite can use in WAL mode",
        )


def _on_begin(connection: Connection) -> None:
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _on_error(context: ExceptionContext) -> None:
    # After a failed write or sync nobody knows what is on the disk. Only a new process, which reads it, does.
    name = getattr(context.original_exception, "sqlite_errorname", "")
    if name.startswith("SQLITE_IOERR"):
        die(f"the database failed: {name}")
