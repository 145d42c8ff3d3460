"""Failures of a database that pass: it is full, locked, restarted or away."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.store.failures import StoreBusyError, StoreError, StoreFullError

__all__ = ["passing"]

# SQLite's primary result codes; extended ones have them in front.
_SQLITE_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_NOMEM")
# PostgreSQL: 53 resources, 55 not in that state (locks), 57 operator intervention, 08 connection, 40 rolled back, 25006
# read-only after a failover.
_POSTGRES_PASSING = ("53", "55", "57", "08", "40", "25006")
_POSTGRES_FULL = "53100"


def passing(error: SQLAlchemyError) -> StoreError | None:
    """Return a failure of a database that passes as one of a store; None for another, which goes on as it is."""
    if isinstance(error, PoolTimeoutError):
        return StoreBusyError()
    if not isinstance(error, DBAPIError):
        return None
    sqlite = getattr(error.orig, "sqlite_errorname", None)
    if sqlite is not None:
        if sqlite == "SQLITE_FULL":
            return StoreFullError()
        return StoreBusyError() if sqlite.startswith(_SQLITE_PASSING) else None
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        # The driver had no connection to ask for a state.
        return StoreBusyError() if isinstance(error, OperationalError | InterfaceError) else None
    if state == _POSTGRES_FULL:
        return StoreFullError()
    return StoreBusyError() if state.startswith(_POSTGRES_PASSING) else None
