"""Read and write what a holder says about a published record: an echo, an answer, a complaint.

An *echo* says which record it is that a holder has seen for a round's number; it says so of one record only. An
*answer* is the sum of its shares over that record's members, given once enough holders have echoed the very same
record. A *complaint* says that a member's dealing was bad: the holder then neither echoes nor answers.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import ClassVar

from he_agg import canonical
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId, check_name
from he_agg.sharing.shares import ANSWER_BYTES, Fault

__all__ = ["MAX_ANSWER_BYTES", "MAX_COMPLAINT_BYTES", "MAX_ECHO_BYTES", "Answer", "Complaint", "Echo"]

MAX_ECHO_BYTES = 2**12
MAX_ANSWER_BYTES = 2**14
MAX_COMPLAINT_BYTES = 2**14


@dataclass(frozen=True)
class Echo:
    """A holder's word that this is the one record of a round's number that it will ever answer.

    Attributes:
        record: digest of the signed record, 64 hex digits.
    """

    KIND: ClassVar[str] = "echo"
    MAX_BYTES: ClassVar[int] = MAX_ECHO_BYTES

    round_id: RoundId
    record: str
    holder: str

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"echo of holder {self.holder} for round {self.round_id}"

    @property
    def author(self) -> str:
        """Its holder."""
        return self.holder

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {"v": 1, **self.round_id.members(), "record": self.record, "holder": self.holder}

    @classmethod
    def from_json(cls, value: canonical.Json) -> Echo:
        """Read an echo."""
        fields = canonical.Fields(value, "echo")
        echo = cls(*_about(fields, "echo"))
        fields.end()
        return echo


@dataclass(frozen=True)
class Answer:
    """A holder's share of the sum of one-time keys of a record's members.

    Attributes:
        record: digest of the signed record, 64 hex digits.
        shares: the sum, as `he_agg.sharing.shares.answer` made it. 4096 bytes.
    """

    KIND: ClassVar[str] = "answer"
    MAX_BYTES: ClassVar[int] = MAX_ANSWER_BYTES

    round_id: RoundId
    record: str
    holder: str
    shares: bytes = field(repr=False)

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"answer of holder {self.holder} for round {self.round_id}"

    @property
    def author(self) -> str:
        """Its holder."""
        return self.holder

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {
            "v": 1,
            **self.round_id.members(),
            "record": self.record,
            "holder": self.holder,
            "shares": base64.b64encode(self.shares).decode(),
        }

    @classmethod
    def from_json(cls, value: canonical.Json) -> Answer:
        """Read an answer. Whether its numbers are any is seen when it is used."""
        fields = canonical.Fields(value, "answer")
        about = _about(fields, "answer")
        shares = canonical.from_base64(fields.string("shares", MAX_ANSWER_BYTES), "answer.shares")
        fields.end()
        if len(shares) != ANSWER_BYTES:
            raise WireError(Reason.BAD_FIELD, f"answer.shares: expected {ANSWER_BYTES} bytes, got {len(shares)}")
        return cls(*about, shares)


@dataclass(frozen=True)
class Complaint:
    """A holder's word that a member's dealing was bad for it.

    Attributes:
        record: digest of the signed record whose member it is, 64 hex digits.
        dealer: the member.
        fault: what is wrong, see `he_agg.sharing.shares`.
        plaintext: of the share, if it was what the dealer had committed to: it convicts, whoever looks.
    """

    KIND: ClassVar[str] = "complaint"
    MAX_BYTES: ClassVar[int] = MAX_COMPLAINT_BYTES

    round_id: RoundId
    record: str
    holder: str
    dealer: str
    fault: Fault
    plaintext: bytes | None = field(repr=False, default=None)

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"complaint of holder {self.holder} of {self.dealer} in round {self.round_id}"

    @property
    def author(self) -> str:
        """Its holder."""
        return self.holder

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {
            "v": 1,
            **self.round_id.members(),
            "record": self.record,
            "holder": self.holder,
            "dealer": self.dealer,
            "fault": self.fault.value,
            "plaintext": None if self.plaintext is None else base64.b64encode(self.plaintext).decode(),
        }

    @classmethod
    def from_json(cls, value: canonical.Json) -> Complaint:
        """Read a complaint."""
        fields = canonical.Fields(value, "complaint")
        about = _about(fields, "complaint")
        dealer, fault = check_name(fields.string("dealer"), "complaint.dealer"), fields.string("fault", 63)
        plaintext = fields.maybe(
            "plaintext",
            lambda name: canonical.from_base64(fields.string(name, MAX_COMPLAINT_BYTES), "complaint.plaintext"),
        )
        fields.end()
        if fault not in tuple(Fault):
            raise WireError(Reason.BAD_FIELD, f"complaint.fault: expected one of {', '.join(Fault)}")
        if (fault == Fault.OPENED) != (plaintext is not None):
            raise WireError(Reason.BAD_FIELD, "complaint.plaintext: expected what was opened, and null otherwise")
        return cls(*about, dealer, Fault(fault), plaintext)


def _about(fields: canonical.Fields, what: str) -> tuple[RoundId, str, str]:
    fields.integer("v", 1, 1)
    round_id, record = RoundId.of(fields, what), fields.hex("record", 32)
    return round_id, record, check_name(fields.string("holder"), f"{what}.holder")
