"""Flows that wait for a round's record, accept it or refuse it, fetch the sum, verify it and open it.

What `_accept.py` refuses becomes, here, the one error of a refused sum: always the same words, whatever the cause. The
precise cause is in the security log, no part was decrypted before its tags were verified, no plaintext is released, and
the downloaded parts are removed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk._disk.spool import SpoolEntry
from client_sdk._disk.stored import Stored
from client_sdk._effects import Flow, Report, compute, now
from client_sdk._protocol import accept as _accept
from client_sdk._protocol.accept import Expected, RejectedError
from client_sdk._protocol.answers import open_with_answers
from client_sdk._protocol.download import download, part_of_sum
from client_sdk._protocol.exchange import exchange
from client_sdk._protocol.frames import HELD_BYTES
from client_sdk._protocol.history import check_record, know_roster, note, refusing, take_record
from client_sdk._protocol.lists import round_holders
from client_sdk._protocol.membership import check_can_open, check_group_of_then, take_verified
from client_sdk._protocol.round_answer import (
    RoundAnswer,
    check_no_manifests,
    parse_answer,
    parse_manifests,
    record_request,
)
from client_sdk._protocol.session import MemberSession, Session
from client_sdk._protocol.state import POLL_S, deadline, federation_state, unhurried
from client_sdk._protocol.waiting import Waiting
from client_sdk.progress import PhaseFinished, PhaseStarted, Waits
from he_agg.codecs import PartSource
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import ENDED, RoundRecord
from he_agg.documents.sharing import HolderList
from he_agg.documents.signed import Signed
from he_agg.errors import DecryptionError, ProtocolError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.mac import RoundMac
from he_agg.plan.fixedpoint import Mean, dequantize
from he_agg.plan.sections import Part
from keys import GroupKey

__all__ = ["Accepted", "accept", "await_record", "check_counted", "collect", "take_failed", "why_failed"]

T = TypeVar("T")

_DISPUTE = "`he-agg dispute` has the round tried again"
_GIVEN_UP = ("epoch-changed", "roster-changed", "round-disputed")


@dataclass(frozen=True)
class Accepted:
    """A published record that passed all checks but those on the sum itself.

    Attributes:
        expected: what it was held against.
        manifests: its members', by site.
        holders: whom all of them have dealt to, where the plan splits keys.
    """

    expected: Expected
    record: RoundRecord
    manifests: tuple[Signed[Manifest], ...]
    holders: HolderList | None = None


def await_record(
    session: Session, round_id: RoundId, until: float, meanwhile: Callable[[], Flow[None]] | None = None
) -> Flow[RoundAnswer]:
    """Wait until the round is published or failed. Nothing is proven about the answer: see `accept`, `take_failed`.

    Args:
        until: when to stop asking, on the driver's clock, if the operator moves no deadline. Units: seconds.
    """
    started = yield from now()
    at_last = until + session.pause_s
    yield Report(PhaseStarted(str(round_id), "wait", 0))
    request = record_request(session.plan, round_id, POLL_S)
    waiting, paused = Waiting(), False
    while True:
        asked_at = yield from now()
        left_s = until - session.result_s - asked_at
        if left_s > 0:
            yield Report(Waits(f"round {round_id}: waiting for the sum of all sites", str(round_id), left_s))
        response = yield from exchange(session.retries, request)
        if response.status == 200:
            break
        if (yield from now()) > until:
            later, paused = yield from _later(session, round_id)
            until = min(at_last, later)
        if (yield from now()) > until:
            raise ProtocolError(
                Reason.SUM_NOT_READY,
                f"round {round_id}: expected a result by now, the aggregator has none yet",
                "get it later with round.fetch(); if it never comes, ask the operator",
                f"get it later with `he-agg fetch --config site.toml --round {round_id} --out mean.npz`; if it never "
                "comes, ask the operator",
            )
        if paused:
            yield from waiting.tell("paused", f"federation {session.federation} is paused: its operator lets it rest")
        elif (yield from now()) > until - session.result_s:
            yield from waiting.tell("waiting", f"round {round_id} is over, and has no record yet", str(round_id))
        if meanwhile is not None:
            yield from meanwhile()
        yield from unhurried(asked_at)
    try:
        answer = yield from compute(partial(parse_answer, response.body))
    except WireError as error:
        raise ProtocolError(Reason.BAD_ANSWER, f"record of round {round_id}: {error.message}") from error
    seconds = (yield from now()) - started
    yield Report(PhaseFinished(str(round_id), "wait", seconds, received_bytes=len(response.body)))
    return answer


def _later(session: Session, round_id: RoundId) -> Flow[tuple[float, bool]]:
    """Return until when to go on asking, and whether the federation is paused, which moves deadlines."""
    state = (yield from federation_state(session)).body
    if state.stage == "paused":
        return (yield from now()) + session.result_s, True
    if state.open is not None and state.round_id == round_id:
        # A deadline that has passed is no new one: counted from now, it would never come.
        return (yield from deadline(session, state.open.deadline_at)) + session.result_s, False
    return -math.inf, False


def take_failed(session: Session, round_id: RoundId, answer: RoundAnswer) -> Flow[None]:
    """Verify the record of a round without a sum and add it to the history, as any other record.

    Raises:
        ProtocolError: the answer must not be believed.
    """
    yield from refusing(session, "record-rejected", round_id, _take_failed(session, round_id, answer))


def _take_failed(session: Session, round_id: RoundId, answer: RoundAnswer) -> Flow[None]:
    yield from take_verified(session, round_id, answer.signed)
    check_no_manifests(answer)


def why_failed(session: Session, round_id: RoundId, record: RoundRecord) -> ProtocolError:
    """Return the error for a round whose record says that it has failed, or never opened."""
    if record.outcome == ENDED:
        return ProtocolError(
            Reason.ROUND_FAILED,
            f"round {round_id} never opened: the federation has ended",
            "site.fetch() gets the last mean",
            "`he-agg fetch` gets the last mean",
        )
    why = record.excluded.get(session.site)
    if why in _GIVEN_UP:
        text = f"round {round_id} was given up: {why}"
    else:
        text = f"round {round_id} failed: too few sites submitted, at least {session.plan.min_sites} are needed"
        text += f"; of this site it says: {_word(why)}" if why else ""
    return ProtocolError(
        Reason.ROUND_FAILED,
        text,
        "site.rounds() goes on with the next attempt; submit again there",
        "run `he-agg submit` again, with `--wait`, for the next attempt",
    )


def accept(session: MemberSession, entry: SpoolEntry, answer: RoundAnswer, stored: Stored | None) -> Flow[Accepted]:
    """Check that a published record is one whose sum this site may open: steps 1 to 6 of `accept.py`, in order.

    Raises:
        KeystoreError: as `check_can_open`, like the next two: this site cannot open it, and nothing is wrong with it.
        InputError: see there.
        ConfigError: see there.
        DecryptionError: it is not.
    """
    session.rosters.check_valid(session.clock())
    return (yield from _uniformly(session, entry, _accept_record(session, entry.round_id, stored, answer)))


def collect(session: Session, entry: SpoolEntry, accepted: Accepted, until: float) -> Flow[Mean]:
    """Download the sum of an accepted record, part by part, each verified and opened: steps 7 to 9.

    Args:
        until: how long holders' answers are waited for, where keys are split, on the driver's clock. Units: seconds.

    Raises:
        DecryptionError: the sum is not what the members submitted, or did not open to what it must be.
        ProtocolError: `SUM_NOT_READY`: too few holders have answered; what was downloaded stays.
    """
    return (yield from _uniformly(session, entry, _collect_sum(session, entry, accepted, until)))


def check_counted(session: Session, record: RoundRecord, own: str) -> None:
    """Check that this site's submission is in the sum of a record that `accept` has passed."""
    if session.site not in record.members:
        raise ProtocolError(
            Reason.ROUND_CLOSED,
            f"round {record.round_id} was published without this site's submission {own[:12]}: "
            f"{_word(record.excluded.get(session.site, ''))}",
            "round.fetch() gets the mean of the other sites; site.rounds() goes on to the next round",
            "`he-agg fetch` gets the mean of the other sites; `he-agg submit` goes on with the next round",
        )


def _uniformly(session: MemberSession, entry: SpoolEntry, flow: Flow[T]) -> Flow[T]:
    """Run steps of the acceptance; whatever fails there, the caller gets one and the same error."""
    try:
        return (yield from flow)
    except RejectedError as error:
        # A copy: the original's traceback holds the frames that it came from, opened sums and all.
        refused = RejectedError(error.reason, error.what, error.expected, error.got)
    yield from compute(partial(note, session, "sum-rejected", entry.round_id, refused))
    yield from compute(entry.sum_parts().remove)
    again = "no round is tried again where keys are split" if session.plan.splits_keys else _DISPUTE
    # Without the cause: its text must not reach the caller by way of a traceback either.
    raise DecryptionError(
        Reason.SUM_REJECTED,
        f"round {entry.round_id}: its sum failed the checks of this site; nothing was released",
        "this accuses nobody: a member, the aggregator or this machine may be at fault. This site's security log says "
        f"what was wrong: tell the coordinators and the operator, who see which sites have rejected it; {again}",
    )


def _accept_record(
    session: MemberSession, round_id: RoundId, stored: Stored | None, answer: RoundAnswer
) -> Flow[Accepted]:
    signed, record = answer.signed, answer.signed.body
    key = (yield from compute(partial(session.keys.of, record.epoch))) if isinstance(session, Session) else None
    expected = Expected(
        site=session.site,
        plan=session.plan,
        epoch=record.epoch if stored is None else stored.manifest.epoch,
        key_id=record.key_id if key is None else key.key_id,
        round_id=round_id,
        min_sites=session.min_sites,
        own=None if stored is None else stored.submission_id,
    )
    _accept.check_subject(expected, record)
    yield from know_roster(session, record)
    named, newest = session.rosters.named(record.roster), session.rosters.newest.body
    if named is not None:
        least = max(session.min_sites, session.plan.min_sites, named.min_sites)
        yield from check_group_of_then(session, least, signed)
    _accept.check_number(expected, [newest if named is None else named, newest], record)
    if isinstance(session, Session):
        yield from check_can_open(session, round_id, signed)
    roster = _accept.check_members(named, record)
    yield from check_record(session, signed)
    manifests = yield from compute(partial(parse_manifests, session.plan, answer))
    yield from compute(partial(_accept.check_manifests, expected, roster, record, manifests))
    holders = None
    if session.plan.splits_keys:
        holders = yield from round_holders(session, record)
        yield from compute(partial(_accept.check_holders, holders, manifests))
    _accept.check_own(expected, record)
    yield from take_record(session, signed)
    _accept.check_same_history(record, manifests)
    return Accepted(expected, record, tuple(manifests), holders)


def _collect_sum(session: Session, entry: SpoolEntry, accepted: Accepted, until: float) -> Flow[Mean]:
    record, round_id = accepted.record, str(entry.round_id)
    _accept.check_parts(accepted.expected, record)
    total = session.plan.wire_bytes
    started = yield from now()
    yield Report(PhaseStarted(round_id, "download", total))
    key, plan = session.key_of(accepted.expected.epoch), session.plan
    n_sites, shared = len(record.members), accepted.holders is None

    # A sum that waits for answers waits in the spool.
    sums = entry.sum_parts(in_memory=shared and total <= HELD_BYTES)

    def part(number: int) -> Part:
        return part_of_sum(plan, plan.places[number], sums.read(number))

    mac = yield from compute(partial(RoundMac, key.mac_key, plan, key.epoch, entry.round_id))
    with contextlib.ExitStack() as secrets:
        secrets.callback(mac.wipe)
        opening = None
        if shared:
            made = yield from compute(partial(session.codec.opening, part, n_sites, key, record.round_id))
            opening = secrets.enter_context(made)
        check = mac.check((m.body.site, m.body.nonce, m.body.tags) for m in accepted.manifests)
        received = yield from download(session, sums, record, check, opening)
        _accept.check_whole(check.whole)
        finished = yield from now()
        yield Report(PhaseFinished(round_id, "download", finished - started, received_bytes=received))
        yield Report(PhaseStarted(round_id, "decrypt", total))
        if opening is not None:
            mean = yield from compute(partial(_released, key, record, opening.sums))
        elif accepted.holders is not None:
            open_sum = partial(_open, session, key, record, part)
            mean = yield from open_with_answers(
                session, key, accepted.holders, record, accepted.manifests, open_sum, until
            )
    yield Report(PhaseFinished(round_id, "decrypt", (yield from now()) - finished))
    return mean


def _open(session: Session, key: GroupKey, record: RoundRecord, part: PartSource, key_sum: NDArray[np.int64]) -> Mean:
    """Take steps 8 and 9 where keys are split."""
    opened = partial(session.codec.decrypt, part, len(record.members), key, record.round_id, key_sum=key_sum)
    return _released(key, record, opened)


def _released(key: GroupKey, record: RoundRecord, sums_of: Callable[[], NDArray[np.signedinteger]]) -> Mean:
    """Take steps 8 and 9. Why a sum does not open goes to the log only, since it depends on the key."""
    n_sites = len(record.members)
    try:
        sums = sums_of()
        try:
            return dequantize(key.plan, sums, n_sites, record.members)
        except DecryptionError:
            sums.fill(0)  # what was refused is not kept, and the codec uses its memory again
            raise
    except (DecryptionError, WireError) as error:
        raise RejectedError(error.reason, "sum, opened", f"the sum of {n_sites} sites", error.message) from error


def _word(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
