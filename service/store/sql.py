"""The store in an SQL database: a SQLite file for one server, PostgreSQL for several replicas.

What the two need is in sqlite.py and postgres.py; above them nothing knows which one it is, but for `is_shared`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from he_agg.errors import ConfigError, Reason
from service.audit_events.event import Tell
from service.failpoints import failpoint
from service.settings import Settings
from service.store import schema
from service.store.postgres import Postgres
from service.store.sql_failures import passing
from service.store.sqlite import SqliteFile
from service.store.transaction import Transaction

__all__ = ["Store", "is_shared", "make_data_dir", "open_store"]

Found = TypeVar("Found")


def open_store(settings: Settings, *, create: bool) -> Store:
    """Open the store of a data directory, for a server or for one command of the operator."""
    if create:
        make_data_dir(settings.data_dir)
    url = settings.database_url or f"sqlite:///{settings.data_dir / 'aggregator.sqlite3'}"
    return Store(url, busy_timeout_s=settings.busy_timeout_s, create=create)


def is_shared(settings: Settings) -> bool:
    """Tell whether several servers may use the database at once."""
    return settings.database_url is not None and _parse(settings.database_url).get_backend_name() == "postgresql"


def _parse(text: str) -> URL:
    # The URL may hold a password, so what came is not repeated.
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigError(Reason.BAD_CONFIG, "database_url: expected an SQLAlchemy URL, got none") from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"database_url: expected sqlite or postgresql, got {url.get_backend_name()!r}",
            "leave HE_AGG_DATABASE_URL unset to use a SQLite file in the data directory",
        )
    return url


def make_data_dir(path: Path) -> None:
    """Make a data directory that only its owner can read, unless there is one."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(Reason.BAD_CONFIG, f"cannot make the data directory {path}: {error.strerror}") from error


class Store:
    """Rows in SQLite or PostgreSQL.

    Args:
        busy_timeout_s: how long to wait for a writer in another process. Units: seconds.
        create: make the tables when there are none; otherwise refuse a database without them.

    Attributes:
        is_shared: whether several servers may use it at once.
        on_write: told how long each writing transaction waited for its turn. Units: seconds.
        on_event: told of each audit event, after the commit that it belongs to.
    """

    def __init__(self, url: str, *, busy_timeout_s: float, create: bool) -> None:
        parsed = _parse(url)
        self.is_shared = parsed.get_backend_name() == "postgresql"
        self._database: Postgres | SqliteFile
        if self.is_shared:
            self._database = Postgres(parsed, busy_timeout_s=busy_timeout_s)
        else:
            self._database = SqliteFile(parsed, busy_timeout_s=busy_timeout_s, create=create)
        self._one_writer = threading.Lock()
        self.on_write: Callable[[float], None] = _nobody
        self.on_event: Tell = _nobody
        try:
            with self._database.begin(write=True) as connection:
                schema.prepare(connection, create=create)
        except DBAPIError as error:
            self.close()
            if not self.is_shared:
                raise
            # The driver's text names the address and may name more: the type is enough.
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"database_url: cannot use the database ({type(error.orig).__name__})",
                "see that it runs, that the address, user and password are right, and that the user may create tables",
            ) from None
        except BaseException:
            self.close()
            raise

    def look(self, what: Callable[[Transaction], Found]) -> Found:
        """Read by one statement, for which no transaction is begun. Several of them may see several states.

        Args:
            what: may be run twice.
        """
        with _translated():
            return self._database.look(lambda connection: what(Transaction(connection)))

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Open a transaction that only reads and sees one state throughout."""
        with _translated(), self._database.begin(write=False) as connection:
            yield Transaction(connection)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Open a transaction that may write, alone among all processes."""
        # Waiting writers of SQLite poll, and those of PostgreSQL each hold a connection: a queue is better.
        began = time.perf_counter()
        with _translated(), self._one_writer, self._database.begin(write=True) as connection:
            self.on_write(time.perf_counter() - began)
            tx = Transaction(connection)
            yield tx
            tx.write_down()
            failpoint("transaction.before_commit")
        failpoint("transaction.committed")
        for event in tx.reported:
            self.on_event(event)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what passes as a store does."""
    try:
        yield
    except SQLAlchemyError as error:
        if (known := passing(error)) is None:
            raise
        raise known from error


def _nobody(_: object) -> None:
    """Do nothing: nobody listens."""
