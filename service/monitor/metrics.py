"""Metrics for Prometheus, in a registry of the application's own. No label has more values than the operator made.

Labels are route templates, methods, status codes, reasons out of the closed set, phases, and names of federations that
exist here. Sites, rounds, submissions and addresses are none: their number grows, and an operator who needs one of them
looks at the dashboard or the log. What is in the store is counted when it is asked for, so it is true after a restart,
and the same at every replica.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from he_agg.documents.roster import Role
from service.aggregator import Aggregator
from service.core.roster_cache import newest_roster
from service.domain.events import Phase, Stage
from service.limits import Limits
from service.monitor.observers import Answered, Fold
from service.monitor.view import quorum
from service.problems import PROBLEMS
from service.store.base import Transaction
from service.store.rows import FederationRow

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REASONS = frozenset(reason.value for reason in PROBLEMS) | {"disconnected"}
_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LONG = (*_QUICK[4:], 120, 300, 600, 1800)
_OK = range(200, 300)
_REPEATS = {("announce", 200), ("put", 204)}


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
            "Steps of rounds that succeeded: announce, put and complete of a submission, fold, download of a part.",
            ("phase",),
            registry=registry,
            buckets=_LONG,
        )
        self._under_way = Gauge(
            "he_agg_requests_under_way", "Requests below /v1, waiting ones included.", registry=registry
        )
        self._responses = Counter("he_agg_responses", "Answers by status code.", ("status",), registry=registry)
        self._problems = Counter("he_agg_problems", "Refused requests by reason.", ("reason",), registry=registry)
        self._repeats = Counter(
            "he_agg_repeats", "Requests for what was here already: retries of sites.", ("phase",), registry=registry
        )
        self._received = Counter(
            "he_agg_received_bytes", "Bodies that came in, by members.", ("federation",), registry=registry
        )
        self._sent = Counter(
            "he_agg_sent_bytes", "Bodies that went out, to members.", ("federation",), registry=registry
        )
        self._announced = Counter(
            "he_agg_announcements", "New submissions announced.", ("federation",), registry=registry
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

    def bind(self, aggregator: Aggregator, limits: Limits) -> None:
        """Count what is under way and what is in a store, too."""
        self._under_way.set_function(lambda: limits.under_way)
        aggregator.store.on_write = self._writes.observe
        self._registry.register(_Stored(aggregator))

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
        if (phase, request.status) in _REPEATS:
            self._repeats.labels(phase).inc()
        elif phase == "announce":
            self._announced.labels(name).inc()
        elif phase == "complete":
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
        """Read all of it in one transaction."""
        settings = self._aggregator.settings
        disk = shutil.disk_usage(settings.data_dir)
        yield _gauge("he_agg_disk_free_bytes", "Left on the disk of the data directory.", disk.free)
        yield _gauge("he_agg_disk_size_bytes", "Size of that disk.", disk.total)
        yield _gauge("he_agg_disk_reserve_bytes", "Below this, new submissions are refused.", settings.reserve_bytes)
        with self._aggregator.store.read() as tx:
            rows = tx.federations()
            rounds, submissions = tx.count_rounds(), tx.count_submissions()
            by_federation = [_of_federation(tx, row) for row in rows]
        yield from _table(
            "he_agg_rounds",
            "Attempts by state.",
            "state",
            rows,
            list(Phase),
            lambda name, s: rounds.get((name, Phase(s)), 0),
        )
        yield from _table(
            "he_agg_submissions",
            "Submissions by state.",
            "state",
            rows,
            ["open", "complete", "excluded"],
            lambda name, s: submissions.get((name, s), 0),
        )
        stages = {row.name: row.stage for row in rows}
        yield from _table(
            "he_agg_federation_stage",
            "1 for the stage that a federation is in.",
            "stage",
            rows,
            list(Stage),
            lambda name, s: int(stages[name] == s),
        )
        for metric, text in _PER_FEDERATION.items():
            family = GaugeMetricFamily(metric, text, labels=["federation"])
            for row, values in zip(rows, by_federation, strict=True):
                if metric in values:
                    family.add_metric([row.name], values[metric])
            yield family


_PER_FEDERATION = {
    "he_agg_sites": "Sites in the newest roster.",
    "he_agg_roster_expires_timestamp_seconds": "When the newest roster expires; then all requests are refused.",
    "he_agg_records": "Length of the chain of records.",
    "he_agg_held_bytes": "Submissions and sums that the disk holds or has promised to hold.",
    "he_agg_round_invited_sites": "Sites that the newest round has invited.",
    "he_agg_round_complete_sites": "Of these, how many are complete.",
    "he_agg_round_quorum_sites": "How many have to be by the deadline.",
    "he_agg_round_deadline_timestamp_seconds": "When the open round closes at the latest.",
    "he_agg_round_damaged_parts": "Stored parts of the newest round that its sites are asked for again.",
}


def _of_federation(tx: Transaction, row: FederationRow) -> dict[str, float]:
    plan, roster, newest = row.parsed.plan, newest_roster(tx, row.name), tx.newest_round(row.name)
    held = (tx.stored_submissions(row.name) + len(tx.kept_sums(row.name))) * plan.wire_bytes
    values: dict[str, float] = {"he_agg_records": tx.chain_head(row.name).index, "he_agg_held_bytes": held}
    values["he_agg_round_quorum_sites"] = quorum(tx, row, newest)
    values["he_agg_sites"] = len(roster.roster.having(Role.SITE))
    values["he_agg_roster_expires_timestamp_seconds"] = roster.roster.expires_at
    if newest is not None:
        values["he_agg_round_invited_sites"] = len(tx.invited(newest.id))
        values["he_agg_round_complete_sites"] = sum(s.state == "complete" for s in tx.submissions(newest.id))
        values["he_agg_round_damaged_parts"] = len(tx.damaged(newest.id))
        if newest.phase is Phase.OPEN and row.stage is Stage.RUNNING:
            values["he_agg_round_deadline_timestamp_seconds"] = newest.deadline_at
    return values


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _table(
    name: str,
    text: str,
    label: str,
    rows: Sequence[FederationRow],
    values: Sequence[str],
    count: Callable[[str, str], float],
) -> Iterator[Metric]:
    """Make one sample for each federation and value; an empty state is 0, not a gap in a graph."""
    family = GaugeMetricFamily(name, text, labels=["federation", label])
    for row in rows:
        for value in values:
            family.add_metric([row.name, str(value)], count(row.name, value))
    yield family
