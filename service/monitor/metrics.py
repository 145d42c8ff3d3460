"""Metrics for Prometheus, in a registry of the application's own. No label has more values than the operator made.

Labels are route templates, methods, status codes, reasons out of the closed set, phases, and names of federations that
exist here. Sites, rounds, submissions and addresses are none: their number grows, and an operator who needs one of them
looks at the dashboard or the log. What is in the store is counted when it is asked for, so it is true after a restart,
and the same at every replica.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from service.aggregator import Aggregator
from service.domain.events import Stage
from service.limits import Limits
from service.monitor.audit_log.sender import Sender
from service.monitor.view import take_view
from service.observers import Answered, Fold
from service.problems import PROBLEMS

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REASONS = frozenset(reason.value for reason in PROBLEMS) | {"disconnected"}
_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LONG = (*_QUICK[4:], 120, 300, 600, 1800)
_OK = range(200, 300)


class Metrics:
    """An `Observer` that counts. Make one for each application."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._requests = Histogram(
            "he_agg_request_seconds",
            "From the head of a request to the end of its answer. Long polls wait in it.",
            ("method", "route", "status"),
            registry=registry,
            buckets=_QUICK,
        )
        self._phases = Histogram(
            "he_agg_phase_seconds",
            "Steps of rounds that succeeded: put of parts, fold, download of a sum.",
            ("phase",),
            registry=registry,
            buckets=_LONG,
        )
        self._under_way = Gauge(
            "he_agg_requests_under_way", "Requests below /v1, waiting ones included.", registry=registry
        )
        self._responses = Counter("he_agg_responses", "Answers by status code.", ("status",), registry=registry)
        self._problems = Counter("he_agg_problems", "Refused requests by reason.", ("reason",), registry=registry)
        self._received = Counter(
            "he_agg_received_bytes", "Bodies that came in, by members.", ("federation",), registry=registry
        )
        self._sent = Counter(
            "he_agg_sent_bytes", "Bodies that went out, to members.", ("federation",), registry=registry
        )
        self._receipts = Counter(
            "he_agg_receipts", "Receipts given, repeated ones included.", ("federation",), registry=registry
        )
        self._folds = Counter("he_agg_folds", "Runs of folding.", ("federation", "outcome"), registry=registry)
        self._writes = Histogram(
            "he_agg_write_wait_seconds",
            "How long a writing transaction waited for its turn.",
            registry=registry,
            buckets=_QUICK,
        )
        ProcessCollector(registry=registry)

    def bind(self, aggregator: Aggregator, limits: Limits, sender: Sender | None = None) -> None:
        """Count what is under way, what is in a store, and what goes to the audit log, if there is one."""
        self._under_way.set_function(lambda: limits.under_way)
        aggregator.store.on_write = self._writes.observe
        self._registry.register(_Stored(aggregator))
        if sender is not None:
            self._registry.register(_Sent(sender))

    def answered(self, request: Answered) -> None:
        """Count a request."""
        status = str(request.status)
        seen = f"{status[0]}xx" if request.status else "none"
        self._requests.labels(request.method, request.route, seen).observe(request.seconds)
        self._responses.labels(status).inc()
        if request.reason:
            self._problems.labels(request.reason if request.reason in _REASONS else "other").inc()
        name, phase = request.federation, request.phase
        if name:
            self._received.labels(name).inc(request.received)
            self._sent.labels(name).inc(request.sent)
        if phase is None or request.status not in _OK:
            return
        self._phases.labels(phase).observe(request.seconds)
        if (phase, request.status) == ("put", 200):
            self._receipts.labels(name).inc()

    def folded(self, fold: Fold) -> None:
        """Count a run of folding."""
        self._folds.labels(fold.round_id.federation, fold.outcome).inc()
        if fold.outcome == "published":
            self._phases.labels("fold").observe(fold.ended_at - fold.began_at)

    def render(self) -> bytes:
        """Render all metrics in the text format. Reads the store: call it off the event loop."""
        return generate_latest(self._registry)


class _Stored(Collector):
    """What the store and the disk say at this moment."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator

    def describe(self) -> Iterable[Metric]:
        """Describe nothing before it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read all of it, once."""
        aggregator = self._aggregator
        view = take_view(aggregator.store, aggregator.part_store, aggregator.settings, aggregator.conductor.now())
        storage, federations = view["storage"], view["federations"]
        if storage["free_bytes"] is not None:
            yield _gauge("he_agg_disk_free_bytes", "Left where parts are kept.", storage["free_bytes"])
            yield _gauge("he_agg_disk_size_bytes", "Size of that disk.", storage["size_bytes"])
        yield _gauge("he_agg_disk_reserve_bytes", "Below this, new submissions are refused.", storage["reserve_bytes"])
        # A state that nothing is in is 0, and no gap in a graph.
        for name, text, label, counts in (
            ("he_agg_rounds", "Attempts by state.", "state", lambda one: one["attempts"]),
            ("he_agg_submissions", "Submissions by state.", "state", lambda one: one["submissions"]),
            (
                "he_agg_federation_stage",
                "1 for the stage that a federation is in.",
                "stage",
                lambda one: {stage.value: int(one["stage"] == stage) for stage in Stage},
            ),
        ):
            family = GaugeMetricFamily(name, text, labels=["federation", label])
            for one in federations:
                for value, count in counts(one).items():
                    family.add_metric([one["federation"], value], count)
            yield family
        values = {one["federation"]: _of_federation(one) for one in federations}
        for name, text in _PER_FEDERATION.items():
            family = GaugeMetricFamily(name, text, labels=["federation"])
            for federation, known in values.items():
                if known.get(name) is not None:
                    family.add_metric([federation], known[name])
            yield family


class _Sent(Collector):
    """What has become of audit events."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def describe(self) -> Iterable[Metric]:
        """Describe nothing before it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read the sender's counters."""
        events = CounterMetricFamily("he_agg_audit_events", "Audit events by what became of them.", labels=["outcome"])
        events.add_metric(["sent"], self._sender.sent)
        events.add_metric(["lost"], self._sender.lost)
        yield events
        yield _gauge("he_agg_audit_events_waiting", "Audit events that are to be sent.", self._sender.waiting)
        yield _gauge(
            "he_agg_audit_log_up", "0 while the audit log's target cannot be reached.", int(self._sender.is_up)
        )


_PER_FEDERATION = {
    "he_agg_sites": "Sites in the newest roster.",
    "he_agg_roster_expires_timestamp_seconds": "When the newest roster expires; then all requests are refused.",
    "he_agg_disputed": "1 while sites have rejected the newest sum and too few have opened it.",
    "he_agg_holders": "Holders in the newest roster, where one-time keys are split.",
    "he_agg_holders_with_key": "Of these, how many have a sharing key of the epoch.",
    "he_agg_holders_quorum": "How many have to have one, and to echo a record.",
    "he_agg_awaited": "1 while a published round waits for its holders.",
    "he_agg_awaited_since_timestamp_seconds": "When that round was published.",
    "he_agg_awaited_echoes": "How many of its holders have echoed its record.",
    "he_agg_awaited_answers": "How many of them have answered.",
    "he_agg_awaited_complaints": "How many dealings they complain of.",
    "he_agg_records": "Length of the chain of records.",
    "he_agg_held_bytes": "Submissions and sums that the disk holds or has promised to hold.",
    "he_agg_round_invited_sites": "Sites that the newest round has invited.",
    "he_agg_round_complete_sites": "Of these, how many are complete.",
    "he_agg_round_quorum_sites": "How many have to be by the deadline.",
    "he_agg_round_deadline_timestamp_seconds": "When the open round closes at the latest.",
    "he_agg_round_damaged_parts": "Stored parts of the newest round that its sites are asked for again.",
}


def _of_federation(one: dict[str, Any]) -> dict[str, Any]:
    values = {
        "he_agg_sites": len(one["sites"]),
        "he_agg_roster_expires_timestamp_seconds": one["roster_expires_at"],
        "he_agg_disputed": int(one["disputed"] is not None),
        "he_agg_records": one["records"],
        "he_agg_held_bytes": one["held_bytes"],
        "he_agg_round_quorum_sites": one["quorum"],
    }
    if (holding := one["holding"]) is not None:
        awaited = holding["awaited"]
        values["he_agg_holders"] = len(holding["holders"])
        values["he_agg_holders_with_key"] = sum(each["has_key"] for each in holding["holders"])
        values["he_agg_holders_quorum"] = holding["quorum"]
        values["he_agg_awaited"] = int(awaited is not None)
        if awaited is not None:
            values["he_agg_awaited_since_timestamp_seconds"] = awaited["since"]
            values["he_agg_awaited_echoes"] = sum(each["echoed"] for each in awaited["holders"])
            values["he_agg_awaited_answers"] = sum(each["answered"] for each in awaited["holders"])
            values["he_agg_awaited_complaints"] = len(awaited["complaints"])
    if (newest := one["round"]) is not None:
        values["he_agg_round_invited_sites"] = len(newest["sites"])
        values["he_agg_round_complete_sites"] = newest["complete"]
        values["he_agg_round_damaged_parts"] = sum(len(site["asked_again"]) for site in newest["sites"])
        if newest["remaining_s"] is not None:
            values["he_agg_round_deadline_timestamp_seconds"] = newest["deadline_at"]
    return values


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
