"""Define what every store raises, and end the process when a store cannot be trusted any more.

Each store translates its own failures into these: above it nobody looks at an errno or at an error of a database.
What is not translated is a failure of the program or of the machine, and is answered 500.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from he_agg.errors import HeAggError, Reason

__all__ = ["StoreBusyError", "StoreError", "StoreFullError", "die", "end_if_disk_failed"]

EXIT_DISK_FAILED = 74
"""EX_IOERR of sysexits.h: a supervisor that restarts the process does the right thing."""


class StoreError(HeAggError):
    """A store could not do what it was asked. Never raised itself."""


class StoreFullError(StoreError):
    """There is no room. It passes when the operator makes some."""

    def __init__(self) -> None:
        super().__init__(
            Reason.STORAGE_FULL,
            "expected room in the store, there is none",
            "the operator has to free space; submissions with a receipt are safe",
        )


class StoreBusyError(StoreError):
    """Too many open files, a lock that is held, a database that restarts, an object store that does not answer.

    Args:
        why: what is known of it, for whoever has to see to it.
    """

    def __init__(self, why: str = "") -> None:
        self.why = why
        message = "the store cannot be used at this moment" + (f": {why}" if why else "")
        super().__init__(Reason.BUSY, message, "send the same request again")


def die(what: str) -> NoReturn:
    """End the process at once, because what is on the disk is not known any more.

    After a failed fsync the kernel may mark pages clean that were never written: trying again would succeed and
    lie. The next process reads what is really there.
    """
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f'{{"level": "CRITICAL", "message": "{what}; the process ends"}}\n'.encode())
    os._exit(EXIT_DISK_FAILED)


def end_if_disk_failed(error: BaseException) -> None:
    """End the process if SQLite says that the disk has failed.

    After a failed write or sync nobody knows what is on the disk. Only a new process, which reads it, does.
    """
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_IOERR"):
        die(f"the database failed: {name}")
