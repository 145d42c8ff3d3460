"""Flows that tell the aggregator whether this site could open a sum, without ever standing in a round's way."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from client_sdk._effects import Flow, Request, compute, now
from client_sdk._protocol.exchange import exchange
from client_sdk._protocol.session import Session
from he_agg.documents.record import RoundRecord
from he_agg.documents.signed import Signed
from he_agg.documents.verdict import REJECTED, Verdict
from he_agg.errors import DecryptionError, HeAggError, ProtocolError, Reason
from he_agg.ids import RoundId

__all__ = ["check_one_set", "deliver_verdicts", "judge", "judging"]

T = TypeVar("T")

_PATIENCE_S = 5.0
"""How long a verdict is tried for; then it goes with the next request. Units: seconds."""

_PASSES = frozenset(
    {
        Reason.BUSY,
        Reason.TOO_MANY_REQUESTS,
        Reason.TOO_SLOW,
        Reason.STORAGE_FULL,
        Reason.INTERNAL,
        Reason.ROSTER_EXPIRED,
        Reason.UNAUTHENTICATED,
        Reason.BAD_ANSWER,
    }
)
"""Refusals after which a verdict may be taken later: they are about the moment, not about it."""


def check_one_set(session: Session, round_id: RoundId) -> Flow[None]:
    """Refuse another set of a round of which this site has opened one: their difference is what a few sites sent.

    Honest sites have all rejected a sum that is given up. If this one has not, somebody was shown something else.

    Raises:
        ProtocolError: it has.
    """
    opened = yield from compute(partial(session.verdicts.opened, round_id.number))
    if opened in (None, round_id):
        return
    if opened is not None and opened.attempt > round_id.attempt:
        raise ProtocolError(
            Reason.ROUND_FAILED,
            f"round {round_id}: its sum was given up, and this site has opened that of round {opened}",
        )
    noted = partial(
        session.log.note,
        "second-set-refused",
        federation=session.federation,
        site=session.site,
        round=str(round_id),
        opened=str(opened),
    )
    yield from compute(noted)
    raise ProtocolError(
        Reason.CHAIN_MISMATCH,
        f"round {round_id}: this site has opened the sum of round {opened}, and takes part in no other attempt at it",
        f"tell the coordinators: others say that they could not open that sum; see {session.log.path}",
    )


def judging(session: Session, signed: Signed[RoundRecord], flow: Flow[T]) -> Flow[T]:
    """Run a part of opening a record's sum; where the sum is refused, say so."""
    try:
        return (yield from flow)
    except DecryptionError:
        yield from judge(session, signed, REJECTED)
        raise


def judge(session: Session, signed: Signed[RoundRecord], found: str) -> Flow[None]:
    """Sign a verdict, keep it and deliver it. A sum that this site is not in is for others to judge.

    Of a record that no aggregator has signed nothing is said: it is not about the round, but about who served it.
    """
    record = signed.body
    known = session.rosters.aggregator_keys(record.roster)
    if session.site not in record.members or not any(signed.signers(keys) for keys in known):
        return
    verdict = Verdict(record.round_id, signed.digest, session.site, found)
    yield from compute(partial(session.verdicts.keep, Signed.make(verdict, session.identity.signing_key)))
    yield from deliver_verdicts(session)


def deliver_verdicts(session: Session) -> Flow[None]:
    """Send what is not delivered yet. What cannot be sent now goes next time, and nothing fails for it."""
    for signed in (yield from compute(session.verdicts.unsent)):
        verdict = signed.body
        request = Request(
            "PUT",
            f"/v1/rounds/{verdict.round_id}/verdicts/{session.site}",
            frozenset({200, 201}),
            body=signed.encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            yield from exchange(session.retries, request, (yield from now()) + _PATIENCE_S)
        except HeAggError as error:
            if not isinstance(error, ProtocolError) or error.reason in _PASSES:
                return
        yield from compute(partial(session.verdicts.settle, verdict.round_id))
