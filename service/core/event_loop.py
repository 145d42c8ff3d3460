"""Keep what takes its time off the event loop, where rows are read for requests."""

from __future__ import annotations

import asyncio

__all__ = ["OffLoopError", "leave_event_loop"]


class OffLoopError(Exception):
    """Something has to be written, or more than a few rows be read: in a thread, then."""


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
