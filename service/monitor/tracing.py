"""Traces, if they are wanted: one span for each request and one for each run of folding, by OpenTelemetry.

Off by default, and its packages (the extra `otlp`) are only loaded when it is on. Where spans go is said by the
variables that every OpenTelemetry program reads, such as OTEL_EXPORTER_OTLP_ENDPOINT. A span is made when its work is
over, out of what the log has too: nothing of it depends on a header that a client wrote, and no context is taken over.
"""

from __future__ import annotations

from typing import Any

from he_agg.errors import ConfigError, Reason
from service.observers import Answered, Fold

__all__ = ["Tracing"]

_NANO = 10**9


class Tracing:
    """An `Observer` that makes spans.

    Args:
        exporter: where they go; by default to the OTLP endpoint of the environment.
    """

    def __init__(self, exporter: Any = None) -> None:
        try:
            from opentelemetry.context import Context
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, Status, StatusCode
        except ModuleNotFoundError as error:
            raise ConfigError(
                Reason.BAD_CONFIG, "traces are on, and OpenTelemetry is not installed", "pip install 'he-agg[otlp]'"
            ) from error
        self._provider = TracerProvider(resource=Resource.create({"service.name": "he-agg"}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("he_agg.service")
        self._server, self._internal = SpanKind.SERVER, SpanKind.INTERNAL
        self._no_parent = Context()
        self._failed = Status(StatusCode.ERROR)

    def answered(self, request: Answered) -> None:
        """Make the span of a request."""
        attributes: dict[str, str | int] = {
            "http.request.method": request.method,
            "http.route": request.route,
            "http.response.status_code": request.status,
            "http.request.body.size": request.received,
            "http.response.body.size": request.sent,
            "he_agg.request_id": request.request_id,
        }
        for name in ("federation", "member", "round_id", "reason"):
            if getattr(request, name):
                attributes[f"he_agg.{name}"] = getattr(request, name)
        name = f"{request.method} {request.route}"
        failed = request.status in (0, 500)
        self._make(name, self._server, request.began_at, request.began_at + request.seconds, attributes, failed)

    def folded(self, fold: Fold) -> None:
        """Make the span of a run of folding."""
        attributes: dict[str, str | int] = {
            "he_agg.documents.federation": fold.round_id.federation,
            "he_agg.round_id": str(fold.round_id),
            "he_agg.outcome": fold.outcome,
        }
        self._make("fold", self._internal, fold.began_at, fold.ended_at, attributes, fold.outcome == "error")

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _make(
        self, name: str, kind: Any, began: float, ended: float, attributes: dict[str, str | int], failed: bool
    ) -> None:
        # Without a parent: each span is a trace of its own.
        span = self._tracer.start_span(
            name, context=self._no_parent, kind=kind, attributes=attributes, start_time=int(began * _NANO)
        )
        if failed:
            span.set_status(self._failed)
        span.end(end_time=int(max(began, ended) * _NANO))
