"""The problems of the last hours, in memory: what an operator asks for first, without looking through a log."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from he_agg.errors import Reason
from service.observers import Answered, Fold
from service.problems import PROBLEMS

__all__ = ["Recent"]

_MOST = 50
_TITLES = {reason.value: title for reason, (_, title) in PROBLEMS.items()}
_ORDINARY = {Reason.ROUND_CLOSED.value, Reason.SUM_NOT_READY.value, "disconnected"}
"""What sites run into in the course of things. They are counted in the metrics and not shown."""


class Recent:
    """An `Observer` that remembers the last problems and how much has come and gone. Restarts forget both."""

    def __init__(self) -> None:
        self._problems: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._requests = self._received = self._sent = 0

    def answered(self, request: Answered) -> None:
        """Count a request, and remember it if it was refused."""
        with self._lock:
            self._requests += 1
            self._received += request.received
            self._sent += request.sent
        if request.reason and request.reason not in _ORDINARY:
            self._add(
                at=request.began_at,
                reason=request.reason,
                title=_TITLES.get(request.reason, "A request was refused"),
                status=request.status,
                what=f"{request.method} {request.route}",
                federation=request.federation,
                member=request.member,
                round_id=request.round_id,
                id=request.request_id,
            )

    def folded(self, fold: Fold) -> None:
        """Remember a run of folding that did not get to its end."""
        if fold.outcome == "published":
            return
        failed = fold.outcome == "error"
        self._add(
            at=fold.ended_at,
            reason="fold-failed" if failed else "fold-unfinished",
            title="Folding failed and is tried again" if failed else "Folding waits for a part, or for a restart",
            status=None,
            what="fold",
            federation=fold.round_id.federation,
            member="",
            round_id=str(fold.round_id),
            id="",
        )

    def problems(self) -> list[dict[str, Any]]:
        """Return the newest first; a repeated one is there once, with its `count`, where the last one was."""
        with self._lock:
            return [dict(problem) for problem in reversed(self._problems)]

    def traffic(self) -> dict[str, int]:
        """Return the traffic since the start. Units: bytes of bodies."""
        with self._lock:
            return {"requests": self._requests, "received_bytes": self._received, "sent_bytes": self._sent}

    def _add(self, **problem: Any) -> None:
        same = ("reason", "status", "what", "federation", "member", "round_id")
        with self._lock:
            count = 1
            for known in self._problems:
                # Strangers who try all doors are one line each, and push nothing out.
                if all(known[name] == problem[name] for name in same):
                    count += known["count"]
                    self._problems.remove(known)
                    break
            if len(self._problems) >= _MOST:
                self._problems.remove(self._least_missed(problem))
            self._problems.append(problem | {"count": count})

    def _least_missed(self, newest: dict[str, Any]) -> dict[str, Any]:
        """Find the oldest problem of whoever has most of them, so that nobody pushes out those of the others."""
        have = Counter(_source(each) for each in (*self._problems, newest))
        most = max(have[_source(each)] for each in self._problems)
        return next(each for each in self._problems if have[_source(each)] == most)


def _source(problem: dict[str, Any]) -> tuple[str, str]:
    return problem["federation"], problem["member"]
