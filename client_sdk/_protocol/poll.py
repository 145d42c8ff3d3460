"""Flows that find the round that is open for this site, and see that both sides mean the same key and plan.

Meanwhile the site does a holder's work, if it is one: a sharing key for the epoch, and an answer for a sum that awaits
it, whether the site is in that sum or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil

from client_sdk._effects import Flow, Report, Sleep, compute, now
from client_sdk._protocol.accept import RejectedError, check_due
from client_sdk._protocol.history import due_after, given_up, newest_sum, refusing
from client_sdk._protocol.hold import hold_awaited
from client_sdk._protocol.session import Session
from client_sdk._protocol.sharing_key import ensure_sharing_key
from client_sdk._protocol.state import POLL_S, deadline, federation_state, unhurried
from client_sdk._protocol.verdicts import deliver_verdicts
from client_sdk._protocol.waiting import Waiting
from client_sdk.progress import Notice
from he_agg.documents.draw import invited_sites
from he_agg.documents.state import FederationState
from he_agg.errors import KeystoreError, PlanError, ProtocolError, Reason
from he_agg.ids import RoundId

__all__ = [
    "OpenRound",
    "last_published",
    "next_round",
    "open_round",
    "status",
]


_LOOK_S = 1.0
"""How often a site looks whether a keystore has come. Units: seconds."""


@dataclass(frozen=True)
class OpenRound:
    """A round that takes submissions, and that this site is invited to.

    Attributes:
        closes_at: its deadline on the driver's clock. Units: seconds.
        records: how many records the chain has before its own. While it is open there are no more.
        epoch: whose group key it is under.
    """

    id: RoundId
    closes_at: float
    records: int = 0
    epoch: int = 1


def status(session: Session) -> Flow[FederationState]:
    """Ask where the federation stands, and have a sharing key there if this site is a holder.

    Raises:
        ProtocolError: see `federation_state`, as for the next two.
        KeystoreError: see there.
        ConfigError: see there.
    """
    state = (yield from federation_state(session)).body
    yield from ensure_sharing_key(session, state)
    return state


def open_round(session: Session) -> Flow[OpenRound | None]:
    """Ask for the round that is open now for this site, without waiting; None if there is none.

    Raises:
        KeystoreError: the federation uses another group key.
        PlanError: the federation follows another plan.
        ProtocolError: the aggregator went back on rosters or records, or says what is not to be believed.
        ConfigError: the roster has expired, or does not list this site any more.
    """
    yield from deliver_verdicts(session)
    state = (yield from federation_state(session)).body
    session.rosters.check_valid(session.clock())
    yield from ensure_sharing_key(session, state)
    if state.open is None:
        return None
    apart = yield from compute(partial(epochs_apart, session, state))
    if apart is not None:
        raise apart
    return (yield from _opened(session, state))


def next_round(session: Session, after: str | None) -> Flow[OpenRound | None]:
    """Wait for a round that this site is invited to, and let go of what is of no use in it.

    Args:
        after: id of the round that it has dealt with.

    Returns:
        The round; None when the federation has ended, by a record that is the last of this site's verified chain.

    Raises:
        KeystoreError: the federation uses another group key.
        PlanError: the federation follows another plan.
        ProtocolError: it refused, or says what is not to be believed.
        ConfigError: the roster has expired, or does not list this site any more.
    """
    yield from deliver_verdicts(session)
    known: str | None = None
    wait_s, apart = POLL_S, None
    waiting, until = Waiting(), (yield from now()) + session.round_s
    while True:
        asked_at = yield from now()
        if asked_at > until:
            raise apart or ProtocolError(
                Reason.NOT_INVITED,
                f"federation {session.federation}: site {session.site} was invited to no round within "
                f"{session.round_s:.0f} s",
                "ask the operator; the setting `round_s` says how long a site waits",
            )
        signed = yield from federation_state(session, min(wait_s, ceil(until - asked_at)), known)
        state, known, wait_s = signed.body, signed.digest, POLL_S
        if state.stage == "ended":
            yield from _tell_of_end(session, state)
            return None
        session.rosters.check_valid(session.clock())
        yield from ensure_sharing_key(session, state)
        if (yield from hold_awaited(session, state)):
            known, wait_s = None, 0  # the waiting is done there
        apart = yield from compute(partial(epochs_apart, session, state))
        if apart is not None:
            yield from waiting.tell("other-epoch", f"{apart.message}, and it waits: {apart.shell}")
            if state.epoch > session.key.epoch:
                known, wait_s = None, 0  # the waiting is done here
                yield from _await_keystore(session, state.epoch)
            continue
        if state.round_id is not None and str(state.round_id) != after:
            opened = yield from _opened(session, state)
            if opened is not None:
                yield from compute(partial(session.spool.prune, opened.id, session.ledger))
                return opened
        yield from _tell_of_wait(session, state, after, waiting)
        yield from unhurried(asked_at)


def last_published(session: Session) -> Flow[RoundId | None]:
    """Find the newest round with a sum, by this site's own verified records; None if there is none yet."""
    return (yield from _published_by(session, (yield from federation_state(session)).body.index))


def _published_by(session: Session, index: int) -> Flow[RoundId | None]:
    link = yield from compute(partial(session.chain.link, index))
    return (yield from refusing(session, "chain-rejected", None, newest_sum(session, link)))


def _tell_of_end(session: Session, state: FederationState) -> Flow[None]:
    last, rounds = (yield from _published_by(session, state.index)), session.plan.rounds
    done = 0 if last is None else last.number
    if done < rounds:
        text = f"federation {session.federation} has ended early, after {done} of the {rounds} rounds of its plan"
        yield Report(Notice("ended-early", f"{text}: its operator has ended it"))


def _tell_of_wait(session: Session, state: FederationState, after: str | None, waiting: Waiting) -> Flow[None]:
    name, round_id = f"federation {session.federation}", None if state.round_id is None else str(state.round_id)
    if state.stage == "paused":
        yield from waiting.tell("paused", f"{name} is paused: its operator lets it rest")
    elif round_id not in (None, after):
        yield from waiting.tell("not-invited", f"site {session.site} is not invited to round {round_id}", round_id)
    else:
        yield from waiting.tell("waiting", f"{name}: no round has opened for this site yet")


def _await_keystore(session: Session, epoch: int) -> Flow[None]:
    """Look for a while whether the keystore of an epoch has come: what it waits for is done on this machine."""
    until = (yield from now()) + POLL_S
    while (yield from now()) < until and (yield from compute(session.keys.look)).epoch < epoch:
        yield Sleep(_LOOK_S)


def epochs_apart(session: Session, state: FederationState) -> KeystoreError | None:
    """Compare the federation's plan, epoch and key with those of the keystore, before anything is encrypted.

    Returns:
        What to say while one side has not entered the other's epoch yet; None where both are in one.

    Raises:
        PlanError: the federation follows another plan.
        KeystoreError: it uses another key of the same epoch.
    """
    key = session.keys.look()
    if state.plan_id != key.plan_id:
        raise PlanError(
            Reason.PLAN_MISMATCH,
            f"federation {session.federation} follows plan {state.plan_id[:12]}, "
            f"this site's keystore is for plan {key.plan_id[:12]}",
            "ask the coordinator for the keystore of the federation's plan; nothing was encrypted",
        )
    if state.epoch > key.epoch:
        return session.not_my_epoch(state.epoch)
    if state.epoch < key.epoch:
        return KeystoreError(
            Reason.NOT_MY_EPOCH,
            f"federation {session.federation} is still in epoch {state.epoch}, and the keystore of site {session.site} "
            f"is of epoch {key.epoch}: nothing is encrypted under an older key",
            "the coordinator that dealt it has to send it: `he-agg epoch publish BUNDLE --config site.toml`; if that "
            "was done, tell the coordinators",
        )
    if state.key_id != key.key_id:
        raise KeystoreError(
            Reason.KEY_MISMATCH,
            f"federation {session.federation} uses group key {state.key_id[:12]} of epoch {state.epoch}, "
            f"this site's keystore holds another of that epoch, {key.key_id[:12]}",
            "tell the coordinators, not only the operator; nothing was encrypted",
        )
    return None


def _opened(session: Session, state: FederationState) -> Flow[OpenRound | None]:
    """Return the open round; None if this site is not invited."""
    yield from refusing(session, "state-rejected", state.round_id, _check_invited(session, state))
    if state.open is None or state.round_id is None or session.site not in state.open.invited:
        return None
    closes_at = max((yield from now()), (yield from deadline(session, state.open.deadline_at)))
    return OpenRound(state.round_id, closes_at, state.index, state.epoch)


def _check_invited(session: Session, state: FederationState) -> Flow[None]:
    """Check that an open attempt is the one that is due, and invites the sites that it has to, whether this one or not.

    It may have opened under an older roster than the newest, but under none before the last record's.
    """
    if state.open is None or state.round_id is None:
        return
    before = yield from compute(partial(session.chain.link, state.index))
    again = yield from given_up(session, before)
    rosters = session.rosters.since(before.roster_version)
    opened_as = state.round_id.number, state.round_id.attempt
    possible = [signed for signed in rosters if due_after(session, before, signed.body) == opened_as]
    if not possible:
        check_due("state", due_after(session, before, session.rosters.newest.body), state.round_id)
    for signed in possible:
        drawn = invited_sites(session.plan, signed.body, signed.body_digest, state.round_id, before.counted, again)
        if drawn == frozenset(state.open.invited):
            return
    raise RejectedError(
        Reason.BAD_ANSWER, "state, invited sites", "those of a roster, or drawn of them", " ".join(state.open.invited)
    )
