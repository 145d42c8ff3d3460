"""Failures of the machine that pass: a full disk, too many open files, a database that is locked, restarted or away.

They are told from failures of the program, which are answered 500: a client that waits and asks again will succeed,
and every request may be repeated.
"""

from __future__ import annotations

import errno

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from he_agg.errors import Reason
from service.refusal import RefusedError

__all__ = ["passing_trouble"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
# SQLite's primary result codes; extended ones have them in front.
_SQLITE_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_NOMEM")
# PostgreSQL: 53 resources, 55 not in that state (locks), 57 operator intervention, 08 connection, 40 rolled back, 25006
# read-only after a failover.
_POSTGRES_PASSING = ("53", "55", "57", "08", "40", "25006")
_POSTGRES_FULL = "53100"


def passing_trouble(error: BaseException) -> RefusedError | None:
    """Return what to answer if the trouble may pass; None for all that is a failure."""
    if isinstance(error, OSError):
        return _refusal(error.errno in _FULL) if error.errno in (*_FULL, *_EXHAUSTED) else None
    if isinstance(error, SQLAlchemyError):
        return _database(error)
    return None


def _database(error: SQLAlchemyError) -> RefusedError | None:
    if isinstance(error, PoolTimeoutError):
        return _refusal(full=False)
    if not isinstance(error, DBAPIError):
        return None
    sqlite = getattr(error.orig, "sqlite_errorname", None)
    if sqlite is not None:
        if sqlite == "SQLITE_FULL":
            return _refusal(full=True)
        return _refusal(full=False) if sqlite.startswith(_SQLITE_PASSING) else None
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        # The driver had no connection to ask for a state.
        return _refusal(full=False) if isinstance(error, OperationalError | InterfaceError) else None
    return _refusal(state == _POSTGRES_FULL) if state.startswith(_POSTGRES_PASSING) else None


def _refusal(full: bool) -> RefusedError:
    if full:
        return RefusedError(
            Reason.STORAGE_FULL,
            "expected room on the disk, there is none",
            "the operator has to free space; submissions with a receipt are safe",
        )
    return RefusedError(Reason.BUSY, "the store cannot be used at this moment", "send the same request again")
