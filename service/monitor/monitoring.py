"""Put an aggregator's monitoring together from its settings, one set for each application."""

from __future__ import annotations

import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from service.aggregator import Aggregator
from service.audit_events.event import Tell, make_event
from service.limits import Limits
from service.monitor.audit_log.observer import AuditLog, Repeats
from service.monitor.audit_log.wiring import open_sender
from service.monitor.recent import Recent
from service.observers import Fold, Observer
from service.settings import Settings

if TYPE_CHECKING:
    from service.monitor.metrics import Metrics
    from service.monitor.tracing import Tracing

__all__ = ["Watching"]


class Watching:
    """What listens to an application.

    Args:
        settings: the operator's. Without a listener for operators or metrics, traces or an audit log, nothing listens,
            and a request costs no more than before.
        purpose: what the process is for, "serve" or "work".

    Attributes:
        metrics: what is counted; None unless somebody can read it.
        recent: what the dashboard shows of this process; None unless there is one.
        tell: takes what the audit log is told of; does nothing if there is none.
    """

    def __init__(self, settings: Settings, purpose: str = "serve") -> None:
        self.metrics: Metrics | None = None
        self.recent: Recent | None = None
        self._tracing: Tracing | None = None
        self._started_at = int(time.time())
        self._purpose = purpose
        self._sender = open_sender(settings)
        self._audit = None if self._sender is None else AuditLog(self._sender.put)
        self.tell: Tell = _nobody if self._sender is None else self._sender.put
        self.repeats = Repeats(self.tell) if self._audit is None else self._audit.repeats
        # Loaded only where they are used: a server without them starts sooner, and needs no extra.
        if settings.operator_port is not None or settings.metrics_port is not None:
            from service.monitor.metrics import Metrics

            self.metrics = Metrics()
        if settings.operator_port is not None:
            self.recent = Recent()
        if settings.traces:
            from service.monitor.tracing import Tracing

            self._tracing = Tracing()
        listening: list[Observer | None] = [self.metrics, self.recent, self._tracing, self._audit]
        self.observers: tuple[Observer, ...] = tuple(each for each in listening if each is not None)

    def attach(self, aggregator: Aggregator, limits: Limits) -> None:
        """Listen to an aggregator that is open."""
        if self.metrics is not None:
            self.metrics.bind(aggregator, limits, self._sender)
        if self.observers:
            aggregator.worker.folder.on_fold = self._folded
        if self._sender is not None:
            aggregator.store.on_event = self.tell
            self.tell(make_event("aggregator.started", purpose=self._purpose, version=_version()))
            for federation in aggregator.unlisted:
                self.tell(make_event("aggregator.key-not-listed", federation=federation))

    def process(self) -> dict[str, Any] | None:
        """Return what only this process knows; None without a dashboard."""
        if self.recent is None:
            return None
        return {
            "version": _version(),
            "started_at": self._started_at,
            "traffic": self.recent.traffic(),
            "problems": self.recent.problems(),
        }

    def close(self) -> None:
        """Send what has not been sent."""
        if self._tracing is not None:
            self._tracing.close()
        if self._audit is not None and self._sender is not None:
            self._audit.close()
            self.tell(make_event("aggregator.stopped", purpose=self._purpose))
            self._sender.close()

    def _folded(self, fold: Fold) -> None:
        for observer in self.observers:
            observer.folded(fold)


def _nobody(_: object) -> None:
    """Do nothing: there is no audit log."""


def _version() -> str:
    try:
        return version("he-agg")
    except PackageNotFoundError:
        return "unknown"
