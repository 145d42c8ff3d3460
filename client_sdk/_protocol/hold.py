"""Flows of a holder: answer for a published record, after the checks of `holding.py`, in their order.

A holder may be killed between any two steps: what it has promised is in its journal, what it has answered is kept, and
it goes on with the same bytes. That it cannot answer is no error of whatever else this member does: it is noted, told,
and tried again when it next looks at the round.
"""

from __future__ import annotations

import contextlib
from functools import partial

from client_sdk._disk.chain import Link
from client_sdk._effects import Flow, Report, Request, compute, now
from client_sdk._protocol.accept import RejectedError
from client_sdk._protocol.collect import Accepted, accept
from client_sdk._protocol.exchange import exchange
from client_sdk._protocol.history import check_known, note, refusing
from client_sdk._protocol.holding import (
    MAX_ECHOES_BYTES,
    check_dealing,
    check_published,
    context_of,
    own_key,
    parse_echoes,
    seen_by,
    split_shares,
)
from client_sdk._protocol.round_answer import RoundAnswer, parse_answer, record_request
from client_sdk._protocol.session import MemberSession
from client_sdk._protocol.state import POLL_S, poll_s, unhurried
from client_sdk.progress import Notice, Waits
from he_agg.documents.holding import Answer, Complaint, Echo
from he_agg.documents.roster import Role
from he_agg.documents.sharing import HolderList
from he_agg.documents.signed import AnyBody, Signed
from he_agg.documents.state import FederationState
from he_agg.errors import DecryptionError, HeAggError, ProtocolError, Reason, WireError, counted
from he_agg.ids import RoundId
from he_agg.sharing.field import Elements
from he_agg.sharing.shares import BadShare, answer, open_share
from keys.receiving import ReceivingKey

__all__ = ["hold", "hold_awaited"]


def hold(session: MemberSession, accepted: Accepted, until: float | None = None) -> Flow[bool]:
    """Answer for an accepted record, if this member is one of its holders. Never fails: what goes wrong is told.

    Args:
        until: how long other holders are waited for, on the driver's clock; as long as for a result if None. Units:
            seconds.

    Returns:
        Whether the aggregator has its answer.
    """
    round_id = accepted.record.round_id
    if not session.plan.splits_keys:
        return False
    if round_id in session.holding.answered:
        return True
    if until is None:
        until = (yield from now()) + session.result_s
    try:
        done = yield from _hold(session, accepted, until)
    except RejectedError as refused:
        why = f"{refused.what}: expected {refused.expected}, got {refused.got}; see {session.log.path}"
        if (yield from _tell(session, round_id, why)):
            yield from compute(partial(note, session, "not-answered", round_id, refused))
    except HeAggError as error:
        if error.reason == Reason.SUM_NOT_READY:  # others are awaited
            yield Report(Waits(f"round {round_id}: {error.message}", str(round_id)))
        elif error.reason != Reason.SUM_GONE:  # that was settled without this holder, a while ago
            yield from _tell(session, round_id, error.message)
    else:
        if done:
            session.holding.answered.add(round_id)
        return done
    return False


def _tell(session: MemberSession, round_id: RoundId, why: str) -> Flow[bool]:
    """Tell that this member has not answered; whether it is news."""
    text = f"round {round_id}: {session.site} has not answered as a holder: {why}"
    if text in session.holding.told:
        return False
    session.holding.told.add(text)
    yield Report(Notice("holding", text, str(round_id)))
    return True


def hold_awaited(session: MemberSession, state: FederationState) -> Flow[bool]:
    """Answer for the sum that awaits its holders, if this member is one of them and has not. Never fails, as `hold`.

    Returns:
        Whether to come back soon: it has promised, and other holders have not seen the record yet.
    """
    awaited = state.awaited
    if awaited is None or not session.plan.splits_keys or awaited in session.holding.answered:
        return False
    link = yield from compute(partial(session.chain.link, state.index))
    if link.digest in session.holding.refused or not (yield from compute(partial(_is_asked, session, link))):
        return False
    try:
        answer = yield from refusing(session, "chain-rejected", awaited, _answer(session, awaited, state.index))
        entry, stored = session.spool.entry(awaited), None
        with contextlib.suppress(WireError):  # as in a site's own rounds
            stored = yield from compute(partial(session.sent, entry))
        accepted = yield from accept(session, entry, answer, stored)
    except DecryptionError as error:  # it will not be another record, however often this member looks
        session.holding.refused.add(link.digest)
        yield from _tell(session, awaited, error.message)
        return False
    except HeAggError as error:
        yield from _tell(session, awaited, error.message)
        return False
    done = yield from hold(session, accepted, (yield from now()) + POLL_S)
    return not done and session.promises.of(awaited.number) is not None


def _answer(session: MemberSession, round_id: RoundId, index: int) -> Flow[RoundAnswer]:
    """Fetch record and manifests of a round whose record this member has verified before: it remembers the digest.

    Raises:
        RejectedError: it is another one.
    """
    response = yield from exchange(session.retries, record_request(session.plan, round_id))
    try:
        answer = yield from compute(partial(parse_answer, response.body))
    except WireError as error:
        raise RejectedError(error.reason, "record", "a signed record", error.message) from error
    yield from check_known(session, index, answer.signed)
    return answer


def _hold(session: MemberSession, accepted: Accepted, until: float) -> Flow[bool]:
    record, holders = accepted.record, accepted.holders
    check_published(record)
    link = yield from compute(partial(session.chain.link, record.index))
    if not (yield from compute(partial(_is_asked, session, link))):
        return False
    digest = link.digest
    if not (yield from compute(partial(_may_answer, session, record.round_id, digest))):
        return False
    keys = session.rosters.signed_as(record.roster).body.keys_of(Role.HOLDER)
    kept = yield from compute(partial(_kept, session, record.round_id, digest))
    if kept is None:
        key = yield from compute(partial(session.sharing_keys.of, record.epoch))
        if key is None or holders is None or not own_key(holders, session.site, key.public):
            return False
        shares = yield from _open_shares(session, accepted, holders, key, digest)
        yield from compute(partial(_promise, session, record.round_id, digest))
        yield from _put(session, record.round_id, f"echoes/{session.site}", Echo(record.round_id, digest, session.site))
        yield from _await_echoes(session, holders, keys, record.round_id, digest, until)
        total = yield from compute(partial(answer, shares))
        made = Signed.make(Answer(record.round_id, digest, session.site, total), session.identity.signing_key)
        kept = made.encode()
        yield from compute(partial(session.promises.keep_answer, record.round_id, kept))
    yield from _send(session, record.round_id, f"answers/{session.site}", kept)
    return True


def _is_asked(session: MemberSession, link: Link) -> bool:
    """Tell whether this member was a holder when a record's round opened, and has the epoch's sharing key."""
    roster = session.rosters.version(link.roster_version)
    listed = roster is not None and session.site in roster.having(Role.HOLDER)
    return listed and session.sharing_keys.of(link.epoch) is not None


def _may_answer(session: MemberSession, round_id: RoundId, record: str) -> bool:
    """Tell whether a record may be promised still, or is.

    Raises:
        RejectedError: another one is promised for its number, or one that this history has not: somebody shows this
            member a second one.
    """
    promises = session.promises
    known, last = promises.of(round_id.number), promises.of(promises.newest)
    if known is not None:
        if (known.attempt, known.record) != (round_id.attempt, record):
            raise RejectedError(
                Reason.CHAIN_MISMATCH,
                f"record for number {round_id.number}, which this holder answers once",
                f"{known.record} of attempt {known.attempt}",
                f"{record} of attempt {round_id.attempt}",
            )
        return True
    if last is not None and last.record not in session.chain:
        # Its records were lost since, and it is shown others. A quorum must not answer in two histories: an update that
        # is in no sum of one may be in a sum of the other.
        what = f"history, record that this holder has promised for number {promises.newest}"
        raise RejectedError(Reason.CHAIN_MISMATCH, what, last.record, f"none of its {len(session.chain)} records")
    return promises.begun and round_id.number > promises.newest


def _kept(session: MemberSession, round_id: RoundId, record: str) -> bytes | None:
    """Return the answer that was made for a promised record, if it was made."""
    kept = session.promises.answer(round_id)
    if kept is None or session.promises.of(round_id.number) is None:
        return None
    try:
        return kept if Signed.parse(Answer, kept).body.record == record else None
    except WireError:  # a damaged file: what was in it can be made again
        return None


def _promise(session: MemberSession, round_id: RoundId, record: str) -> None:
    try:
        session.promises.make(round_id, record)
    except WireError as error:
        raise RejectedError(error.reason, "promise", "one record for a number", error.message) from error


def _open_shares(
    session: MemberSession, accepted: Accepted, holders: HolderList, key: ReceivingKey, record: str
) -> Flow[list[Elements]]:
    """Fetch this member's shares of all members' one-time keys, and check every one of them.

    Raises:
        RejectedError: the aggregator gave others, or a member has dealt badly, of which it complains.
    """
    round_id, sites = accepted.record.round_id, sorted(accepted.record.members)
    length = len(sites) * holders.holders.excerpt_bytes(holders.holders.index(session.site))
    request = Request("GET", f"/v1/rounds/{round_id}/shares", frozenset({200}), max_bytes=length)
    response = yield from exchange(session.retries, request)
    opened = yield from compute(partial(_opened, session, accepted, holders, key, response.body))
    bad = {site: share for site, share in opened.items() if isinstance(share, BadShare)}
    for site, share in bad.items():
        complaint = Complaint(round_id, record, session.site, site, share.fault, share.plaintext)
        yield from compute(partial(_note_bad, session, round_id, site, share))
        yield from _put(session, round_id, f"complaints/{session.site}.{site}", complaint)
    if bad:
        what = f"dealings of {' '.join(bad)}"
        raise RejectedError(Reason.SUM_REJECTED, what, "shares that open and are proven", "others; it has complained")
    return [share for share in opened.values() if not isinstance(share, BadShare)]


def _note_bad(session: MemberSession, round_id: RoundId, dealer: str, share: BadShare) -> None:
    noted = f"round {round_id}: dealing of {dealer}"
    if noted not in session.holding.told:
        session.holding.told.add(noted)
        facts = {"federation": session.federation, "site": session.site, "round": str(round_id)}
        session.log.note("bad-dealing", **facts, dealer=dealer, what=str(share.fault))


def _opened(
    session: MemberSession, accepted: Accepted, holders: HolderList, key: ReceivingKey, body: bytes
) -> dict[str, Elements | BadShare]:
    name, opened = session.site, {}
    excerpts = split_shares(body, holders.holders, name, sorted(accepted.record.members))
    for signed in accepted.manifests:
        excerpt = check_dealing(excerpts[signed.body.site], holders.holders, name, signed.body)
        if not isinstance(excerpt, BadShare):
            opened[signed.body.site] = open_share(excerpt, context_of(holders, signed.body), key.open)
        else:
            opened[signed.body.site] = excerpt
    return opened


def _await_echoes(
    session: MemberSession, holders: HolderList, keys: dict[str, bytes], round_id: RoundId, record: str, until: float
) -> Flow[None]:
    """Wait until so many holders have seen this very record that no other one of its number can be answered.

    Raises:
        ProtocolError: too few have.
    """
    quorum = holders.thresholds.quorum
    yield Report(Waits(f"round {round_id}: waiting for {counted(quorum, 'holder')} to see its record", str(round_id)))
    seen: frozenset[str] = frozenset()
    while True:
        asked_at = yield from now()
        wait_s = poll_s(until - asked_at)
        request = Request(
            "GET",
            f"/v1/rounds/{round_id}/echoes?wait={wait_s}",
            frozenset({200, 204}),
            max_bytes=MAX_ECHOES_BYTES,
            wait_s=wait_s,
        )
        response = yield from exchange(session.retries, request)
        if response.status == 200:
            echoes = yield from compute(partial(parse_echoes, response.body))
            seen = yield from compute(partial(seen_by, holders, keys, round_id, record, echoes))
            if len(seen) >= quorum:
                return
        if (yield from now()) > until:
            raise ProtocolError(
                Reason.SUM_NOT_READY,
                f"expected {quorum} of {len(holders.names)} holders to have seen this record, got the word of "
                f"{len(seen)}; nothing is lost",
            )
        yield from unhurried(asked_at)


def _put(session: MemberSession, round_id: RoundId, where: str, body: AnyBody) -> Flow[None]:
    signed = yield from compute(partial(Signed.make, body, session.identity.signing_key))
    yield from _send(session, round_id, where, signed.encode())


def _send(session: MemberSession, round_id: RoundId, where: str, encoded: bytes) -> Flow[None]:
    request = Request(
        "PUT",
        f"/v1/rounds/{round_id}/{where}",
        frozenset({200, 201}),
        body=encoded,
        headers={"Content-Type": "application/json"},
    )
    yield from exchange(session.retries, request)
