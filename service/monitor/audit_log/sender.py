"""Send events from a thread of its own, so that nobody waits for the log: it may be slow, down, or away for a day.

What cannot be sent waits, up to `WAITING` events; what comes then is lost, and counted. That it is down is one line in
the aggregator's own log and a metric, that it is back another line, and an event for what was lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from service.audit_events.event import AuditEvent, make_event
from service.logs import log
from service.monitor.audit_log.targets import Numbered, Target

__all__ = ["WAITING", "Sender"]

WAITING = 10_000
"""How many events wait at most, a few MB."""

_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses after failures; the last one again and again. Units: seconds."""

_FLUSH_S = 5.0


class Sender:
    """Takes events over, and hands them to a target. The thread begins with the first event.

    Attributes:
        sent: how many events were handed over.
        lost: how many were not, and will not be.
        is_up: whether the last attempt succeeded.
    """

    def __init__(self, target: Target, waiting: int = WAITING) -> None:
        self._target = target
        self._most = waiting
        self._events: deque[Numbered] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._sequence = self._untold = 0
        self._closing: float | None = None
        self.sent = self.lost = 0
        self.is_up = True

    @property
    def waiting(self) -> int:
        """How many events are to be sent."""
        return len(self._events)

    def put(self, event: AuditEvent) -> None:
        """Take an event over. Never waits, never raises."""
        with self._changed:
            self._sequence += 1
            if len(self._events) >= self._most or self._closing is not None:
                self.lost += 1
                self._untold += 1
                return
            self._events.append(Numbered(self._sequence, event))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="audit-log", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, seconds: float = _FLUSH_S) -> int:
        """Send what is left, for a while.

        Returns:
            How many events were lost since the start.
        """
        with self._changed:
            self._closing = time.monotonic() + seconds
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(seconds + 1)
        with self._changed:
            left = len(self._events)
            self._events.clear()
            self.lost += left
        if left:
            log(logging.ERROR, "the audit log did not take events before the end; they are lost", events=left)
        return self.lost

    def _run(self) -> None:
        failures = 0
        while (batch := self._next()) is not None:
            try:
                self._target.send(batch)
            except Exception as error:  # whatever a library raises, the next events are sent
                self._has_failed(error, len(batch))
                if not self._pause(_RETRY_S[min(failures, len(_RETRY_S) - 1)]):
                    break
                failures += 1
            else:
                failures = 0
                self._has_sent(len(batch))
        self._target.close()

    def _next(self) -> Sequence[Numbered] | None:
        """Wait for events. None if there are none, and none will come."""
        with self._changed:
            while not self._events:
                if self._closing is not None:
                    return None
                self._changed.wait()
            return [self._events[i] for i in range(min(len(self._events), self._target.at_most))]

    def _has_sent(self, count: int) -> None:
        with self._changed:
            for _ in range(min(count, len(self._events))):  # none after `close` has given them up
                self._events.popleft()
                self.sent += 1
            came_back, self.is_up = not self.is_up, True
            gap, self._untold = self._untold, 0
            if gap:
                self._sequence += 1
                self._events.append(Numbered(self._sequence, make_event("audit-log.gap", lost=gap)))
        if came_back:
            log(logging.WARNING, "the audit log takes events again", lost=gap)

    def _has_failed(self, error: Exception, count: int) -> None:
        went_down, self.is_up = self.is_up, False
        if went_down:
            log(logging.ERROR, "the audit log cannot be reached; events wait", error=error, events=count)

    def _pause(self, seconds: float) -> bool:
        """Wait before the next attempt. Returns whether there is one."""
        end = time.monotonic() + seconds
        with self._changed:
            while (now := time.monotonic()) < end:
                if self._closing is not None and now + 0.2 >= self._closing:
                    return False
                until = end if self._closing is None else min(end, now + 0.2)
                self._changed.wait(until - now)
            return self._closing is None or now < self._closing
