"""Send events to an OpenTelemetry collector as log records, by OTLP over HTTP; needs the extra `otlp`."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from he_agg.errors import ConfigError, Reason
from service.audit_events.catalogue import Severity

if TYPE_CHECKING:
    from service.monitor.audit_log.targets import Numbered

__all__ = ["OtlpTarget"]

_NANO = 10**9
_NUMBERS = {
    Severity.INFO: 9,
    Severity.NOTICE: 10,
    Severity.WARNING: 13,
    Severity.ERROR: 17,
    Severity.CRITICAL: 18,
    Severity.ALERT: 19,
}
"""Severities of OpenTelemetry, by its own table for syslog's."""


class OtlpTarget:
    """A collector.

    Args:
        endpoint: of its logs, usually https://host:4318/v1/logs. Headers, certificates and the timeout are said by the
            variables that every OpenTelemetry program reads, such as OTEL_EXPORTER_OTLP_LOGS_HEADERS.
    """

    at_most = 100

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry._logs import LogRecord, SeverityNumber
            from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
            from opentelemetry.sdk._logs import ReadableLogRecord
            from opentelemetry.sdk._logs.export import LogRecordExportResult
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        except ImportError as error:
            raise ConfigError(
                Reason.BAD_CONFIG,
                "the audit log goes to an OTLP collector, and OpenTelemetry is not installed",
                "pip install 'he-agg[otlp]'",
            ) from error
        # That it is down the sender says, once, and as JSON.
        logging.getLogger("opentelemetry.exporter.otlp.proto.http._log_exporter").disabled = True
        self._exporter: Any = OTLPLogExporter(endpoint=endpoint)
        self._success = LogRecordExportResult.SUCCESS
        resource = Resource.create(
            {"service.name": "he-agg", "host.name": socket.gethostname(), "process.pid": os.getpid()}
        )
        scope = InstrumentationScope("he_agg.audit_log")

        def record(each: Numbered) -> Any:
            sequence, event = each
            return ReadableLogRecord(
                LogRecord(
                    timestamp=int(event.at * _NANO),
                    observed_timestamp=int(event.at * _NANO),
                    severity_text=event.kind.severity.name,
                    severity_number=SeverityNumber(_NUMBERS[event.kind.severity]),
                    body=event.kind.meaning,
                    event_name=event.kind.name,
                    attributes={
                        "he_agg.sequence": sequence,
                        **{f"he_agg.{name}": value for name, value in event.fields.items()},
                    },
                ),
                resource,
                scope,
            )

        self._record = record

    def send(self, events: Sequence[Numbered]) -> None:
        """Hand events over, as one request."""
        if self._exporter.export([self._record(each) for each in events]) is not self._success:
            raise ConnectionError("the collector did not take the events")

    def close(self) -> None:
        """Let go of the connection."""
        self._exporter.shutdown()
