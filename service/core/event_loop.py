"""Keep what takes its time off the event loop, and what has to write out of the few threads that read for requests."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

__all__ = ["READING", "NotReadingError", "OffLoopError", "leave_event_loop", "leave_reading"]

READING: ContextVar[bool] = ContextVar("reading", default=False)
"""Whether rows are read for a request here, for which others wait."""


class OffLoopError(Exception):
    """More than a few rows have to be read: in a thread, then."""


class NotReadingError(Exception):
    """Something has to be written, and its turn waited for: where nobody waits for who reads, then."""


def leave_event_loop() -> None:
    """See that this is not the event loop's thread, which waits for no disk.

    Raises:
        OffLoopError: it is.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise OffLoopError


def leave_reading() -> None:
    """See that this is no place where rows are read for requests.

    Raises:
        NotReadingError: it is.
        OffLoopError: it is the event loop.
    """
    if READING.get():
        raise NotReadingError
    leave_event_loop()
