"""From an update to a submission on its way out: recognise what is stored already, else quantize and encrypt."""

from __future__ import annotations

import hashlib
from functools import partial

from client_sdk._disk.ledger import Fate, Sent
from client_sdk._disk.spool import SpoolEntry
from client_sdk._disk.stored import Begun, Stored
from client_sdk._effects import Flow, Report, compute, now
from client_sdk._protocol.encrypt import Encryption, encrypt
from client_sdk._protocol.history import catch_up, refusing
from client_sdk._protocol.lists import list_to_deal_to
from client_sdk._protocol.outgoing import Made, Outgoing
from client_sdk._protocol.poll import OpenRound
from client_sdk._protocol.session import Session
from client_sdk._protocol.verdicts import check_one_set
from client_sdk.federated import Update, repeated
from client_sdk.progress import PhaseFinished, PhaseStarted
from he_agg import canonical
from he_agg.documents.sharing import HolderList
from he_agg.errors import InputError, ProtocolError, Reason
from he_agg.ids import RoundId
from he_agg.plan.fixedpoint import Quantizing
from he_agg.plan.rounded import Rounded

__all__ = ["check_stored", "find_begun", "lost_spool", "not_here", "prepare"]


def prepare(
    session: Session, opened: OpenRound, entry: SpoolEntry, update: Update
) -> Flow[tuple[Outgoing, tuple[Rounded, ...]]]:
    """Have the update on its way out as a submission: the one stored here, or one that is encrypted from now on.

    Returns:
        It, to be closed, and what rounding did to the update: people are warned if that is much.

    Raises:
        InputError: the update is not what the plan allows, is in another sum, or another one is stored, or was begun,
            for this round.
        ProtocolError: nothing may be dealt to the holders that the aggregator names.
        WireError: the stored submission is damaged, or was made with another key.
        ConfigError: the spool cannot be used, or the roster has expired.
    """
    session.rosters.check_valid(session.clock())
    yield from check_one_set(session, opened.id)
    started = yield from now()
    yield Report(PhaseStarted(str(opened.id), "encrypt", session.plan.wire_bytes))
    values = yield from compute(partial(_quantizing, session, update))
    stored = yield from compute(partial(session.stored, entry))
    fingerprint = yield from compute(partial(session.identity.recognise, int(update.weight), values.arrays))
    if stored is not None:
        check_stored(session, opened, entry, stored)
        if stored.fingerprint != fingerprint:
            raise _another(opened, "is stored", stored.submission_id, "round.resume() finishes the stored one")
        yield Report(PhaseFinished(str(opened.id), "encrypt", (yield from now()) - started))
        return Made(stored), values.rounded
    yield from refusing(session, "chain-rejected", opened.id, catch_up(session, opened.records))
    begun = yield from compute(partial(find_begun, session, entry))
    if not update.may_repeat:
        yield from compute(partial(_check_once, session, opened.id, fingerprint))
    previous = yield from compute(partial(session.chain.head, opened.records))
    holders = None
    if session.plan.splits_keys:
        listed = list_to_deal_to(session, opened.id, opened.epoch, opened.records)
        holders = yield from refusing(session, "holders-rejected", opened.id, listed)
        if not update.may_repeat:
            yield from compute(partial(_check_holders_once, session, opened.id, holders, fingerprint))
    what = _what(session, opened, update, fingerprint, holders)
    if begun is not None and begun.what != what:
        raise _another(opened, "was begun", begun.upload, "hand in the same update, in the same way, to go on")
    given = Encryption(values, fingerprint, previous, holders, what)
    outgoing = yield from encrypt(session, opened, entry, given, begun)
    if isinstance(outgoing, Made):
        yield Report(PhaseFinished(str(opened.id), "encrypt", (yield from now()) - started))
    return outgoing, values.rounded


def _another(opened: OpenRound, how: str, which: str, hint: str) -> InputError:
    return InputError(
        Reason.SECOND_SUBMISSION,
        f"round {opened.id}: expected the update that {how} for it (submission {which[:12]}), got another one; a site "
        "submits once per round",
        hint,
        "hand in the same file and weight again to finish the stored one",
    )


def find_begun(session: Session, entry: SpoolEntry) -> Begun | None:
    """Return what was begun here, where no submission is stored; None if nothing was ever sent.

    Raises:
        InputError: something else was sent, which is not here any more.
    """
    sent = session.ledger.sent(entry.round_id)
    if sent is None:
        return None
    begun = entry.begun()
    if begun is None or begun.upload != sent.upload:
        raise not_here(sent)
    return begun


def not_here(sent: Sent) -> InputError:
    """Return the error for a round that this site has sent something to which is not in its spool."""
    return InputError(
        Reason.SECOND_SUBMISSION,
        f"round {sent.round_id}: this site has sent submission {sent.upload[:12]} to it, which is not in this spool "
        "any more; nothing was encrypted again, and no other one is sent",
        "round.fetch() waits for the mean; restore the spool to finish that submission, or take part in the next round",
        "`he-agg fetch` waits for the mean; restore the spool to finish that submission, or take part in the next "
        "round",
    )


def check_stored(session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored) -> None:
    """Refuse a stored submission that this site would not make as it is now configured."""
    key, identity = session.key_of(opened.epoch), session.identity
    entry.check(stored, session.plan, key.epoch, key.key_id, identity.name, identity.signing_key.public_key)


def lost_spool(session: Session, opened: OpenRound) -> ProtocolError:
    """Return the error for a round in which the aggregator knows a submission of this site that is not in the spool."""
    return ProtocolError(
        Reason.SECOND_SUBMISSION,
        f"round {opened.id}: the aggregator already has a submission of site {session.site} that is not in this "
        "spool: it was made on another machine, or the spool was lost; nothing was added to the round",
        "if the other submission is complete, round.fetch() waits for the mean; otherwise finish it where it was "
        "made, or take part again in the next round",
        "if the other submission is complete, `he-agg fetch` waits for the mean; otherwise finish it where it was "
        "made, or take part again in the next round",
    )


def _check_once(session: Session, round_id: RoundId, fingerprint: str) -> None:
    """Refuse to have one update in two sums."""
    other = session.ledger.in_another(round_id, fingerprint)
    if other is None:
        return
    if other.fate is not Fate.SENT:
        where = f"is in the sum of round {other.round_id}"
        if session.verdicts.opened(other.round_id.number) != other.round_id:
            where += ", which this site has not opened"
    else:
        where = f"was sent to round {other.round_id}, and no verified record says that it is in no sum"
    raise repeated(str(round_id), where)


def _check_holders_once(session: Session, round_id: RoundId, listed: HolderList, fingerprint: str) -> None:
    """Refuse to deal an update to other holders under another number, even if it was left out of the sum there.

    Some may have been shown a record with it, and have answered. Of the same holders, or nearly the same, an honest one
    would have to go by two histories for another number to be answered in the other one; others know nothing of it.
    """
    roster = session.rosters.signed_as(listed.roster).body
    for before in session.ledger.left_out(fingerprint):
        version = session.dealt.version(before.number)
        then = None if version is None else session.rosters.version(version)
        if before.number != round_id.number and (then is None or not roster.quorums_meet(then)):
            where = f"was dealt to other holders in round {before}, of whom some may have answered for a sum with it"
            raise repeated(str(round_id), where)


def _quantizing(session: Session, update: Update) -> Quantizing:
    values = Quantizing(
        session.key.plan, update.tensors, update.weight, rounding=update.rounding, on_overflow=update.on_overflow
    )
    session.coarse.tell(f"site {session.site}", values.rounded)
    return values


def _what(session: Session, opened: OpenRound, update: Update, fingerprint: str, holders: HolderList | None) -> str:
    """Return the digest of all that decides about an encryption, so that another one has other randomness."""
    key = session.key_of(opened.epoch)
    context = {
        "round": str(opened.id),
        "epoch": key.epoch,
        "key_id": key.key_id,
        "plan_id": session.plan.plan_id,
        "site": session.site,
        "holders": None if holders is None else holders.digest,
        "rounding": update.rounding,
        "on_overflow": update.on_overflow,
        "update": fingerprint,
    }
    return hashlib.sha256(canonical.encode(context)).hexdigest()
