"""SQLite as a store: WAL, synchronous=FULL and foreign keys, read back at every connection; one writer at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.engine import ExceptionContext

from he_agg.errors import ConfigError, Reason
from service.store.failures import end_if_disk_failed
from service.store.statements import run_text

__all__ = ["SqliteFile"]

Found = TypeVar("Found")

_SYNCHRONOUS_FULL = 2


class SqliteFile:
    """A SQLite file and connections to it.

    Args:
        busy_timeout_s: how long to wait for a writer in another process. Units: seconds.
        create: make the file if there is none.

    Attributes:
        url: where it is.
    """

    def __init__(self, url: URL, *, busy_timeout_s: float, create: bool) -> None:
        if not url.database or url.database == ":memory:":
            raise ConfigError(
                Reason.BAD_CONFIG,
                "database_url: expected a SQLite file, got a database in memory",
                "leave HE_AGG_DATABASE_URL unset to use the file in the data directory",
            )
        if not create and not Path(url.database).exists():
            raise ConfigError(
                Reason.FILE_MISSING,
                f"there is no aggregator store at {url.database}",
                "name the right --data-dir, or begin with `he-agg federation create federation.json --roster "
                "roster.json`",
            )
        _keep_private(Path(url.database))
        self.url = url
        # Error texts must not quote parameters: a manifest is one.
        self._engine = create_engine(
            url,
            hide_parameters=True,
            pool_size=48,  # none is closed again: opening one costs as much as several requests
            max_overflow=0,
            connect_args={"timeout": busy_timeout_s, "check_same_thread": False},
        )
        event.listen(self._engine, "connect", _on_connect)
        event.listen(self._engine, "handle_error", _on_error)
        self._idle: list[Connection] = []

    @contextlib.contextmanager
    def begin(self, *, write: bool) -> Iterator[Connection]:
        """Open a transaction. It is committed at the end, or undone by what is raised."""
        with self._connection() as connection:
            run_text(connection, "BEGIN IMMEDIATE" if write else "BEGIN")
            yield connection
            run_text(connection, "COMMIT")

    def look(self, what: Callable[[Connection], Found]) -> Found:
        """Run a statement that only reads, outside of a transaction."""
        with self._connection() as connection:
            return what(connection)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Connection]:
        # The pool has connections ready, too, but takes as long for one as for several statements.
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._engine.connect()
        try:
            yield connection
            if connection.in_transaction():  # SQLAlchemy has run a statement itself, and thinks that it still is
                connection.commit()
        except BaseException:
            connection.close()  # the pool undoes what was begun
            raise
        self._idle.append(connection)

    def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop().close()
        self._engine.dispose()


def _keep_private(path: Path) -> None:
    """Let nobody else read the database. SQLite gives its other files the same mode; those of a restore have any."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            with contextlib.suppress(FileNotFoundError):
                if each.stat().st_mode & 0o077:
                    each.chmod(0o600)
    except OSError as error:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"cannot use {path} as this user's own: {error.strerror}",
            "run commands as the user that the aggregator runs as",
        ) from error


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


def _on_error(context: ExceptionContext) -> None:
    end_if_disk_failed(context.original_exception)
