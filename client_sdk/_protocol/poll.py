"""Flows that ask where the federation stands, and whether both sides mean the same key and plan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from client_sdk._effects import Flow, Request, Sleep, compute, now
from client_sdk._protocol.accept import RejectedError
from client_sdk._protocol.exchange import exchange
from client_sdk._protocol.history import follow_rosters, refusing
from client_sdk._protocol.session import Session
from client_sdk._protocol.verdicts import deliver_verdicts
from he_agg.errors import KeystoreError, PlanError, ProtocolError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.protocol.messages import CurrentRound, read

__all__ = ["POLL_S", "OpenRound", "current_round", "next_round", "open_round", "unhurried"]

POLL_S = 30
"""Longest wait that a long poll asks for: proxies commonly cut idle connections after 60 s. Units: seconds."""

_LEAST_POLL_S = 1.0
"""An aggregator that answers every long poll at once, with nothing new, is asked once a second, not in a loop."""

_STAGES = ("created", "running", "paused", "ended")


@dataclass(frozen=True)
class OpenRound:
    """A round that takes submissions, and that this site is invited to.

    Attributes:
        submitted: whether the aggregator has this site's complete submission.
        closes_at: its deadline on the driver's clock. Units: seconds.
        records: how many records the chain has before its own. While it is open there are no more.
    """

    id: RoundId
    submitted: bool
    closes_at: float
    records: int = 0


def current_round(session: Session, wait_s: int = 0, after: str | None = None) -> Flow[CurrentRound]:
    """Ask where the federation stands."""
    query = f"?wait={wait_s}" + (f"&after={after}" if after else "")
    request = Request(
        "GET",
        f"/v1/federations/{session.federation}/rounds/current{query}",
        frozenset({200}),
        wait_s=wait_s,
    )
    response = yield from exchange(session.retries, request)
    current = read(CurrentRound, response.body)
    opened = (current.round_id, current.number, current.attempt, current.remaining_s)
    whole = all(member is None for member in opened) or None not in opened
    if current.federation != session.federation or current.stage not in _STAGES or not whole:
        raise ProtocolError(
            Reason.BAD_ANSWER,
            f"expected the stage of federation {session.federation}: one of {', '.join(_STAGES)}; got another answer",
        )
    return current


def open_round(session: Session) -> Flow[OpenRound | None]:
    """Ask for the round that is open now for this site, without waiting; None if there is none.

    Raises:
        KeystoreError: the federation uses another group key.
        PlanError: the federation follows another plan.
        ProtocolError: the aggregator went back on rosters or records, or offers a roster that is not to be trusted.
        ConfigError: the roster has expired, or does not list this site any more.
    """
    yield from deliver_verdicts(session)
    seen = yield from compute(partial(len, session.chain))
    current = yield from current_round(session)
    if current.round_id is None:
        return None
    return (yield from _opened(session, current, seen, (yield from now())))


def next_round(session: Session, after: str | None) -> Flow[OpenRound | None]:
    """Wait for a round that this site is invited to.

    Returns:
        The round; None when the federation has ended.

    Raises:
        KeystoreError: the federation uses another group key.
        PlanError: the federation follows another plan.
        ProtocolError: it refused, its answer makes no sense, or it went back on rosters or records.
        ConfigError: the roster has expired, or does not list this site any more.
    """
    yield from deliver_verdicts(session)
    while True:
        asked_at = yield from now()
        seen = yield from compute(partial(len, session.chain))
        current = yield from current_round(session, POLL_S, after)
        if current.stage == "ended":
            return None
        check_agreement(session, current)
        if current.round_id is not None:
            opened = yield from _opened(session, current, seen, (yield from now()))
            if current.round_id != after and opened is not None:
                return opened
            after = current.round_id
        yield from unhurried(asked_at)


def unhurried(asked_at: float) -> Flow[None]:
    """Let at least a second pass since the last question."""
    left = asked_at + _LEAST_POLL_S - (yield from now())
    if left > 0:
        yield Sleep(left)


def check_agreement(session: Session, current: CurrentRound) -> None:
    """Check that the federation's plan, epoch and key are those of the keystore, before anything is encrypted."""
    key = session.key
    if current.plan_id != key.plan_id:
        raise PlanError(
            Reason.PLAN_MISMATCH,
            f"federation {session.federation} follows plan {current.plan_id[:12]}, "
            f"this site's keystore is for plan {key.plan_id[:12]}",
            "ask the coordinator for the keystore of the federation's plan; nothing was encrypted",
        )
    if current.epoch > key.epoch:
        raise KeystoreError(
            Reason.KEY_MISMATCH,
            f"federation {session.federation} uses group key {current.key_id[:12]} of epoch {current.epoch}, "
            f"this site's keystore holds {key.key_id[:12]} of epoch {key.epoch}",
            "run `he-agg epoch accept --config site.toml`; nothing was encrypted",
        )
    if (current.epoch, current.key_id) != (key.epoch, key.key_id):
        raise KeystoreError(
            Reason.KEY_MISMATCH,
            f"federation {session.federation} uses group key {current.key_id[:12]} of epoch {current.epoch}, "
            f"this site's keystore holds {key.key_id[:12]} of epoch {key.epoch}",
            "tell the coordinator: the aggregator uses an older epoch, or another key; nothing was encrypted",
        )


def _opened(session: Session, current: CurrentRound, seen: int, time: float) -> Flow[OpenRound | None]:
    """Make sense of an open round; None if this site is not invited."""
    check_agreement(session, current)
    try:
        round_id = RoundId.parse(current.round_id or "")
    except WireError as error:
        raise ProtocolError(Reason.BAD_ANSWER, "expected the id of the open round, got something else") from error
    stated = RoundId(session.federation, current.number or 0, current.attempt or 0)
    if round_id != stated or current.remaining_s is None or current.records < 0:
        raise ProtocolError(
            Reason.BAD_ANSWER, f"expected number, attempt and remaining time of round {round_id}, got others"
        )
    if not current.invited:
        return None
    yield from refusing(session, "chain-rejected", round_id, _not_fewer(current, seen))
    yield from refusing(session, "roster-rejected", round_id, _up_to_date(session, current))
    session.rosters.check_valid(session.clock())
    remaining_s = min(max(0, current.remaining_s), session.plan.deadline_s)
    return OpenRound(round_id, current.submitted, time + remaining_s, current.records)


def _not_fewer(current: CurrentRound, seen: int) -> Flow[None]:
    """Refuse an aggregator that takes records back."""
    yield from ()
    if current.records < seen:
        raise RejectedError(Reason.CHAIN_MISMATCH, "number of records", f"at least {seen}", current.records)


def _up_to_date(session: Session, current: CurrentRound) -> Flow[None]:
    """Follow newer rosters; an aggregator that goes back to an older one is not believed."""
    pinned = session.rosters.newest.body.version
    if current.roster_version < pinned:
        raise RejectedError(Reason.ROSTER_MISMATCH, "version of the roster", pinned, current.roster_version)
    yield from follow_rosters(session, current.roster_version)
