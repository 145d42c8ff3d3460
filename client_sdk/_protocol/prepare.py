"""From an update to a submission in the spool: recognise what is stored already, else quantize and encrypt."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from client_sdk._disk.ledger import Fate
from client_sdk._disk.spool import SpoolEntry, Stored
from client_sdk._effects import Flow, Report, compute, now
from client_sdk._protocol.dealing import Dealer
from client_sdk._protocol.history import catch_up, refusing
from client_sdk._protocol.lists import list_to_deal_to
from client_sdk._protocol.poll import OpenRound
from client_sdk._protocol.session import Session
from client_sdk._protocol.verdicts import check_one_set
from client_sdk.federated import Update, repeated
from client_sdk.progress import PhaseFinished, PhaseProgress, PhaseStarted
from he_agg.documents.manifest import NONCE_BYTES, Manifest
from he_agg.documents.sharing import HolderList
from he_agg.documents.signed import Signed
from he_agg.errors import InputError, ProtocolError, Reason
from he_agg.ids import RoundId
from he_agg.mac import RoundMac, TagTotal
from he_agg.plan.fixedpoint import Quantizing
from he_agg.plan.plan import PublicPlan
from he_agg.plan.rounded import Rounded
from he_agg.plan.sections import Part, PartPlace
from he_agg.protocol.wire import part_header

__all__ = ["check_stored", "lost_spool", "prepare"]

_WRITES = 3
"""Parts that are being written at a time; so many are held in memory."""


def prepare(
    session: Session, opened: OpenRound, entry: SpoolEntry, update: Update
) -> Flow[tuple[Stored, tuple[Rounded, ...]]]:
    """Have the update in the spool as a submission: the one stored there, or a newly encrypted one.

    Returns:
        It, and what rounding did to the update: people are warned if that is much.

    Raises:
        InputError: the update is not what the plan allows, is in another sum, or another one is stored for this round.
        ProtocolError: nothing may be dealt to the holders that the aggregator names.
        WireError: the stored submission is damaged, or was made with another key.
        ConfigError: the spool cannot be used, or the roster has expired.
    """
    session.rosters.check_valid(session.clock())
    yield from check_one_set(session, opened.id)
    started = yield from now()
    total = session.plan.wire_bytes
    yield Report(PhaseStarted(str(opened.id), "encrypt", total))
    values = yield from compute(partial(_quantizing, session, update))
    stored = yield from compute(entry.stored)
    fingerprint = yield from compute(partial(session.identity.recognise, int(update.weight), values.arrays))
    if stored is not None:
        check_stored(session, opened, entry, stored)
        if stored.fingerprint != fingerprint:
            raise InputError(
                Reason.SECOND_SUBMISSION,
                f"round {opened.id}: expected the update that is stored for it (submission "
                f"{stored.submission_id[:12]}), got another one; a site submits once per round",
                "round.resume() finishes the stored one",
                "hand in the same file and weight again to finish the stored one",
            )
    else:
        yield from refusing(session, "chain-rejected", opened.id, catch_up(session, opened.records))
        yield from compute(partial(_check_once, session, opened, fingerprint, update.may_repeat))
        previous = yield from compute(partial(session.chain.head, opened.records))
        holders = None
        if session.plan.splits_keys:
            listed = list_to_deal_to(session, opened.id, opened.epoch, opened.records)
            holders = yield from refusing(session, "holders-rejected", opened.id, listed)
            if not update.may_repeat:
                yield from compute(partial(_check_holders_once, session, opened.id, holders, fingerprint))
        stored = yield from _encrypt(session, opened, entry, values, fingerprint, previous, holders)
    yield Report(PhaseFinished(str(opened.id), "encrypt", (yield from now()) - started))
    return stored, values.rounded


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


def _check_once(session: Session, opened: OpenRound, fingerprint: str, may_repeat: bool) -> None:
    """Refuse to encrypt twice for one attempt, and to have one update in two sums."""
    before = session.ledger.sent(opened.id)
    if before is not None:
        raise InputError(
            Reason.SECOND_SUBMISSION,
            f"round {opened.id}: this site has sent submission {before.submission_id[:12]} to it, which is not in this "
            "spool any more; nothing was encrypted again",
            "round.fetch() waits for the mean; restore the spool to finish that submission, or take part in the next "
            "round",
            "`he-agg fetch` waits for the mean; restore the spool to finish that submission, or take part in the next "
            "round",
        )
    other = session.ledger.in_another(opened.id, fingerprint)
    if other is None or may_repeat:
        return
    if other.fate is not Fate.SENT:
        where = f"is in the sum of round {other.round_id}"
        if session.verdicts.opened(other.round_id.number) != other.round_id:
            where += ", which this site has not opened"
    else:
        where = f"was sent to round {other.round_id}, and no verified record says that it is in no sum"
    raise repeated(str(opened.id), where)


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


def _encrypt(
    session: Session,
    opened: OpenRound,
    entry: SpoolEntry,
    values: Quantizing,
    fingerprint: str,
    previous: str,
    holders: HolderList | None,
) -> Flow[Stored]:
    plan, key, nonce = session.plan, session.key_of(opened.epoch), secrets.token_hex(NONCE_BYTES)
    deal = None if holders is None else Dealer(entry, key, opened.id, session.site, nonce, holders)
    # Twice: the parts of the sum will lie beside them.
    yield from compute(partial(entry.begin, 2 * plan.wire_bytes))
    parts: Generator[Part] | None = None
    work: _Work | None = None
    try:
        work = yield from compute(partial(_Work, plan, entry, RoundMac(key.mac_key, plan, key.epoch, opened.id)))
        # Every part is tagged by the thread that encrypts it, while its residues are in the processor's cache.
        watch = partial(work.mac.watch, work.total)
        parts = yield from compute(partial(session.codec.encrypt, values, key, opened.id, watch=watch, deal=deal))
        done = 0
        while (place := (yield from compute(partial(work.store_next, parts)))) is not None:
            done += place.wire_bytes
            yield Report(PhaseProgress(str(opened.id), "encrypt", done, plan.wire_bytes))
        manifest = Manifest(
            round_id=opened.id,
            epoch=key.epoch,
            key_id=key.key_id,
            plan_id=plan.plan_id,
            site=session.site,
            nonce=nonce,
            part_digests=tuple(work.digests[place.number] for place in plan.places),
            tags=work.mac.tags(work.total, session.site, nonce),
            roster=session.rosters.newest.body_digest,
            previous=previous,
            holders=None if holders is None else holders.digest,
            dealing=None if deal is None else deal.digest,
        )
        signed = Signed.make(manifest, session.identity.signing_key)
        encoded = signed.encode()
        yield from compute(partial(entry.seal, encoded, fingerprint))
    except BaseException:
        # Interrupted or failed: without a manifest it is only in the way, once nobody writes there any more.
        if work is not None:
            work.stop_writing()
        if not entry.is_stored:
            entry.remove()
        raise
    finally:
        try:
            if parts is not None:
                parts.close()  # now, not whenever it is collected: a one-time key lives in it
        finally:
            if work is not None:
                work.close()
    return Stored(signed, encoded, fingerprint)


class _Work:
    """Parts of one submission on their way into the spool. A class because the tags' secrets are wiped at the end."""

    def __init__(self, plan: PublicPlan, entry: SpoolEntry, mac: RoundMac) -> None:
        self.mac = mac
        self.total: TagTotal = mac.new_total()
        self.digests: dict[int, str] = {}
        self._plan, self._entry = plan, entry
        self._disk = ThreadPoolExecutor(_WRITES, thread_name_prefix="he-agg-spool")
        self._writing: deque[tuple[int, Future[str]]] = deque()

    def store_next(self, parts: Iterator[Part]) -> PartPlace | None:
        """Store the part that the codec makes next; None when it has made all.

        The disk is given a few parts at a time: syncing takes longer than encrypting, and its latencies overlap. When
        this returns None, all of them are durable.
        """
        part = next(parts, None)
        self._settle(0 if part is None else _WRITES - 1)
        if part is None:
            return None
        place = self._plan.places[part.number]
        # Header and residues apart: together they would be a copy of all of it.
        pieces = part_header(place, self._plan.plan_id), part.packed
        self._writing.append((place.number, self._disk.submit(self._entry.write_part, place.number, *pieces)))
        return place

    def _settle(self, left: int) -> None:
        while len(self._writing) > left:
            number, written = self._writing.popleft()
            self.digests[number] = written.result()

    def stop_writing(self) -> None:
        """Wait for what is being written."""
        self._disk.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Wait for the disk, and overwrite the secrets. The codec has to be closed before."""
        self.stop_writing()
        self.mac.wipe()
