"""Flows that fetch the list of holders of a round: before this site deals to it, and once the round has a record."""

from __future__ import annotations

from functools import partial

from client_sdk._effects import Flow, Request, compute
from client_sdk._protocol.accept import RejectedError
from client_sdk._protocol.exchange import exchange
from client_sdk._protocol.history import follow_rosters
from client_sdk._protocol.session import MemberSession, Session
from he_agg.documents.record import RoundRecord
from he_agg.documents.roster import Roster
from he_agg.documents.sharing import MAX_HOLDER_LIST_BYTES, HolderList
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError, counted
from he_agg.ids import RoundId

__all__ = ["list_to_deal_to", "round_holders"]


def round_holders(session: MemberSession, record: RoundRecord) -> Flow[HolderList]:
    """Fetch the list of holders that a round has gone by.

    Raises:
        RejectedError: it is not of the roster that the round opened under.
    """
    roster = session.rosters.signed_as(record.roster)
    known = session.holding.lists.get(record.round_id)
    if known is not None and (known.roster, known.epoch) == (roster.body_digest, record.epoch):
        return known  # what this site has dealt to; who has dealt to another list is found out by its digest
    body = yield from _fetch(session, record.round_id)
    return (yield from compute(partial(_parse, body, roster, record.epoch)))


def list_to_deal_to(session: Session, round_id: RoundId, epoch: int, records: int) -> Flow[HolderList]:
    """Fetch the list of holders of an open round, and note that this site deals to it and to no other for its number.

    It is of the roster that the round opened under, which may be older than the newest, but not older than the last
    record's: the record that it will have must not go back either.

    Args:
        records: how many records the chain has before the round's own.

    Raises:
        RejectedError: not a list that anything may be dealt to.
    """
    body = yield from _fetch(session, round_id)
    try:
        named = yield from compute(partial(HolderList.roster_of, body))
        if session.rosters.named(named) is None:
            yield from follow_rosters(session)
        roster = session.rosters.signed_as(named)
    except WireError as error:
        raise RejectedError(error.reason, "holders, roster", "one that this site trusts", error.message) from error
    before = yield from compute(partial(session.chain.link, records))
    if roster.body.version < before.roster_version:
        what = "holders, version of the roster"
        raise RejectedError(Reason.ROSTER_MISMATCH, what, f"at least {before.roster_version}", roster.body.version)
    holders = yield from compute(partial(_parse, body, roster, epoch))
    if not holders.is_ready:
        wanted = f"of {counted(holders.thresholds.quorum, 'holder')} at least"
        raise RejectedError(Reason.BAD_ANSWER, "holders, sharing keys", wanted, f"of {len(holders.keys)}")
    if not (yield from compute(partial(session.dealt.pin, round_id.number, roster.body))):
        what = f"holders of round number {round_id.number}"
        raise RejectedError(
            Reason.ROSTER_MISMATCH,
            what,
            "those that this site has dealt to in an attempt before",
            f"{' '.join(holders.names)}, quorum {holders.thresholds.quorum}, threshold {holders.thresholds.threshold}",
        )
    session.holding.lists.clear()
    session.holding.lists[round_id] = holders
    return holders


def _fetch(session: MemberSession, round_id: RoundId) -> Flow[bytes]:
    request = Request("GET", f"/v1/rounds/{round_id}/holders", frozenset({200}), max_bytes=MAX_HOLDER_LIST_BYTES)
    return (yield from exchange(session.retries, request)).body


def _parse(body: bytes, roster: Signed[Roster], epoch: int) -> HolderList:
    try:
        return HolderList.parse(body, roster, epoch)
    except WireError as error:
        raise RejectedError(
            error.reason, "holders of the round", f"those of version {roster.body.version}", error.message
        ) from error
