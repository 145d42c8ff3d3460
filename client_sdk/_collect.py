"""Flows that wait for a round's record, check it, fetch the sum and open it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from client_sdk._effects import Flow, Report, Request, compute, now
from client_sdk._exchange import exchange
from client_sdk._poll import POLL_S, current_round, unhurried
from client_sdk._record import check_record
from client_sdk._session import Session
from client_sdk.progress import PhaseFinished, PhaseProgress, PhaseStarted
from client_sdk.spool import SpoolEntry
from he_agg.errors import HeAggError, ProtocolError, Reason, WireError
from he_agg.fixedpoint import Mean, dequantize
from he_agg.ids import RoundId
from he_agg.record import MAX_RECORD_BYTES, RoundRecord
from he_agg.sections import Part, PartPlace
from he_agg.wire import parse_part

__all__ = ["await_record", "fetch_sum"]

_PART_TRIES = 3
"""How often one part of the sum may arrive with another digest than the record's."""


def await_record(
    session: Session, round_id: RoundId, until: float, meanwhile: Callable[[], Flow[None]] | None = None
) -> Flow[RoundRecord]:
    """Wait until the round is published or failed, and read what became of it.

    Args:
        session: the site.
        round_id: the attempt.
        until: when to stop asking, on the driver's clock. Units: seconds.
        meanwhile: what to do whenever there is no record yet.

    Raises:
        TransportError: the aggregator could not be reached for too long.
        ProtocolError: there is no result in time, or the record is none or not of this round, plan and key.
    """
    started = yield from now()
    yield Report(PhaseStarted(str(round_id), "wait", 0))
    request = Request(
        "GET",
        f"/v1/rounds/{round_id}/record?wait={POLL_S}",
        frozenset({200, 204}),
        max_bytes=MAX_RECORD_BYTES,
        silence_s=2 * POLL_S,
    )
    while True:
        asked_at = yield from now()
        response = yield from exchange(session.retries, request)
        if response.status == 200:
            break
        if (yield from now()) > until:
            until = yield from _later(session, round_id)
        if (yield from now()) > until:
            raise ProtocolError(
                Reason.SUM_NOT_READY,
                f"round {round_id}: expected a result by now, the aggregator has none yet",
                f"get it later with round.fetch() or `he-agg fetch --round {round_id}`; if it never comes, ask the "
                "operator",
            )
        if meanwhile is not None:
            yield from meanwhile()
        yield from unhurried(asked_at)
    try:
        record = RoundRecord.parse(response.body)
    except WireError as error:
        raise ProtocolError(Reason.BAD_ANSWER, f"record of round {round_id}: {error.message}") from error
    check_record(session, round_id, record)
    seconds = (yield from now()) - started
    yield Report(PhaseFinished(str(round_id), "wait", seconds, received_bytes=len(response.body)))
    return record


def _later(session: Session, round_id: RoundId) -> Flow[float]:
    """Until when to go on asking after all: the operator may have paused the federation, which moves deadlines."""
    current = yield from current_round(session)
    time = yield from now()
    if current.state == "paused":
        return time + session.result_s
    if current.round_id == str(round_id) and current.remaining_s:
        return time + current.remaining_s + session.result_s
    return -math.inf


def fetch_sum(session: Session, entry: SpoolEntry, record: RoundRecord) -> Flow[Mean]:
    """Download the sum of a checked record, part by part into the spool, and open it.

    Args:
        session: the site.
        entry: the round's place in the spool, locked.
        record: a published record that `await_record` has checked.

    Raises:
        TransportError: the aggregator could not be reached for too long; parts that are here stay.
        ProtocolError: a part is not what the record and the plan say.
        DecryptionError: the sum did not open to what it must be; nothing was released.
        ConfigError: the spool cannot be used.
    """
    round_id = str(record.round_id)
    total = session.plan.wire_bytes
    started = yield from now()
    yield Report(PhaseStarted(round_id, "download", total))
    done = received = 0
    for place in session.plan.places:
        digest = record.sum_digests[place.number]
        if not (yield from compute(partial(entry.has_sum_part, place.number, place.wire_bytes, digest))):
            data = yield from _get_part(session, record.round_id, place, digest)
            yield from compute(partial(entry.write_sum_part, place.number, data))
            received += len(data)
            del data
        done += place.wire_bytes
        yield Report(PhaseProgress(round_id, "download", done, total))
    finished = yield from now()
    yield Report(PhaseFinished(round_id, "download", finished - started, received_bytes=received))
    yield Report(PhaseStarted(round_id, "decrypt", total))
    mean = yield from compute(partial(_open, session, entry, record))
    yield Report(PhaseFinished(round_id, "decrypt", (yield from now()) - finished))
    return mean


def _get_part(session: Session, round_id: RoundId, place: PartPlace, digest: str) -> Flow[bytes]:
    request = Request(
        "GET",
        f"/v1/rounds/{round_id}/sum/{place.section_index}/parts/{place.index}",
        frozenset({200}),
        max_bytes=place.wire_bytes,
    )
    for _ in range(_PART_TRIES):
        response = yield from exchange(session.retries, request)
        if (yield from compute(partial(_sha256, response.body))) == digest:
            try:
                yield from compute(
                    partial(parse_part, response.body, place, session.plan.plan_id, check_residues=False)
                )
            except WireError as error:
                raise _not_a_part(round_id, error) from error
            return response.body
    raise ProtocolError(
        Reason.BAD_DIGEST,
        f"round {round_id}, sum, part {place.number}: expected digest {digest[:12]} as the record says, "
        f"got {len(response.body)} bytes of another one, {_PART_TRIES} times",
        "tell the operator: what the aggregator stores and what it published differ",
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _open(session: Session, entry: SpoolEntry, record: RoundRecord) -> Mean:
    n_sites = len(record.members)
    total = partial(_sum_part, session, entry, record)
    sums: NDArray[np.int64] = session.codec.decrypt(total, n_sites, session.key, record.round_id)
    return dequantize(session.key.plan, sums, n_sites)


def _sum_part(session: Session, entry: SpoolEntry, record: RoundRecord, number: int) -> Part:
    try:
        # The codec looks at every residue anyway.
        data = entry.sum_path(number).read_bytes()
        return parse_part(data, session.plan.places[number], session.plan.plan_id, check_residues=False)
    except WireError as error:
        raise _not_a_part(record.round_id, error) from error


def _not_a_part(round_id: RoundId, error: HeAggError) -> ProtocolError:
    return ProtocolError(error.reason, f"round {round_id}, sum: {error.message}", error.hint)
