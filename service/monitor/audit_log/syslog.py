"""Write an event as a syslog message: RFC 5424, and for streams the frames of RFC 6587 and RFC 5425."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from service.audit_events.event import AuditEvent

__all__ = ["APP_NAME", "framed", "syslog_message"]

APP_NAME = "he-agg"
_FACILITY = 13
"""Log audit."""

_SD_ID = "he-agg@32473"
"""32473 is the number that RFC 5612 keeps for whoever has none of IANA's."""

_BOM = "\ufeff"
_MOST = {"hostname": 255, "app": 48, "procid": 128, "msgid": 32}


def syslog_message(event: AuditEvent, *, host: str, process: int, sequence: int) -> bytes:
    """Return an event as one message.

    Args:
        host: name of this machine.
        process: number of this process.
        sequence: number of the event in this process, from 1: what is missing in between was lost.
    """
    priority = _FACILITY * 8 + event.kind.severity
    at = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    head = " ".join(
        (
            f"<{priority}>1",
            at,
            _header(host, "hostname"),
            _header(APP_NAME, "app"),
            _header(str(process), "procid"),
            _header(event.kind.name, "msgid"),
        )
    )
    meta = f'[meta sequenceId="{(sequence - 1) % (2**31 - 1) + 1}"]'
    return f"{head} {meta}{_structured(event.fields)} {_BOM}{event.kind.meaning}".encode()


def framed(message: bytes) -> bytes:
    """Put the length before a message, as it has to be on a stream."""
    return b"%d %b" % (len(message), message)


def _header(value: str, field: str) -> str:
    text = "".join(each for each in value if "!" <= each <= "~")
    return text[: _MOST[field]] or "-"


def _structured(fields: Mapping[str, str | int]) -> str:
    if not fields:
        return ""
    parameters = (f'{name}="{_escaped(value)}"' for name, value in fields.items())
    return f"[{_SD_ID} {' '.join(parameters)}]"


def _escaped(value: str | int) -> str:
    return "".join(f"\\{each}" if each in '"\\]' else each for each in str(value))
