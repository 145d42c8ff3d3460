"""The flow by which a holder has a sharing key for each epoch."""

from __future__ import annotations

from functools import partial

from client_sdk._effects import Flow, Report, Request, compute
from client_sdk._protocol.exchange import exchange
from client_sdk._protocol.session import MemberSession
from client_sdk.progress import Notice
from he_agg.documents.roster import Role
from he_agg.documents.sharing import SharingKey
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.errors import HeAggError, KeystoreError, Reason

__all__ = ["ensure_sharing_key"]


def ensure_sharing_key(session: MemberSession, state: FederationState) -> Flow[None]:
    """Make this member's sharing key of the federation's epoch, if it is a holder; let the keys of old epochs go.

    Never fails: what goes wrong is told, and tried again with the next state.

    Args:
        state: of the federation, verified.
    """
    if not session.plan.splits_keys or state.stage == "ended":
        return
    if session.site not in session.rosters.newest.body.having(Role.HOLDER):
        return
    try:
        if state.epoch not in session.holding.keyed:
            yield from _make(session, state)
        yield from compute(partial(_forget, session, state))
    except HeAggError as error:
        text = f"{session.site} has no sharing key for epoch {state.epoch} yet, and holds nothing: {error.message}"
        if error.reason == Reason.ALREADY_EXISTS:  # of another key, which was lost: the next epoch gives a new one
            session.holding.keyed.add(state.epoch)
            text = (
                f"{session.site} holds nothing in epoch {state.epoch}: the aggregator has another sharing key of it, "
                "which was lost here. It makes a new one when the coordinators begin the next epoch"
            )
        if text not in session.holding.told:
            session.holding.told.add(text)
            yield Report(Notice("holding", text))


def _make(session: MemberSession, state: FederationState) -> Flow[None]:
    epoch = state.epoch
    # In this order: a holder without a journal has no key, and nobody seals to a key that is not on disk.
    yield from compute(partial(_begin_journal, session, state))
    key = yield from compute(partial(session.sharing_keys.make, epoch))
    body = SharingKey(session.federation, epoch, session.site, key.public)
    signed = yield from compute(partial(Signed.make, body, session.identity.signing_key))
    request = Request(
        "PUT",
        f"/v1/federations/{session.federation}/epochs/{epoch}/sharing-keys/{session.site}",
        frozenset({200, 201}),
        body=signed.encode(),
        headers={"Content-Type": "application/json"},
    )
    yield from exchange(session.retries, request)
    session.holding.keyed.add(epoch)


def _begin_journal(session: MemberSession, state: FederationState) -> None:
    """Begin the journal of a holder that has none: with its first sharing key, or the first after it was lost.

    What was sealed to older keys may have been promised, and nobody knows for which record: these go.

    Raises:
        KeystoreError: there is a key of this epoch, so there was a journal, which is lost.
    """
    keys, promises = session.sharing_keys, session.promises
    if promises.begun:
        return
    if keys.of(state.epoch) is not None and not promises.begun:
        raise KeystoreError(
            Reason.FILE_MISSING,
            f"the journal of what it has promised is gone: {session.spool.promises_path(session.federation)}",
            "never restore an older one; this holder begins anew with the next epoch",
        )
    keys.forget_before(state.epoch)
    promises.begin(_sits_out(session, state))


def _sits_out(session: MemberSession, state: FederationState) -> int:
    """Return the newest number that may have been promised before, if this member's journal was lost."""
    before = session.chain.link(state.index)
    if state.awaited is not None:
        return state.awaited.number
    if state.open is not None:
        return state.open.number
    return before.number if before.attempt > 1 else before.number - 1


def _forget(session: MemberSession, state: FederationState) -> None:
    """Delete the keys of epochs of which no sum can come any more."""
    newest = session.chain.link(state.index).epoch
    session.sharing_keys.forget_before(newest if state.open is None else state.epoch)
