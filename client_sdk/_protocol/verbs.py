"""The verbs of a round, put together from smaller flows. Sync and async sites drive these very generators."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from functools import partial

from client_sdk._disk.spool import SpoolEntry
from client_sdk._disk.stored import Stored
from client_sdk._effects import Flow, Report, cleaned_up, compute, now
from client_sdk._protocol.collect import accept, await_record, check_counted, collect, take_failed, why_failed
from client_sdk._protocol.hold import hold
from client_sdk._protocol.outgoing import Made, Outgoing
from client_sdk._protocol.poll import OpenRound, last_published
from client_sdk._protocol.prepare import check_stored, find_begun, prepare
from client_sdk._protocol.round_answer import RoundAnswer
from client_sdk._protocol.session import Session
from client_sdk._protocol.submit import deliver, repair
from client_sdk._protocol.verdicts import check_one_set, judge, judging
from client_sdk.federated import Outcome, Update
from client_sdk.progress import PhaseFinished, PhaseStarted
from he_agg.documents.record import PUBLISHED
from he_agg.documents.verdict import OPENED
from he_agg.errors import InputError, ProtocolError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.plan.fixedpoint import Mean
from he_agg.protocol.messages import Receipt

__all__ = ["aggregate", "fetch", "fetch_latest", "resume", "submit", "take_part"]


def submit(session: Session, opened: OpenRound, update: Update) -> Flow[Receipt]:
    """Encrypt and upload; a receipt is the aggregator's promise to count the submission or to say why not.

    Run again after an interruption, with the same update, it sends only what is missing.
    """
    entry = session.spool.entry(opened.id)
    with entry.locked():
        outgoing, _ = yield from prepare(session, opened, entry, update)
        return (yield from cleaned_up(deliver(session, opened, entry, outgoing), outgoing.close))


def aggregate(session: Session, opened: OpenRound, update: Update) -> Flow[Mean]:
    """Encrypt, upload, wait, download, decrypt."""
    entry = session.spool.entry(opened.id)
    with entry.locked():
        outgoing, rounded = yield from prepare(session, opened, entry, update)
        mean = yield from cleaned_up(_finish(session, opened, entry, outgoing), outgoing.close)
        return dataclasses.replace(mean, rounded=rounded)


def take_part(session: Session, opened: OpenRound, update: Update | None) -> Flow[Outcome]:
    """Aggregate; if the round failed, or counts without this update, say so instead of raising.

    Args:
        update: what to submit; None to finish what was submitted before. With the weight 0 nothing is submitted.
    """
    round_id, mean = str(opened.id), None
    reason: Reason | None = Reason.SECOND_SUBMISSION
    why = f"round {round_id}: what this site had submitted to it before counts"
    if update is not None and update.is_nothing:
        if not (yield from compute(partial(session.is_stored, opened.id))):
            reason, why = None, f"round {round_id}: this site has no samples in it"
    elif update is not None:
        try:
            return Outcome(round_id, (yield from aggregate(session, opened, update)), counted=True)
        except (InputError, ProtocolError) as error:
            if error.reason not in (Reason.ROUND_FAILED, Reason.ROUND_CLOSED, Reason.SECOND_SUBMISSION):
                raise
            reason, why = error.reason, error.message
    try:
        if reason == Reason.SECOND_SUBMISSION:
            mean = yield from _resume_or_fetch(session, opened)
        elif reason in (Reason.ROUND_CLOSED, None):
            mean = yield from fetch(session, opened.id, opened.closes_at)
    except ProtocolError as error:
        if error.reason != Reason.ROUND_FAILED:
            raise
        reason, why = error.reason, error.message
    return Outcome(round_id, mean, counted=False, reason=reason, why=why)


def _resume_or_fetch(session: Session, opened: OpenRound) -> Flow[Mean]:
    """Get the mean with what was submitted before; without it if it is not in this spool, or was left out."""
    try:
        return (yield from resume(session, opened))
    except (InputError, ProtocolError) as error:
        if error.reason not in (Reason.BAD_ARGUMENT, Reason.ROUND_CLOSED, Reason.SECOND_SUBMISSION):
            raise
    return (yield from fetch(session, opened.id, opened.closes_at))


def resume(session: Session, opened: OpenRound) -> Flow[Mean]:
    """Finish the submission that is stored for this round: send what is missing, wait, download, decrypt."""
    entry = session.spool.entry(opened.id)
    with entry.locked():
        stored = yield from compute(partial(session.stored, entry))
        if stored is None:
            yield from compute(partial(find_begun, session, entry))
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"round {opened.id}: expected a stored submission to finish, got none in {entry.path.parent}",
                "round.aggregate(update, weight) makes one",
                "`he-agg submit` makes one",
            )
        check_stored(session, opened, entry, stored)
        return (yield from _finish(session, opened, entry, Made(stored)))


def fetch(session: Session, round_id: RoundId, closes_at: float | None = None) -> Flow[Mean]:
    """Wait for a round's sum, download and open it; this site need not be in it.

    Args:
        closes_at: its deadline on the driver's clock, if known. Units: seconds.
    """
    if round_id.federation != session.federation:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"round {round_id}: expected a round of federation {session.federation}, got another",
            f"give one like {session.federation}.1.1; another federation has a site.toml of its own",
        )
    entry = session.spool.entry(round_id)
    with entry.locked():
        time = yield from now()
        stored: Stored | None = None
        # A damaged manifest cannot be sent again, but it must not keep the site from the mean.
        with contextlib.suppress(WireError):
            stored = yield from compute(partial(session.sent, entry))
        answer = yield from _ended(session, entry, max(time, closes_at or -math.inf), round_id, stored)
        return (yield from _opened(session, entry, answer, stored))


def fetch_latest(session: Session) -> Flow[Mean]:
    """Fetch the mean of the newest published round."""
    round_id = yield from last_published(session)
    if round_id is None:
        raise ProtocolError(
            Reason.SUM_NOT_READY,
            f"federation {session.federation}: expected a published round, there is none yet",
            "`he-agg status` shows where it stands",
        )
    return (yield from fetch(session, round_id))


def _finish(session: Session, opened: OpenRound, entry: SpoolEntry, outgoing: Outgoing) -> Flow[Mean]:
    try:
        yield from deliver(session, opened, entry, outgoing)
    except ProtocolError as error:
        # Perhaps it was complete before the crash that made us ask again: the record knows.
        if error.reason != Reason.ROUND_CLOSED:
            raise
    latest = yield from compute(partial(session.sent, entry))  # its manifest may have been renewed
    answer = yield from _ended(session, entry, opened.closes_at, opened.id, latest)
    return (yield from _opened(session, entry, answer, latest, must_count=True))


def _ended(
    session: Session, entry: SpoolEntry, since: float, round_id: RoundId, stored: Stored | None
) -> Flow[RoundAnswer]:
    meanwhile = None if stored is None else partial(repair, session, round_id, entry, stored, Counter())
    answer = yield from await_record(session, round_id, since + session.result_s, meanwhile)
    if answer.signed.body.outcome != PUBLISHED:
        yield from take_failed(session, round_id, answer)
        # The stored submission can never be used.
        yield from compute(entry.remove)
        raise why_failed(session, round_id, answer.signed.body)
    return answer


def _opened(
    session: Session, entry: SpoolEntry, answer: RoundAnswer, stored: Stored | None, must_count: bool = False
) -> Flow[Mean]:
    signed = answer.signed
    own = None if stored is None else stored.submission_id
    yield from check_one_set(session, entry.round_id)
    accepted = yield from judging(session, signed, accept(session, entry, answer, stored))
    started = yield from now()
    until = started + session.result_s
    if accepted.holders is not None:
        yield Report(PhaseStarted(str(entry.round_id), "hold", 0))
        yield from hold(session, accepted, until)
        yield Report(PhaseFinished(str(entry.round_id), "hold", (yield from now()) - started))
    if must_count and own is not None:
        try:
            check_counted(session, signed.body, own)
        except ProtocolError:
            yield from compute(entry.remove)
            raise
    mean = yield from judging(session, signed, collect(session, entry, accepted, until))
    yield from judge(session, signed, OPENED)
    yield from compute(entry.remove)
    return mean
