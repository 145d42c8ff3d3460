"""PostgreSQL as a store: durable commits, read back on every connection; one writer at a time by an advisory lock.

The lock makes `write` mean what it means in SQLite: whoever writes is alone and sees the newest state, so that the code
above needs no other reasoning for replicas. READ COMMITTED is right for it: the snapshot of every statement is younger
than the lock, where that of REPEATABLE READ would be as old as the wait for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError

from he_agg.errors import ConfigError, Reason
from service.store.statements import run_text

__all__ = ["Postgres"]

Found = TypeVar("Found")

_LOCK = 0x68652D616767  # "he-agg": advisory locks are numbers within one database
_DURABLE = ("on", "remote_apply")
_IDLE_MS = 60_000
# Each statement of its own is a way to the server and back, and half of what a request costs are these.
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({_LOCK})"


class Postgres:
    """A PostgreSQL database and connections to it.

    Args:
        busy_timeout_s: how long to wait for another writer. Units: seconds.

    Attributes:
        url: where it is.
    """

    def __init__(self, url: URL, *, busy_timeout_s: float) -> None:
        if find_spec("psycopg") is None:
            raise ConfigError(
                Reason.BAD_CONFIG, "database_url: PostgreSQL needs its driver", "pip install 'he-agg[postgres]'"
            )
        self.url = url
        # Error texts must not quote parameters: a manifest is one. Five processes fit into the 100 connections of a
        # server that nobody has tuned.
        self._engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            hide_parameters=True,
            pool_size=8,
            max_overflow=8,
            pool_timeout=busy_timeout_s,
            connect_args={"connect_timeout": 10, "application_name": "he-agg"},
        )

        def on_connect(connection: Any, _record: Any) -> None:
            _make_durable(connection, int(busy_timeout_s * 1000))

        event.listen(self._engine, "connect", on_connect)

    @contextlib.contextmanager
    def begin(self, *, write: bool) -> Iterator[Connection]:
        """Open a transaction. It is committed at the end, or undone by what is raised."""
        with self._begun(_WRITE if write else _READ) as connection:
            yield connection
            run_text(connection, "COMMIT")

    def look(self, what: Callable[[Connection], Found]) -> Found:
        """Run a statement that only reads, outside of a transaction."""
        while True:
            with self._engine.connect() as connection:
                try:
                    return what(connection)
                except DBAPIError as error:
                    if not _is_lost(connection):
                        raise
                    connection.invalidate(error)

    def _begun(self, how: str) -> Connection:
        """Return a connection on which a transaction has begun.

        Those in the pool may be lost, if the server was restarted: beginning shows it, and the next one is taken, which
        is a new one in the end.
        """
        while True:
            connection = self._engine.connect()
            try:
                run_text(connection, how)
                return connection
            except BaseException as error:
                lost = _is_lost(connection)
                if lost:
                    connection.invalidate()
                connection.close()
                if not (lost and isinstance(error, DBAPIError)):
                    raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _is_lost(connection: Connection) -> bool:
    driver: Any = connection.connection.dbapi_connection
    return bool(driver.closed)


def _make_durable(connection: Any, lock_timeout_ms: int) -> None:
    connection.autocommit = True  # BEGIN is ours
    # A replica that is cut off in the middle of a transaction must not keep the lock.
    for setting, value in (
        ("synchronous_commit", "on"),
        ("lock_timeout", lock_timeout_ms),
        ("idle_in_transaction_session_timeout", _IDLE_MS),
    ):
        connection.execute(f"SET {setting} = {value}")
    got = {name: connection.execute(f"SHOW {name}").fetchone()[0] for name in ("synchronous_commit", "fsync")}
    if got["synchronous_commit"] not in _DURABLE or got["fsync"] != "on":
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"store: expected a PostgreSQL with synchronous_commit on and fsync on, got {got}",
            "a receipt is a promise: the database must not forget a commit",
        )
