"""Take in what holders say about a published record: echoes, answers and complaints.

Each holder says one thing of each kind about a round, ever, and it never changes. The answer that makes enough settles
the round, in its own transaction. Whether an answer is right is for those to find out who use it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypeVar

from he_agg.documents.holding import Answer, Complaint, Echo
from he_agg.documents.record import RoundRecord
from he_agg.documents.roster import Role
from he_agg.documents.sharing import HolderList
from he_agg.documents.signed import Signed
from he_agg.errors import Reason
from he_agg.sharing.dealing import Dealing
from he_agg.sharing.shares import read_answer
from service.core.conductor import Conductor
from service.core.find import find_round, require_sum
from service.core.holder_lists import list_of
from service.core.roster_cache import roster_of
from service.domain import events
from service.logs import log
from service.refusal import RefusedError
from service.store.rows import RoundRow
from service.store.transaction import Transaction

__all__ = ["accept_answer", "accept_complaint", "accept_echo", "excerpts", "find_held", "has_quorum", "require_holder"]

Said = TypeVar("Said", Echo, Answer, Complaint)


def find_held(tx: Transaction, federation: str, text: str) -> tuple[RoundRow, HolderList]:
    """Find the round that an address names, if it is one of the caller's federation and has holders."""
    row = find_round(tx, federation, text)
    holders = list_of(tx, row)
    if holders is None:
        raise RefusedError(
            Reason.PLAN_MISMATCH,
            f"round {row.id} has no holders: the sites of its plan share one-time keys",
            status=404,
            round_id=str(row.id),
        )
    return row, holders


def has_quorum(tx: Transaction, row: RoundRow, holders: HolderList) -> bool:
    """Tell whether so many holders have echoed a round's record that they may answer."""
    return len(tx.echoed(row.id)) >= holders.thresholds.quorum


def accept_echo(tx: Transaction, conductor: Conductor, federation: str, text: str, data: bytes, holder: str) -> bool:
    """Take a holder's echo. The same bytes again are no error.

    Raises:
        WireError: not an echo, or not signed by its holder.
        RefusedError: the round has no sum, this is no holder of it, it is of another record, or the holder has said
            something else before.
    """
    row, holders = find_held(tx, federation, text)
    before = tx.echo(row.id, holder)
    if before == data:
        return False
    _check(tx, row, holders, Signed.parse(Echo, data), holder)
    _refuse_second("echo", row, holder, before)
    tx.add_echo(row.id, holder, data, int(conductor.now()))
    tx.bump()
    return True


def accept_answer(tx: Transaction, conductor: Conductor, federation: str, text: str, data: bytes, holder: str) -> bool:
    """Take a holder's answer, and settle the round if it makes enough. The same bytes again are no error.

    Raises:
        WireError: not an answer, or not signed by its holder.
        RefusedError: see `accept_echo`; or too few holders have echoed the record yet.
    """
    row, holders = find_held(tx, federation, text)
    before = tx.answer(row.id, holder)
    if before == data:
        return False
    signed = Signed.parse(Answer, data)
    _check(tx, row, holders, signed, holder)
    _require_share(row, holders, holder)
    read_answer(signed.body.shares)
    _refuse_second("answer", row, holder, before)
    if not has_quorum(tx, row, holders):
        raise RefusedError(
            Reason.SUM_NOT_READY,
            f"round {row.id}: {len(tx.echoed(row.id))} of {holders.thresholds.quorum} holders have echoed its record",
            "a holder answers when so many echoes of the same record are there: GET /v1/rounds/{round}/echoes?wait=30",
            round_id=str(row.id),
        )
    tx.add_answer(row.id, holder, data, int(conductor.now()))
    if len(tx.answered(row.id)) >= holders.thresholds.threshold:
        conductor.apply_in(tx, federation, events.Settled(row.id.number, row.id.attempt))
    tx.bump()
    return True


def accept_complaint(
    tx: Transaction, conductor: Conductor, federation: str, text: str, data: bytes, holder: str, dealer: str
) -> bool:
    """Take a holder's complaint of a member's dealing. The same bytes again are no error.

    Raises:
        WireError: not a complaint, or not signed by its holder.
        RefusedError: see `accept_echo`; or it is of nobody in the sum.
    """
    row, holders = find_held(tx, federation, text)
    before = tx.complaint(row.id, holder, dealer)
    if before == data:
        return False
    signed = Signed.parse(Complaint, data)
    record = _check(tx, row, holders, signed, holder)
    complaint = signed.body
    if complaint.dealer != dealer:
        raise RefusedError(Reason.BAD_FIELD, f"complaint, dealer: expected {dealer}, got {complaint.dealer}")
    if dealer not in record.members:
        raise RefusedError(Reason.BAD_FIELD, f"complaint, dealer: expected a member of round {row.id}, got {dealer}")
    _require_share(row, holders, holder)
    _refuse_second(f"complaint of {dealer}", row, holder, before)
    tx.add_complaint(row.id, holder, dealer, complaint.fault, data, int(conductor.now()))
    log(
        logging.ERROR,
        "a holder complains of a dealing",
        round_id=str(row.id),
        member=holder,
        site=dealer,
        reason=complaint.fault.value,
    )
    tx.report(
        "dealing.complained",
        federation=federation,
        round=str(row.id),
        member=holder,
        dealer=dealer,
        reason=complaint.fault.value,
    )
    tx.bump()
    return True


def excerpts(row: RoundRow, holders: HolderList, dealings: Iterable[bytes], members: int, holder: str) -> bytes:
    """Return what a holder needs of the dealings of all members of a sum, one after another, by site.

    Raises:
        RefusedError: they are not kept any longer.
    """
    found = [Dealing.parse(data, holders.holders).excerpt(holder).to_bytes() for data in dealings]
    if len(found) != members:
        raise RefusedError(
            Reason.SUM_GONE,
            f"the dealings of round {row.id} are not kept any longer",
            "its holders have answered, or its operator has skipped it",
            round_id=str(row.id),
        )
    return b"".join(found)


def require_holder(row: RoundRow, holders: HolderList, name: str) -> None:
    """Refuse whoever is not in a round's list.

    Raises:
        RefusedError: it is not.
    """
    if name not in holders.names:
        raise RefusedError(
            Reason.FORBIDDEN,
            f"{name} is no holder of round {row.id}, which has {', '.join(holders.names)}",
            "whoever becomes a holder is one from the next number on",
            round_id=str(row.id),
        )


def _check(tx: Transaction, row: RoundRow, holders: HolderList, signed: Signed[Said], holder: str) -> RoundRecord:
    """Check that a document is by a holder of a round and of its published record; return that."""
    require_holder(row, holders, holder)
    record, what = require_sum(row), signed.body.KIND
    for part, reason, expected, got in (
        ("round", Reason.BAD_FIELD, str(row.id), str(signed.body.round_id)),
        ("holder", Reason.FORBIDDEN, holder, signed.body.holder),
        ("record", Reason.BAD_FIELD, record.digest, signed.body.record),
    ):
        if expected != got:
            raise RefusedError(reason, f"{what}, {part}: expected {expected[:63]}, got {got[:63]}")
    signed.check_signed(roster_of(tx, row.id.federation, row.basis.roster_version).body.keys_of(Role.HOLDER))
    return record.body


def _require_share(row: RoundRow, holders: HolderList, holder: str) -> None:
    if holder not in holders.keys:
        raise RefusedError(Reason.FORBIDDEN, f"holder {holder} has no sharing key in round {row.id}, and no share")


def _refuse_second(what: str, row: RoundRow, holder: str, before: bytes | None) -> None:
    if before is not None:
        raise RefusedError(
            Reason.ALREADY_EXISTS,
            f"holder {holder} has sent another {what} for round {row.id} already",
            "the first one stays; holders keep what they send, and send the same bytes again",
            round_id=str(row.id),
        )
