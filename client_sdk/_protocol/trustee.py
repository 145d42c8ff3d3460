"""The flow of a trustee: hold for every sum that awaits its holders, until the federation has ended."""

from __future__ import annotations

from client_sdk._effects import Flow, Report, Sleep, now
from client_sdk._protocol.hold import hold_awaited
from client_sdk._protocol.session import Trustee
from client_sdk._protocol.sharing_key import ensure_sharing_key
from client_sdk._protocol.state import POLL_S, federation_state, unhurried
from client_sdk.progress import Notice
from he_agg.documents.state import FederationState
from he_agg.errors import ConfigError, HeAggError, ProtocolError, Reason, TransportError

__all__ = ["hold_until_end"]

_AGAIN_S = 60.0
_PASSES = frozenset(
    {Reason.BUSY, Reason.TOO_MANY_REQUESTS, Reason.TOO_SLOW, Reason.STORAGE_FULL, Reason.INTERNAL, Reason.CLOCK_SKEW}
)
"""What is about the moment: whoever is to be there all the time tries again."""


def hold_until_end(session: Trustee) -> Flow[None]:
    """Make sharing keys, follow rosters and records, and answer, for as long as the federation lasts.

    An aggregator that is away is waited for.

    Raises:
        ProtocolError: it refused, or says what is not to be believed.
        KeystoreError: a newer roster lists another key for this trustee.
        ConfigError: a newer roster does not list it any more.
    """
    known, wait_s = None, 0
    while True:
        asked_at = yield from now()
        try:
            signed = yield from federation_state(session, wait_s, known)
            session.rosters.check_valid(session.clock())
        except (TransportError, ProtocolError, ConfigError) as error:
            if not _passes(error):
                raise
            yield Report(Notice("waiting", f"{error.message}; trying again every {_AGAIN_S:.0f} s"))
            known, wait_s = None, 0
            yield Sleep(_AGAIN_S)
            continue
        state, known, wait_s = signed.body, signed.digest, POLL_S
        if state.stage == "ended":
            return
        yield from _told(session, state)
        if (yield from hold_awaited(session, state)):
            known, wait_s = None, 0  # the waiting is done there
        yield from _told(session, state)
        yield from unhurried(asked_at)


def _passes(error: HeAggError) -> bool:
    return isinstance(error, TransportError) or error.reason in {*_PASSES, Reason.ROSTER_EXPIRED}


def _told(session: Trustee, state: FederationState) -> Flow[None]:
    """Make the sharing key that is missing; say once what is done."""
    name, done = session.site, session.holding
    yield from ensure_sharing_key(session, state)
    texts = [f"epoch {state.epoch}: the aggregator has the sharing key of {name}"] if state.epoch in done.keyed else []
    if state.awaited in done.answered:
        texts.append(f"round {state.awaited}: {name} has answered")
    for text in texts:
        if text not in done.told:
            done.told.add(text)
            yield Report(Notice("holding", text))
