"""The small answers of the aggregator, as both sides know them. PROTOCOL.md (in service/) says when each is sent.

Plain dataclasses: the aggregator declares them as its response models, a site reads them with `read`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_type_hints

from he_agg import canonical
from he_agg.errors import ProtocolError, Reason, WireError
from he_agg.ids import RoundId, check_name

__all__ = ["CurrentRound", "Receipt", "SubmissionState", "SubmissionStatus", "read"]

MAX_RECEIPT_BYTES = 2**14


@dataclass(frozen=True)
class CurrentRound:
    """Where a federation stands, for one site.

    Attributes:
        stage: "created" (not started), "running", "paused" (by the operator: keep waiting), or "ended".
        epoch: number of the group key's epoch.
        key_id: commitment to the group key.
        round_id: the round that takes submissions; None while there is none.
        number: its number, from 1.
        attempt: its attempt, from 1.
        opened_at: Units: seconds since 1970, UTC.
        deadline_at: when it closes at the latest. Units: seconds since 1970, UTC.
        remaining_s: time left by the aggregator's clock. Units: seconds.
        invited: whether this site takes part.
        submitted: whether this site's submission is complete.
        last_published: id of the newest round with a sum, if there is one.
        records: how many records the federation's chain has: the index of the newest one.
        roster_version: the newest roster that the aggregator has.
    """

    federation: str
    stage: str
    epoch: int
    key_id: str
    plan_id: str
    round_id: str | None = None
    number: int | None = None
    attempt: int | None = None
    opened_at: int | None = None
    deadline_at: int | None = None
    remaining_s: int | None = None
    invited: bool = False
    submitted: bool = False
    last_published: str | None = None
    records: int = 0
    roster_version: int = 1


class SubmissionState(StrEnum):
    """Where a submission stands, as its site is told."""

    OPEN = "open"
    COMPLETE = "complete"
    EXCLUDED = "excluded"


@dataclass(frozen=True)
class SubmissionStatus:
    """How far one submission has come.

    Attributes:
        id: SHA-256 of the manifest.
        round_id: the round it belongs to.
        state: a `SubmissionState`: parts are awaited, or it is in the closed set or will be, or it is excluded.
        parts: how many parts it has.
        missing: numbers of the parts that are not stored; of a complete submission, those to be sent again because
            the aggregator's disk has damaged them.
    """

    id: str
    round_id: str
    state: str
    parts: int
    missing: list[int]


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


Message = TypeVar("Message", CurrentRound, SubmissionStatus)


def read(kind: type[Message], body: bytes) -> Message:
    """Read an answer. Unknown members are ignored, so that an aggregator may be newer than a site."""
    try:
        value: Any = canonical.loads(body)
    except WireError as error:
        raise ProtocolError(Reason.BAD_ANSWER, f"{kind.__name__}: {error.message}") from error
    hints = get_type_hints(kind)
    members = {}
    for field in dataclasses.fields(kind):
        if not isinstance(value, dict) or (field.name not in value and field.default is dataclasses.MISSING):
            raise ProtocolError(Reason.BAD_ANSWER, f"{kind.__name__}: expected a member {field.name!r}, got none")
        if field.name in value:
            member = value[field.name]
            if not _fits(member, hints[field.name]):
                raise ProtocolError(Reason.BAD_ANSWER, f"{kind.__name__}.{field.name}: got a value of another type")
            members[field.name] = member
    return kind(**members)


def _fits(member: Any, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_fits(member, option) for option in hint.__args__)
    if hint == list[int]:
        return isinstance(member, list) and all(type(item) is int for item in member)
    return type(member) is hint
