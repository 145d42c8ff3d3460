"""Write and read the records that NVFlare's shareables carry instead of a model. Neither side of it needs a key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client_sdk.adapters.base import missing_extra
from client_sdk.frameworks.claim import Carried
from he_agg.errors import ConfigError, ProtocolError, Reason

try:
    from nvflare.apis.dxo import DXO
    from nvflare.apis.shareable import ReservedHeaderKey
except ImportError as error:
    raise missing_extra("nvflare", "nvflare") from error

__all__ = ["DELIVERY", "PRESENCE", "RECORD", "Task", "bare", "carried", "carrying", "found", "record_of"]

RECORD = "he-agg"
"""Where our record lies in a shareable, and in a server's model."""

DELIVERY = "he-agg.last-sum"
"""Topic of the message that brings the last sum: no task follows it."""

PRESENCE = "he-agg.presence"
"""Topic of the question before it, whether a site is still in the job."""


def carrying(what: Carried) -> dict[str, Any]:
    """Return the record of a submission, or of a sum."""
    claims, parts = what
    return {"claims": list(claims), "parts": list(parts)}


def carried(record: Any) -> Carried:
    """Return the submission, or the sum, of a record.

    Raises:
        ProtocolError: it is none.
    """
    claims, parts = (record.get(name) if isinstance(record, dict) else None for name in ("claims", "parts"))
    if not all(isinstance(some, list) and all(isinstance(one, bytes) for one in some) for some in (claims, parts)):
        raise ProtocolError(Reason.BAD_REQUEST, "expected lists of bytes as claims and parts, got something else")
    return claims, parts  # type: ignore[return-value]


def record_of(shareable: Any, who: str) -> dict[str, Any]:
    """Read our record of a shareable.

    Raises:
        ProtocolError: there is none.
    """
    record = shareable.get(RECORD)
    if not isinstance(record, dict):
        raise ProtocolError(
            Reason.BAD_REQUEST,
            f"{who}: expected the record {RECORD!r}, got none",
            "the job needs SumAggregator and SumShareableGenerator on the server, and ModelDecryptor and "
            "ModelEncryptor among the filters of the clients' task",
        )
    return record


@dataclass(frozen=True)
class Task:
    """What a task says beside the initial weights.

    Attributes:
        run: id of the run.
        round: the round that the task is for.
        last_sum: the newest round that has a sum.
        sums: of rounds that a site may lack.
    """

    run: str
    round: int
    last_sum: int
    sums: dict[int, Carried]

    @classmethod
    def of(cls, shareable: Any) -> Task:
        """Read a task's record.

        Raises:
            ProtocolError: there is none, or another one.
        """
        record = record_of(shareable, "task data")
        run, number, last, sums = (record.get(name) for name in ("run", "round", "last_sum", "sums"))
        if not (isinstance(run, str) and isinstance(number, int) and isinstance(last, int) and isinstance(sums, dict)):
            raise ProtocolError(Reason.BAD_REQUEST, "task data: expected a run, its round and sums, got something else")
        return cls(run, number, last, {int(n): carried(some) for n, some in sums.items() if str(n).isdecimal()})


def bare(shareable: Any, dxo: DXO) -> Any:
    """Leave nothing in a shareable but its headers and a DXO."""
    for key in [key for key in shareable if key != ReservedHeaderKey.HEADERS]:
        del shareable[key]
    return dxo.update_shareable(shareable)


def found(name: str, fl_ctx: Any) -> Path:
    """Find a file that a job names: a path as it is, else by its name in this machine's `local` folder of NVFlare.

    Raises:
        ConfigError: there is none.
    """
    path = Path(name)
    if not path.is_absolute():
        path = Path(fl_ctx.get_engine().get_workspace().get_site_config_dir()) / name
    if not path.is_file():
        raise ConfigError(
            Reason.FILE_MISSING,
            f"{path}: expected the file that the job names {name!r}, got none",
            "put it there: sites their keystore, the server the federation document; or name a whole path in the job",
        )
    return path
