"""Flows that keep up with a federation's own documents: newer rosters, and records that this site has not seen yet."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

from client_sdk._disk.chain import Link
from client_sdk._disk.ledger import Fate
from client_sdk._effects import Flow, Report, Request, compute
from client_sdk._protocol.accept import (
    RejectedError,
    check_due,
    check_end,
    check_epoch,
    check_follows,
    check_invited,
    check_record_signature,
)
from client_sdk._protocol.exchange import exchange
from client_sdk._protocol.rosters import fetch_roster
from client_sdk._protocol.session import MemberSession
from client_sdk.progress import Notice
from he_agg.audit.evidence import BrokenReceipt, broken_by, encode_evidence
from he_agg.documents.draw import last_counted
from he_agg.documents.record import ENDED, MAX_RECORD_BYTES, PUBLISHED, RoundRecord
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.errors import ProtocolError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.protocol.messages import Receipt

__all__ = [
    "catch_up",
    "check_known",
    "check_record",
    "due_after",
    "follow_rosters",
    "given_up",
    "know_roster",
    "newest_sum",
    "record_at",
    "refusing",
    "take_record",
]

T = TypeVar("T")


def refusing(session: MemberSession, event: str, round_id: RoundId | None, flow: Flow[T]) -> Flow[T]:
    """Run a flow; what it must not believe goes into the security log and becomes an error for the caller.

    This is for documents, which anybody may see. What a sum was refused for nobody is told (`_collect.py`).

    Raises:
        ProtocolError: what came must not be believed.
    """
    try:
        return (yield from flow)
    except RejectedError as refused:
        yield from compute(partial(note, session, event, round_id, refused))
        about = "" if round_id is None else f"round {round_id}: "
        got = "" if refused.got is None else f", got {refused.got[:80]}"
        wanted = "" if refused.expected is None else f": expected {refused.expected[:80]}"
        raise ProtocolError(
            refused.reason,
            f"{about}{refused.what}{wanted}{got}",
            f"nothing was encrypted or opened; tell the coordinator, not only the operator; see {session.log.path}",
        ) from refused


def note(session: MemberSession, event: str, round_id: RoundId | None, refused: RejectedError) -> None:
    """Write what was refused to the security log."""
    session.log.note(
        event,
        federation=session.federation,
        site=session.site,
        round=None if round_id is None else str(round_id),
        reason=str(refused.reason),
        what=refused.what,
        expected=refused.expected,
        got=refused.got,
    )


def follow_rosters(session: MemberSession, version: int | None = None) -> Flow[None]:
    """Fetch rosters newer than the pinned one, one after the other, and trust those that chain to it.

    Args:
        version: the newest, if known; else that is asked for.

    Raises:
        RejectedError: what the aggregator gave does not follow the pinned roster.
        KeystoreError: a new roster lists another key for this site.
        ConfigError: it does not list this site any more, or the pinned file cannot be replaced.
    """
    wanted: int | Literal["newest"] = "newest"
    try:
        if version is None:
            version = (yield from fetch_roster(session.retries, session.federation, wanted)).body.version
        while (before := session.rosters.newest.body).version < version:
            wanted = before.version + 1
            signed = yield from fetch_roster(session.retries, session.federation, wanted)
            yield from compute(partial(session.rosters.follow, signed))
            yield from _see_change(session, before, signed)
    except WireError as error:
        raise RejectedError(
            error.reason, f"version {wanted} of the roster", "one that follows the pinned one", error.message
        ) from error


def _see_change(session: MemberSession, before: Roster, signed: Signed[Roster]) -> Flow[None]:
    """Look at what a new version changes for this site."""
    session.rosters.check_own(signed)
    if signed.body.small_groups and not before.small_groups:
        # Enough coordinators have signed it, but nobody at this site has seen it.
        facts = {"federation": session.federation, "site": session.site, "what": signed.body.smallest_group}
        yield from compute(partial(session.log.note, "small-groups-allowed", **facts))


def know_roster(session: MemberSession, record: RoundRecord) -> Flow[None]:
    """Look for a newer roster if the record names one that this site does not know."""
    if session.rosters.named(record.roster) is None:
        yield from follow_rosters(session)


def catch_up(session: MemberSession, until: int) -> Flow[None]:
    """Fetch and verify the records that this site has not seen yet.

    Raises:
        RejectedError: one does not follow the one before, or no aggregator has signed it.
    """
    while (seen := (yield from compute(partial(len, session.chain)))) < until:
        signed = yield from _record(session, seen + 1)
        if signed.body.round_id.federation != session.federation:
            raise RejectedError(
                Reason.CHAIN_MISMATCH,
                f"record {seen + 1}, federation",
                session.federation,
                signed.body.round_id.federation,
            )
        yield from check_record(session, signed)
        if signed.body.index != seen + 1:
            raise RejectedError(Reason.CHAIN_MISMATCH, "record, index", seen + 1, signed.body.index)
        yield from take_record(session, signed)


def check_record(session: MemberSession, signed: Signed[RoundRecord]) -> Flow[None]:
    """Check that an aggregator has signed a record, and that the record keeps what a receipt has promised this site.

    The alarm is raised once: its evidence stays, and whether to go on with this aggregator is for people to say.

    Raises:
        RejectedError: the signature does not hold.
        ProtocolError: `RECEIPT_BROKEN`.
    """
    record = signed.body
    check_record_signature(session.rosters.aggregator_keys(record.roster), signed)
    kept = yield from compute(session.spool.entry(record.round_id).receipt)
    receipt = None
    with contextlib.suppress(WireError):  # a damaged file proves nothing
        receipt = None if kept is None else Signed.parse(Receipt, kept)
    how = None if receipt is None else broken_by(receipt.body, record)
    if receipt is None or how is None:
        return
    if (yield from compute(partial(session.spool.has_evidence, record.round_id))):
        return
    refused = RejectedError(Reason.RECEIPT_BROKEN, "record", "what the receipt has promised", how)
    broken = BrokenReceipt(receipt, signed, session.rosters.listing(receipt, signed))
    # The evidence last: a crash before it raises the alarm again, one after it finds line and evidence.
    yield from compute(partial(note, session, "receipt-broken", record.round_id, refused))
    yield from compute(partial(session.spool.keep_evidence, record.round_id, encode_evidence([broken])))
    raise ProtocolError(
        Reason.RECEIPT_BROKEN,
        f"round {record.round_id}: the aggregator has signed a receipt for this site's submission, and a record that "
        f"{how}",
        "this is no accident of a round, though a store restored from a backup forgets receipts: "
        "`he-agg evidence export --config site.toml --out FILE` writes both documents for the coordinator, who decides "
        "whether to go on; the next call goes on",
    )


def record_at(session: MemberSession, index: int) -> Flow[Signed[RoundRecord]]:
    """Fetch a record that this site has verified before: it remembers the digest.

    Raises:
        RejectedError: it is another one.
    """
    signed = yield from _record(session, index)
    yield from check_known(session, index, signed)
    return signed


def check_known(session: MemberSession, index: int, signed: Signed[RoundRecord]) -> Flow[None]:
    """Check that a record is the one that this site has verified before.

    Raises:
        RejectedError: it is another one.
    """
    known = yield from compute(partial(session.chain.head, index))
    if signed.digest != known:
        raise RejectedError(Reason.CHAIN_MISMATCH, f"record {index}, digest", known, signed.digest)


def take_record(session: MemberSession, signed: Signed[RoundRecord]) -> Flow[None]:
    """Check that a record, whose signature was verified, belongs to the history that this site knows; remember it.

    Records between the last known one and this one are fetched and verified first.

    Raises:
        RejectedError: it does not: this site, or another one, was shown another history.
    """
    record, index = signed.body, signed.body.index
    yield from catch_up(session, index - 1)
    known_before = yield from compute(partial(len, session.chain))
    before = yield from compute(partial(session.chain.link, index - 1))
    check_follows(index - 1, before.digest, signed)
    check_epoch(before.epoch, f"record {index}", record.epoch)
    if before.ended:
        got = f"{record.outcome} for round {record.round_id}"
        raise RejectedError(Reason.CHAIN_MISMATCH, f"record {index}", "none after the federation's end", got)
    yield from know_roster(session, record)
    roster = session.rosters.named(record.roster)
    check_due(f"record {index}", due_after(session, before, roster), record.round_id)
    if record.outcome == ENDED:
        check_end(session.plan, record)
    if roster is not None:
        if roster.version < before.roster_version:
            raise RejectedError(
                Reason.ROSTER_MISMATCH, f"record {index}, version of the roster", before.roster_version, roster.version
            )
        if record.outcome != ENDED:
            again = yield from given_up(session, before)
            check_invited(session.plan, roster, record, before.counted, again)
    elif before.roster_version or session.rosters.is_complete:
        # Only what was written before the first roster that this site knows may name one that it does not know.
        raise RejectedError(
            Reason.ROSTER_MISMATCH, f"record {index}, roster", "one that this site trusts", record.roster
        )
    link = yield from _link(session, signed, before, 0 if roster is None else roster.version)
    if index <= known_before:  # before anything is settled by it: a second record of one place settles nothing
        yield from check_known(session, index, signed)
    # Before the chain has it: a record that it has is not looked at again.
    fate = Fate.COUNTED if record.outcome == PUBLISHED and session.site in record.members else Fate.LEFT_OUT
    yield from compute(partial(session.ledger.settle, record.round_id, fate, signed.digest))
    if record.gives_up is not None:
        yield from compute(partial(session.ledger.give_up, record.gives_up))
    try:
        yield from compute(partial(session.chain.append, index, link))
    except WireError as error:
        known = (yield from compute(partial(session.chain.link, index))).digest
        raise RejectedError(Reason.CHAIN_MISMATCH, f"record {index}, digest", known, signed.digest) from error
    if index > known_before and roster is not None and session.site in roster.having(Role.SITE):
        yield from _tell_of_absence(session.site, record)


def due_after(session: MemberSession, before: Link, roster: Roster | None) -> tuple[int, int]:
    """Return number and attempt of what comes after a record.

    Holders promise one record for each number. Where others hold by the roster of what comes, a number that has failed
    is left: they know nothing of the promises that were made for it.

    Args:
        before: what is kept of the record before.
        roster: the one that what comes is under; None if this site does not know it.
    """
    failed = before.attempt > 1 and not before.again
    if session.plan.splits_keys and failed and roster is not None:
        then = session.rosters.version(before.roster_version)
        if then is not None and not roster.has_holders_of(then):
            return before.number + 1, 1
    return before.number, before.attempt


def newest_sum(session: MemberSession, link: Link) -> Flow[RoundId | None]:
    """Return the newest round as of a record whose sum was not given up; None if there is none.

    Raises:
        RejectedError: the aggregator has another record there now.
    """
    return (yield from record_at(session, link.published)).body.round_id if link.published else None


def given_up(session: MemberSession, before: Link) -> Flow[frozenset[str] | None]:
    """Return the members of the sum that was given up at the number that is due; None if there is none.

    Args:
        before: what is kept of the record before the attempt's.

    Raises:
        RejectedError: the aggregator has another record there now.
    """
    return frozenset((yield from record_at(session, before.again)).body.members) if before.again else None


def _link(session: MemberSession, signed: Signed[RoundRecord], before: Link, roster_version: int) -> Flow[Link]:
    """Return what is kept of a record that is the next of the chain.

    Raises:
        RejectedError: it gives up a sum that is not the newest one.
    """
    record = signed.body
    number, attempt = record.round_id.number, record.round_id.attempt
    link = replace(before, digest=signed.digest, roster_version=roster_version, epoch=record.epoch, number=number)
    if record.outcome == ENDED:
        return replace(link, attempt=attempt, ended=True)
    if record.outcome == PUBLISHED:
        link = replace(link, number=number + 1, attempt=before.later + 1, later=0)
        return replace(link, counted=last_counted(record, before.counted), published=record.index, again=0)
    if record.gives_up is None:
        return replace(link, attempt=attempt + 1)
    newest = yield from compute(partial(session.chain.link, before.published))
    if before.again or not before.published or record.gives_up != newest.digest:
        what = f"record {record.index}, sum that it gives up"
        raise RejectedError(Reason.CHAIN_MISMATCH, what, newest.digest, record.gives_up)
    earlier = yield from compute(partial(session.chain.link, before.published - 1))
    tried = (yield from record_at(session, before.published)).body.round_id
    link = replace(link, number=tried.number, attempt=tried.attempt + 1, later=attempt)
    return replace(link, published=earlier.published, again=before.published)


def _tell_of_absence(site: str, record: RoundRecord) -> Flow[None]:
    """Tell of a sum that this site is not in."""
    if record.outcome != PUBLISHED or site in record.members:
        return
    round_id, why = str(record.round_id), record.excluded.get(site)
    has = f"round {round_id} has a sum"
    if why is None:
        yield Report(Notice("not-invited", f"{has}, and site {site} was not invited to it", round_id))
    elif why == "absent":
        yield Report(Notice("missed", f"{has}, and site {site} had sent nothing to it", round_id))
    else:
        word = "".join(c if c.isprintable() else " " for c in why)
        yield Report(Notice("left-out", f"{has} without what site {site} had sent: {word}", round_id))


def _record(session: MemberSession, index: int) -> Flow[Signed[RoundRecord]]:
    path = f"/v1/federations/{session.federation}/records/{index}"
    request = Request("GET", path, frozenset({200}), max_bytes=MAX_RECORD_BYTES)
    response = yield from exchange(session.retries, request)
    return (yield from compute(partial(parse_record, response.body)))


def parse_record(body: bytes) -> Signed[RoundRecord]:
    """Read a record. Nothing is proven about it yet."""
    try:
        return Signed.parse(RoundRecord, body)
    except WireError as error:
        raise RejectedError(error.reason, "record", "a signed record", error.message) from error
