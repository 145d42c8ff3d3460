"""The small answers of the aggregator, as both sides know them. PROTOCOL.md (in service/) says when each is sent.

Plain dataclasses. The aggregator declares those that it does not sign as its response models.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from he_agg import canonical
from he_agg.errors import ProtocolError, Reason, WireError
from he_agg.ids import RoundId, check_name

__all__ = ["Receipt", "SubmissionState", "SubmissionStatus"]

MAX_RECEIPT_BYTES = 2**14
_TYPES = {"upload": str, "round_id": str, "state": str, "parts": int, "missing": list, "dealing_missing": bool}


class SubmissionState(StrEnum):
    """Where a submission stands, as its site is told."""

    OPEN = "open"
    COMPLETE = "complete"
    EXCLUDED = "excluded"


@dataclass(frozen=True)
class SubmissionStatus:
    """How far one submission has come.

    Attributes:
        upload: the nonce of its manifest.
        round_id: the round it belongs to.
        state: a `SubmissionState`: parts are awaited, or it is in the closed set or will be, or it is excluded.
        parts: how many parts it has.
        missing: numbers of the parts that are not stored; of a complete submission, those to be sent again because
            the aggregator's disk has damaged them.
        dealing_missing: whether its dealing is not stored; never where keys are shared.
    """

    upload: str
    round_id: str
    state: str
    parts: int
    missing: list[int]
    dealing_missing: bool = False

    @classmethod
    def parse(cls, body: bytes) -> SubmissionStatus:
        """Read an answer. Unknown members are ignored, so that an aggregator may be newer than a site."""
        try:
            value: Any = canonical.loads(body)
        except WireError as error:
            raise ProtocolError(Reason.BAD_ANSWER, f"state of a submission: {error.message}") from error
        members: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            member = value.get(field.name) if isinstance(value, dict) else None
            if type(member) is not _TYPES[field.name]:
                raise ProtocolError(Reason.BAD_ANSWER, f"state of a submission: expected its {field.name}, got none")
            members[field.name] = member
        if not all(type(number) is int for number in members["missing"]):
            raise ProtocolError(Reason.BAD_ANSWER, "state of a submission: expected numbers of parts, got others")
        return cls(**members)


@dataclass(frozen=True)
class Receipt:
    """A promise: this submission is complete. If its round is published it is in the sum; `broken_by` says all of it.

    Attributes:
        id: SHA-256 of the manifest.
        accepted_at: Units: seconds since 1970, UTC.
    """

    KIND: ClassVar[str] = "receipt"
    MAX_BYTES: ClassVar[int] = MAX_RECEIPT_BYTES

    id: str
    round_id: str
    site: str
    accepted_at: int

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"receipt of site {self.site} for round {self.round_id}"

    @property
    def author(self) -> None:
        """Any aggregator of the roster."""

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {"v": 1, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: canonical.Json) -> Receipt:
        """Read a receipt's body."""
        fields = canonical.Fields(value, "receipt")
        fields.integer("v", 1, 1)
        receipt = cls(
            fields.hex("id", 32),
            str(RoundId.parse(fields.string("round_id"))),
            check_name(fields.string("site"), "receipt.site"),
            fields.integer("accepted_at", 0, 2**40),
        )
        fields.end()
        return receipt
