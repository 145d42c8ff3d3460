"""Tell the audit log of requests that security staff want to hear of, and of sums that could not be made.

Anybody can send what is refused, as often as they like: of one kind, reason and sender there is one event a minute, and
the next one says how many there were.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from he_agg.errors import Reason
from service.audit_events.event import Tell, make_event
from service.observers import Answered, Fold

__all__ = ["AuditLog", "Repeats"]

_KINDS = {
    Reason.UNAUTHENTICATED: "request.refused",
    Reason.BAD_SIGNATURE: "request.refused",
    Reason.CLOCK_SKEW: "request.refused",
    Reason.ROSTER_EXPIRED: "request.refused",
    Reason.NO_LONGER_MEMBER: "request.refused",
    Reason.FORBIDDEN: "request.refused",
    Reason.SECRET_REFUSED: "member.sent-key",
    Reason.QUOTA_EXCEEDED: "quota.exceeded",
    Reason.TOO_MANY_REQUESTS: "quota.exceeded",
    Reason.STORAGE_FULL: "store.full",
}
"""What is told of a refusal, by its reason. All others are what sites run into in the course of things."""

_WINDOW_S = 60.0
_MOST = 500


class Repeats:
    """Lets the first of many equal events pass, and counts those that follow within a minute.

    Args:
        clock: Units: seconds.
    """

    def __init__(self, tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._held: dict[tuple[object, ...], tuple[float, int, dict[str, str | int | None]]] = {}
        self._due = 0.0
        self._lock = threading.Lock()

    def tell(self, name: str, *, request: str | None = None, **fields: str | int | None) -> None:
        """Tell of it, or count it. Many different senders at once are told of together, by their reason."""
        with self._lock:
            now = self._clock()
            key = (name, *sorted(fields.items()))
            if key not in self._held and len(self._held) >= _MOST:
                fields = {"reason": fields["reason"]} if "reason" in fields else {}
                key, request = (name, *sorted(fields.items())), None
            held = self._held.get(key)
            if held is not None and now < held[0]:
                self._held[key] = (held[0], held[1] + 1, fields)
                return
            self._held[key] = (now + _WINDOW_S, 0, fields)
            count = 1 if held is None else held[1] + 1
        if request is not None:
            fields = fields | {"request": request}
        self._tell(make_event(name, count=count, **fields))

    def tell_held(self, *, all_of_it: bool = False) -> None:
        """Tell of those whose minute is over, if any were counted in it."""
        with self._lock:
            now = self._clock()
            if now < self._due and not all_of_it:
                return
            self._due = now + 1
            over = {key: held for key, held in self._held.items() if all_of_it or now >= held[0]}
            for key in over:
                del self._held[key]
        for key, (_, count, fields) in over.items():
            if count:
                self._tell(make_event(str(key[0]), count=count, **fields))


class AuditLog:
    """An `Observer`."""

    def __init__(self, tell: Tell) -> None:
        self.repeats = Repeats(tell)

    def answered(self, request: Answered) -> None:
        """Tell of a refusal that is about who sent it, or what there is too much of."""
        self.repeats.tell_held()
        if request.reason not in _KINDS:
            return
        name = _KINDS[Reason(request.reason)]
        about: dict[str, str | int | None] = {"federation": request.federation, "member": request.member}
        if name != "store.full":
            about["source"] = request.source
        if name in ("request.refused", "quota.exceeded"):
            about["reason"] = request.reason
        if name == "request.refused":
            about["claimed"] = request.claimed
        self.repeats.tell(name, request=request.request_id, **about)

    def folded(self, fold: Fold) -> None:
        """Tell of a sum that could not be made."""
        if fold.outcome == "error":
            self.repeats.tell("folding.failed", federation=fold.round_id.federation, round=str(fold.round_id))

    def close(self) -> None:
        """Tell of all that was only counted so far."""
        self.repeats.tell_held(all_of_it=True)
