"""Read and write a federation's state: where it stands, the same for every member, signed by an aggregator.

It is made anew whenever something in it changes. What a site believes of it is what its chain of records, and the
rosters that coordinators have signed, agree with: the end is a record, and the state only leads to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from he_agg import canonical
from he_agg.documents.record import MAX_INDEX, NO_RECORD
from he_agg.errors import Reason, WireError
from he_agg.ids import MAX_NUMBER, RoundId, check_name

__all__ = ["STAGES", "FederationState", "OpenAttempt"]

STAGES = ("created", "running", "paused", "ended")
_MAX_SITES = 10_000


@dataclass(frozen=True)
class OpenAttempt:
    """The attempt that takes submissions.

    Attributes:
        number: of the round, from 1.
        opened_at: Units: seconds since 1970, UTC.
        deadline_at: when it closes at the latest. Units: seconds since 1970, UTC.
        invited: the sites that take part, sorted.
    """

    number: int
    attempt: int
    opened_at: int
    deadline_at: int
    invited: tuple[str, ...]

    def to_json(self) -> canonical.Json:
        """Return it as a JSON value."""
        return {
            "round": self.number,
            "attempt": self.attempt,
            "opened_at": self.opened_at,
            "deadline_at": self.deadline_at,
            "invited": list(self.invited),
        }

    @classmethod
    def from_json(cls, value: canonical.Json) -> OpenAttempt:
        """Read what `to_json` wrote."""
        fields = canonical.Fields(value, "state.open")
        opened = cls(
            number=fields.integer("round", 1, MAX_NUMBER),
            attempt=fields.integer("attempt", 1, MAX_NUMBER),
            opened_at=fields.integer("opened_at", 0, 2**40),
            deadline_at=fields.integer("deadline_at", 0, 2**40),
            invited=tuple(check_name(name, "state.open.invited") for name in fields.array("invited", _MAX_SITES)),
        )
        fields.end()
        if list(opened.invited) != sorted(set(opened.invited)):
            raise WireError(Reason.BAD_FIELD, "state.open.invited: expected each site once, sorted")
        return opened


@dataclass(frozen=True)
class FederationState:
    """Where a federation stands.

    Attributes:
        stage: "created" (not started), "running", "paused" (by the operator: deadlines stand still) or "ended".
        epoch: number of the group key's epoch.
        key_id: commitment to the group key, 64 hex digits.
        roster: digest of the newest roster, 64 hex digits.
        index: of the newest record; 0 while there is none.
        head: digest of the newest record; `NO_RECORD` while there is none.
        open: the attempt that takes submissions; None while there is none.
        disputed: the attempt of the newest sum, if a site has rejected it before enough had opened it.
        awaited: the published attempt whose holders have not answered yet, where keys are split: nothing opens before.
    """

    KIND: ClassVar[str] = "state"
    MAX_BYTES: ClassVar[int] = 2**20

    federation: str
    stage: str
    plan_id: str
    epoch: int
    key_id: str
    roster: str
    roster_version: int
    index: int
    head: str
    open: OpenAttempt | None = None
    disputed: RoundId | None = None
    awaited: RoundId | None = None

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"state of federation {self.federation}"

    @property
    def author(self) -> None:
        """Any aggregator of the roster."""

    @property
    def round_id(self) -> RoundId | None:
        """Id of the attempt that takes submissions; None while there is none."""
        return None if self.open is None else RoundId(self.federation, self.open.number, self.open.attempt)

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {
            "v": 1,
            "federation": self.federation,
            "stage": self.stage,
            "plan_id": self.plan_id,
            "epoch": self.epoch,
            "key_id": self.key_id,
            "roster": self.roster,
            "roster_version": self.roster_version,
            "index": self.index,
            "head": self.head,
            "open": None if self.open is None else self.open.to_json(),
            "disputed": _attempt(self.disputed),
            "awaited": _attempt(self.awaited),
        }

    @classmethod
    def from_json(cls, value: canonical.Json) -> FederationState:
        """Read a state."""
        fields = canonical.Fields(value, "state")
        fields.integer("v", 1, 1)
        federation = check_name(fields.string("federation"), "state.federation")
        state = cls(
            federation=federation,
            stage=fields.string("stage"),
            plan_id=fields.hex("plan_id", 32),
            epoch=fields.integer("epoch", 1, 10**9),
            key_id=fields.hex("key_id", 32),
            roster=fields.hex("roster", 32),
            roster_version=fields.integer("roster_version", 1, 10**9),
            index=fields.integer("index", 0, MAX_INDEX),
            head=fields.hex("head", 32),
            open=fields.maybe("open", lambda name: OpenAttempt.from_json(fields.object(name))),
            disputed=fields.maybe("disputed", lambda name: _round(federation, fields.object(name), name)),
            awaited=fields.maybe("awaited", lambda name: _round(federation, fields.object(name), name)),
        )
        fields.end()
        if state.stage not in STAGES:
            raise WireError(Reason.BAD_FIELD, f"state.stage: expected one of {STAGES}")
        if (state.index == 0) != (state.head == NO_RECORD):
            raise WireError(Reason.BAD_FIELD, "state.head: expected a digest, and zeros while there is no record only")
        if state.open is not None and state.stage != "running":
            raise WireError(Reason.BAD_FIELD, "state.open: expected null of a federation that does not run")
        if state.awaited is not None and (state.open is not None or state.stage == "ended"):
            raise WireError(Reason.BAD_FIELD, "state.awaited: expected null while a round is open, and after the end")
        return state


def _attempt(round_id: RoundId | None) -> canonical.Json:
    return None if round_id is None else {"round": round_id.number, "attempt": round_id.attempt}


def _round(federation: str, value: canonical.Json, what: str) -> RoundId:
    fields = canonical.Fields(value, f"state.{what}")
    number, attempt = fields.integer("round", 1, MAX_NUMBER), fields.integer("attempt", 1, MAX_NUMBER)
    fields.end()
    return RoundId(federation, number, attempt)
