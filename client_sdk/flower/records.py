"""Make the records that travel in Flower's messages instead of a model. Neither side of it needs a key."""

from __future__ import annotations

from typing import Any

from client_sdk.adapters.base import missing_extra
from he_agg.errors import PlanError, ProtocolError, Reason
from he_agg.plan.plan import PublicPlan

try:
    from flwr.app import ConfigRecord, RecordDict
except ImportError as error:
    raise missing_extra("flwr", "flower") from error

__all__ = ["RECORD", "check_shared", "read_record", "sum_record", "update_record"]

RECORD = "he-agg"
SUMS = "he-agg-sum-"


def update_record(number: int, parts: list[bytes]) -> Any:
    """Return a client's encrypted update for a round."""
    return ConfigRecord({"round": number, "parts": parts})


def sum_record(n_sites: int, parts: list[bytes]) -> Any:
    """Return the encrypted sum of a round."""
    return ConfigRecord({"n_sites": n_sites, "parts": parts})


def check_shared(plan: PublicPlan) -> None:
    """Refuse a plan that splits keys.

    Raises:
        PlanError: it does: nobody in a run of Flower holds shares.
    """
    if plan.splits_keys:
        raise PlanError(
            Reason.BAD_PLAN,
            "keys: in a run of Flower there are no holders, so expected a plan that shares keys, got one that splits "
            "them",
            "make a plan with `he-agg plan new` and `--keys shared`, or run an he-agg aggregator",
        )


def read_record(content: Any, name: str, who: str) -> Any:
    """Read a record of a message."""
    if not isinstance(content, RecordDict) or name not in content.config_records:
        raise ProtocolError(
            Reason.BAD_REQUEST,
            f"{who}: expected the record {name!r} in the message, got {sorted(content) if content else 'none'}",
            "use EncryptedFedAvg in the ServerApp and EncryptedUpdates as a mod of the ClientApp, both",
        )
    return content.config_records[name]
