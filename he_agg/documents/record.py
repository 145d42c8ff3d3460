"""Read and write a round record: the closed set of submissions behind a sum, and the sum's digests.

It is written once, when the sum is durable (or the round has failed), signed by the aggregator, and never changes. Each
record names the one before it, so whoever has seen one notices when another history is told later. The last of them is
the federation's end: it has the id of the attempt that would have opened next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from he_agg import canonical
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId, check_name
from he_agg.plan.sections import MAX_PARTS

__all__ = [
    "ENDED",
    "FAILED",
    "HOW_IT_ENDED",
    "MAX_INDEX",
    "MAX_RECORD_BYTES",
    "NO_RECORD",
    "PUBLISHED",
    "RoundRecord",
    "reason_of_end",
]

MAX_RECORD_BYTES = 16 * 2**20
NO_RECORD = "0" * 64
"""What the first record of a federation has as `previous`."""

MAX_INDEX = 2**53 - 1
PUBLISHED, FAILED, ENDED = OUTCOMES = ("published", "failed", "ended")
BY_PLAN, BY_OPERATOR = REASONS = ("rounds", "operator")
HOW_IT_ENDED = {BY_PLAN: "after the rounds of its plan", BY_OPERATOR: "by its operator"}
"""Why a federation has ended, for people."""

_MAX_MEMBERS = 10_000


def reason_of_end(number: int, rounds: int) -> str:
    """Tell why a federation has ended: for the rounds of its plan, or by its operator before them.

    Args:
        number: of the round that would have opened next.
        rounds: of the plan.
    """
    return BY_PLAN if number > rounds else BY_OPERATOR


@dataclass(frozen=True)
class RoundRecord:
    """What became of one attempt of one round, or that there are no more.

    Attributes:
        round_id: federation, round and attempt.
        index: position in the federation's chain of records, from 1.
        previous: digest of the signed record before it, 64 hex digits; `NO_RECORD` for the first.
        closed_at: when the set became final. Units: seconds since 1970, UTC.
        roster: digest of the roster under which the attempt opened, 64 hex digits.
        key_id: commitment to the group key.
        outcome: "published"; "failed" when too few sites submitted; or "ended": the attempt never opened, and nothing
            comes after.
        members: submission id by site, for every submission in the sum.
        excluded: reason by site, for every site that was invited and is not in the sum. No other site is named.
        sum_digests: SHA-256 of every part of the sum as it travels, in order; empty when failed.
        gives_up: digest of the newest published record, if its sum is given up because sites have rejected it: the same
            number is tried again. Only a failed record says so.
        reason: why the federation has ended: "rounds", those of its plan, or "operator". Only the end's record says so.
    """

    KIND: ClassVar[str] = "record"
    MAX_BYTES: ClassVar[int] = MAX_RECORD_BYTES

    round_id: RoundId
    index: int
    previous: str
    closed_at: int
    roster: str
    epoch: int
    key_id: str
    plan_id: str
    outcome: str
    members: dict[str, str]
    excluded: dict[str, str]
    sum_digests: tuple[str, ...]
    gives_up: str | None = None
    reason: str | None = None

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"record {self.index} of round {self.round_id}"

    @property
    def author(self) -> None:
        """Any aggregator of the roster."""

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {
            "v": 1,
            **self.round_id.members(),
            "index": self.index,
            "previous": self.previous,
            "closed_at": self.closed_at,
            "roster": self.roster,
            "epoch": self.epoch,
            "key_id": self.key_id,
            "plan_id": self.plan_id,
            "outcome": self.outcome,
            "members": self.members,
            "excluded": self.excluded,
            "sum": list(self.sum_digests),
            "gives_up": self.gives_up,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, value: canonical.Json) -> RoundRecord:
        """Read a record."""
        fields = canonical.Fields(value, "record")
        fields.integer("v", 1, 1)
        round_id = RoundId.of(fields, "record")
        outcome = fields.string("outcome")
        members, excluded = fields.object("members"), fields.object("excluded")
        digests = fields.array("sum", MAX_PARTS)
        record = cls(
            round_id=round_id,
            index=fields.integer("index", 1, MAX_INDEX),
            previous=fields.hex("previous", 32),
            closed_at=fields.integer("closed_at", 0, 2**40),
            roster=fields.hex("roster", 32),
            epoch=fields.integer("epoch", 1, 10**9),
            key_id=fields.hex("key_id", 32),
            plan_id=fields.hex("plan_id", 32),
            outcome=outcome,
            members=members,
            excluded=excluded,
            sum_digests=tuple(digests),
            gives_up=fields.maybe("gives_up", lambda name: fields.hex(name, 32)),
            reason=fields.maybe("reason", fields.string),
        )
        fields.end()
        if (record.index == 1) != (record.previous == NO_RECORD):
            raise WireError(Reason.BAD_FIELD, "record.previous: expected a digest, and zeros in the first record only")
        if outcome not in OUTCOMES:
            raise WireError(Reason.BAD_FIELD, f"record.outcome: expected one of {OUTCOMES}")
        if len(members) + len(excluded) > _MAX_MEMBERS or members.keys() & excluded.keys():
            raise WireError(Reason.BAD_FIELD, "record: expected each site once, as a member or as excluded")
        for site, submission_id in members.items():
            check_name(site, "record.members")
            canonical.check_hex(submission_id, 32, "record.members")
        for site, reason in excluded.items():
            check_name(site, "record.excluded")
            if not isinstance(reason, str) or len(reason) > 63:
                raise WireError(Reason.BAD_FIELD, "record.excluded: expected a short reason")
        for digest in digests:
            canonical.check_hex(digest, 32, "record.sum")
        if (outcome == PUBLISHED) != bool(digests):
            raise WireError(Reason.BAD_FIELD, "record.sum: expected digests of a published sum, and none otherwise")
        if record.gives_up is not None and outcome != FAILED:
            raise WireError(Reason.BAD_FIELD, "record.gives_up: expected null of what has not failed")
        if (outcome == ENDED) != (record.reason in REASONS) or (outcome != ENDED and record.reason is not None):
            raise WireError(Reason.BAD_FIELD, f"record.reason: expected one of {REASONS} of an end, and null otherwise")
        if outcome == ENDED and (members or excluded):
            raise WireError(Reason.BAD_FIELD, "record: expected no sites in the record of an end")
        return record
