"""Flows that ask where the federation stands, and believe what fits what this member has verified.

What a member acts on is signed by an aggregator of its roster and fits the records that it has verified. Everything
else that an aggregator says can only make it ask again.
"""

from __future__ import annotations

from functools import partial
from math import ceil

from client_sdk._disk.chain import Link
from client_sdk._effects import Flow, Report, Request, Sleep, compute, now
from client_sdk._protocol.accept import RejectedError, check_epoch, signers
from client_sdk._protocol.exchange import exchange
from client_sdk._protocol.history import catch_up, follow_rosters, newest_sum, record_at, refusing
from client_sdk._protocol.session import MemberSession
from client_sdk.progress import Notice
from he_agg.documents.record import PUBLISHED
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.errors import Reason, WireError

__all__ = ["POLL_S", "deadline", "federation_state", "poll_s", "unhurried"]

POLL_S = 30
"""Longest wait that a long poll asks for: proxies commonly cut idle connections after 60 s. Units: seconds."""

_LEAST_POLL_S = 1.0
"""An aggregator that answers every long poll at once, with nothing new, is asked once a second, not in a loop."""


def poll_s(left_s: float) -> int:
    """Return how long a long poll may wait where so much time is left. Units: seconds."""
    return max(0, min(POLL_S, ceil(left_s)))


def federation_state(
    session: MemberSession, wait_s: int = 0, after: str | None = None
) -> Flow[Signed[FederationState]]:
    """Ask where the federation stands, and believe what rosters and records agree with.

    Args:
        after: digest of the state that is known: the aggregator waits for another one.

    Raises:
        ProtocolError: the state is not to be believed, or the aggregator went back on rosters or records.
        KeystoreError: a newer roster lists another key for this site.
        ConfigError: a newer roster does not list this site any more.
    """
    query = f"?wait={wait_s}" + (f"&after={after}" if after else "")
    request = Request(
        "GET",
        f"/v1/federations/{session.federation}/state{query}",
        frozenset({200}),
        max_bytes=FederationState.MAX_BYTES,
        wait_s=wait_s,
    )
    # Before asking: what another thread learns meanwhile, the answer need not know.
    seen = yield from compute(partial(len, session.chain))
    pinned = session.rosters.newest.body.version
    response = yield from exchange(session.retries, request)
    signed = yield from refusing(session, "state-rejected", None, _parsed(session, response.body))
    roster = yield from refusing(session, "roster-rejected", None, _roster_of(session, signed.body, pinned))
    yield from refusing(session, "state-rejected", None, _check_signed(signed, roster.keys_of(Role.AGGREGATOR)))
    yield from refusing(session, "chain-rejected", None, _check_chain(session, signed.body, seen))
    newest = yield from compute(partial(session.chain.link, signed.body.index))
    yield from refusing(session, "state-rejected", None, _check_by_records(session, signed.body, newest))
    yield from _tell_of_dispute(session, signed.body)
    return signed


def deadline(session: MemberSession, deadline_at: int) -> Flow[float]:
    """Return a deadline on the driver's clock: never later than a whole round of the plan from now; it may be past."""
    left = min(deadline_at - session.clock(), session.plan.deadline_s)
    return (yield from now()) + left


def unhurried(asked_at: float) -> Flow[None]:
    """Let at least a second pass since the last question."""
    left = asked_at + _LEAST_POLL_S - (yield from now())
    if left > 0:
        yield Sleep(left)


def _tell_of_dispute(session: MemberSession, state: FederationState) -> Flow[None]:
    """Tell, once for each, of a sum that a site has rejected before enough others had opened it."""
    if state.disputed is None or state.disputed in session.disputes:
        return
    session.disputes.add(state.disputed)
    text = f"round {state.disputed} is disputed: a site has rejected its sum, and too few have opened it so far"
    yield Report(Notice("disputed", text, str(state.disputed)))


def _parsed(session: MemberSession, body: bytes) -> Flow[Signed[FederationState]]:
    try:
        signed = yield from compute(partial(Signed.parse, FederationState, body))
    except WireError as error:
        raise RejectedError(Reason.BAD_ANSWER, "state", "a signed state", error.message) from error
    if signed.body.federation != session.federation:
        raise RejectedError(Reason.BAD_ANSWER, "state, federation", session.federation, signed.body.federation)
    return signed


def _roster_of(session: MemberSession, state: FederationState, pinned: int) -> Flow[Roster]:
    """Follow newer rosters, which coordinators have signed; who goes back to an older one is not believed."""
    if state.roster_version < pinned:
        raise RejectedError(Reason.ROSTER_MISMATCH, "version of the roster", pinned, state.roster_version)
    yield from follow_rosters(session, state.roster_version)
    roster = session.rosters.named(state.roster)
    if roster is None or roster.version != state.roster_version:
        raise RejectedError(Reason.ROSTER_MISMATCH, "state, roster", "one that this site trusts", state.roster)
    return roster


def _check_signed(signed: Signed[FederationState], keys: dict[str, bytes]) -> Flow[None]:
    try:
        yield from compute(partial(signed.check_signed, keys))
    except WireError as error:
        expected = f"of {' or '.join(sorted(keys))}"
        raise RejectedError(error.reason, "state, signature", expected, signers(signed)) from error


def _check_chain(session: MemberSession, state: FederationState, seen: int) -> Flow[None]:
    """Refuse an aggregator that takes records back; catch up with the newest one, which must be the state's."""
    if state.index < seen:
        raise RejectedError(Reason.CHAIN_MISMATCH, "number of records", f"at least {seen}", state.index)
    yield from catch_up(session, state.index)
    head = yield from compute(partial(session.chain.head, state.index))
    if state.head != head:
        raise RejectedError(Reason.CHAIN_MISMATCH, f"state, digest of record {state.index}", head, state.head)
    check_epoch((yield from compute(partial(session.chain.link, state.index))).epoch, "state", state.epoch)


def _check_by_records(session: MemberSession, state: FederationState, newest: Link) -> Flow[None]:
    """Refuse an end that is no record, and other sums as awaited or disputed than the newest."""
    if (state.stage == "ended") != newest.ended:
        wanted = "ended, as its last record says" if newest.ended else "not ended, since no record says so"
        raise RejectedError(Reason.CHAIN_MISMATCH, "state, stage", wanted, state.stage)
    if state.awaited is not None:
        last = (yield from record_at(session, state.index)).body if state.index else None
        published = last is not None and last.outcome == PUBLISHED and session.plan.splits_keys
        due = last.round_id if last is not None and published else "none"
        if state.awaited != due:
            raise RejectedError(Reason.CHAIN_MISMATCH, "state, awaited", due, state.awaited)
    if state.disputed is None:
        return
    disputable = yield from newest_sum(session, newest)
    if state.disputed != disputable:
        raise RejectedError(Reason.CHAIN_MISMATCH, "state, disputed", disputable or "none", state.disputed)
