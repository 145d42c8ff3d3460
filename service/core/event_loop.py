"""Keep what takes its time off the event loop, and out of the few threads that read rows for requests."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

__all__ = ["READING", "OffLoopError", "leave_event_loop"]

READING: ContextVar[bool] = ContextVar("reading", default=False)
"""Whether a few rows are read for a request here, for which others wait."""


class OffLoopError(Exception):
    """Something has to be written, or more than a few rows be read: in a thread, then."""


def leave_event_loop() -> None:
    """See that this is not the event loop's thread, which waits for no disk, nor one that only reads.

    Raises:
        OffLoopError: it is.
    """
    if READING.get():
        raise OffLoopError
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise OffLoopError
