"""SQLite as a store: WAL, synchronous=FULL and foreign keys, read back at every connection; one writer at a time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext

from he_agg.errors import ConfigError, Reason
from service.store.failures import end_if_disk_failed
from service.store.statements import run_text

__all__ = ["open_engine"]

_SYNCHRONOUS_FULL = 2


def open_engine(url: URL, *, busy_timeout_s: float, create: bool, write_option: str) -> Engine:
    """Make ready to connect to a SQLite file."""
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
            "name the right --data-dir, or begin with `he-agg federation create federation.json --roster roster.json`",
        )
    _keep_private(Path(url.database))
    # Error texts must not quote parameters: a manifest is one.
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_size=48,  # none is closed again: opening one costs as much as several requests
        max_overflow=0,
        connect_args={"timeout": busy_timeout_s, "check_same_thread": False},
    )

    def on_begin(connection: Connection) -> None:
        write = connection.get_execution_options().get(write_option, False)
        run_text(connection, "BEGIN IMMEDIATE" if write else "BEGIN")

    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", on_begin)
    event.listen(engine, "handle_error", _on_error)
    return engine


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
