"""Make the records that travel in Flower's messages instead of a model. Neither side of it needs a key."""

from __future__ import annotations

from typing import Any

from client_sdk.adapters.base import missing_extra
from client_sdk.frameworks.claim import Carried
from he_agg.errors import ProtocolError, Reason

try:
    from flwr.app import ConfigRecord, RecordDict
except ImportError as error:
    raise missing_extra("flwr", "flower") from error

__all__ = ["RECORD", "SUMS", "carried", "carrying", "read_record"]

RECORD = "he-agg"
SUMS = "he-agg-sum-"


def carrying(what: Carried, **facts: Any) -> Any:
    """Return the record of a submission, or of a sum."""
    claims, parts = what
    return ConfigRecord({"claims": claims, "parts": parts, **facts})


def carried(record: Any) -> Carried:
    """Return the submission, or the sum, of a record."""
    return list(record["claims"]), list(record["parts"])


def read_record(content: Any, name: str, who: str) -> Any:
    """Read a record of a message."""
    if not isinstance(content, RecordDict) or name not in content.config_records:
        raise ProtocolError(
            Reason.BAD_REQUEST,
            f"{who}: expected the record {name!r} in the message, got {sorted(content) if content else 'none'}",
            "use EncryptedFedAvg in the ServerApp and EncryptedUpdates as a mod of the ClientApp, both",
        )
    return content.config_records[name]
