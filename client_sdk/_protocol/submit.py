"""Flows that bring a stored submission to the aggregator, as often as it takes, always the same bytes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

from client_sdk._disk.spool import SpoolEntry, Stored
from client_sdk._protocol.accept import RejectedError
from client_sdk._protocol.effects import FileBody, Flow, Report, Request, Response, compute, now, together
from client_sdk._protocol.exchange import exchange
from client_sdk._protocol.history import refusing
from client_sdk._protocol.poll import OpenRound
from client_sdk._protocol.prepare import lost_spool
from client_sdk._protocol.session import Session
from client_sdk.progress import PhaseFinished, PhaseProgress, PhaseStarted
from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.errors import HeAggError, ProtocolError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.plan.sections import MAX_PART_BYTES, PartPlace
from he_agg.protocol.http_signatures import known_digest_field, manifest_field
from he_agg.protocol.messages import MAX_RECEIPT_BYTES, Receipt, SubmissionStatus, read

__all__ = ["deliver", "repair"]

_PASSES = 5
"""How often an aggregator may lose what it had stored (a restore from backup, bit rot) within one delivery."""

_PART_TRIES = 3
"""How often one part may arrive changed before the path to the aggregator is called broken."""

_AT_ONCE = 2
"""Parts on their way at a time: while the aggregator checks one and makes it durable, the next uses the link."""

_RUN_BYTES = MAX_PART_BYTES
"""Parts that go in one request, together: what any proxy on the way lets through, for one part may be as long."""

_NO_CONTENT = 204

_DAMAGED_ON_THE_WAY = (Reason.BAD_DIGEST, Reason.TRUNCATED)
_OUTDATED = (Reason.ROSTER_MISMATCH, Reason.CHAIN_MISMATCH)
_START_OVER = (Reason.INCOMPLETE, Reason.UNKNOWN_SUBMISSION)


def deliver(session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored) -> Flow[Receipt]:
    """Announce a stored submission, send the parts that are missing, complete it.

    Raises:
        TransportError: the aggregator could not be reached for too long; everything stays in the spool.
        ProtocolError: it refused: the round is closed, or it has another submission of this site; or its receipt is
            not one.
        WireError: a stored part is damaged.
    """
    started = yield from now()
    sent = len(stored.encoded)
    yield Report(PhaseStarted(str(opened.id), "upload", session.plan.wire_bytes))
    passes = 0
    while True:
        passes += 1
        try:
            missing = yield from _announce(session, opened, entry, stored)
            first = _rest(missing, session.plan.places)
            if first is not None:
                put, answer = yield from _put_rest(session, opened, entry, stored, first)
            else:
                put = yield from _put_missing(session, opened, entry, stored, missing)
                answer = yield from _complete(session, opened, stored)
            sent += put
            receipt = yield from _take_receipt(session, opened, entry, stored, answer)
        except ProtocolError as error:
            if error.reason not in _START_OVER:
                raise _explained(error, opened) from error
            if passes == _PASSES:
                raise ProtocolError(
                    error.reason,
                    f"round {opened.id}: the aggregator lost parts of this submission {passes} times: {error.message}",
                    "tell the operator; the submission stays in the spool, round.resume() sends it again",
                ) from error
        else:
            yield Report(PhaseFinished(str(opened.id), "upload", (yield from now()) - started, sent_bytes=sent))
            return receipt


def repair(session: Session, round_id: RoundId, entry: SpoolEntry, stored: Stored) -> Flow[None]:
    """Send the parts again that the aggregator's disk has damaged after the round closed; usually there are none.

    Raises:
        TransportError: the aggregator could not be reached for too long.
        ProtocolError: it refused.
        WireError: the part is damaged here, too.
    """
    opened = OpenRound(round_id, True, math.inf)
    try:
        status = yield from _ask_status(session, opened, stored)
        if status.id != stored.submission_id or status.state != "complete":
            return
        for place in _missing(session, status):
            yield from _put(session, opened, entry, stored, place)
    except ProtocolError as error:
        # The round has ended in the meantime: its record says how.
        if error.reason not in (Reason.ROUND_CLOSED, Reason.UNKNOWN_SUBMISSION):
            raise


def _until(session: Session, opened: OpenRound) -> float:
    """Return how long to be patient: after the deadline only one answer is left."""
    return opened.closes_at + session.patience_s


def _announce(session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored) -> Flow[list[PartPlace]]:
    """Send the manifest; the answer says which parts are missing."""
    request = Request(
        "POST",
        f"/v1/rounds/{opened.id}/submissions",
        frozenset({200, 201}),
        body=stored.encoded,
        content_digest=known_digest_field(stored.submission_id),
        headers={"Content-Type": "application/json"},
    )
    try:
        response = yield from exchange(session.retries, request, _until(session, opened))
    except ProtocolError as error:
        if error.reason == Reason.SECOND_SUBMISSION:
            # It will never be accepted, and must not stand in the way of what was.
            yield from compute(entry.remove)
            raise lost_spool(session, opened) from error
        if error.reason in _OUTDATED:
            # It was never taken, and as it is never will be: nothing is lost with it.
            yield from compute(entry.remove)
            raise ProtocolError(
                error.reason,
                f"round {opened.id}: the aggregator uses another roster or record than this site's manifest: "
                f"{error.message}",
                "ask for the open round again and call aggregate() with the same update: it is encrypted anew",
            ) from error
        raise
    status = read(SubmissionStatus, response.body)
    places = session.plan.places
    if (
        status.id != stored.submission_id
        or status.round_id != str(opened.id)
        or status.parts != len(places)
        or len(status.missing) > len(places)
        or not all(0 <= number < len(places) for number in status.missing)
    ):
        raise ProtocolError(
            Reason.BAD_ANSWER,
            f"expected the state of submission {stored.submission_id[:12]} with {len(places)} parts, "
            "got that of another one",
        )
    return _missing(session, status)


def _ask_status(session: Session, opened: OpenRound, stored: Stored) -> Flow[SubmissionStatus]:
    request = Request("GET", f"/v1/submissions/{stored.submission_id}", frozenset({200}))
    response = yield from exchange(session.retries, request, _until(session, opened))
    return read(SubmissionStatus, response.body)


def _missing(session: Session, status: SubmissionStatus) -> list[PartPlace]:
    """List the parts that the aggregator still needs, in order; ignore numbers the plan does not have."""
    missing = set(status.missing)
    return [place for place in session.plan.places if place.number in missing]


def _put_missing(
    session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored, missing: list[PartPlace]
) -> Flow[int]:
    total = session.plan.wire_bytes
    done = total - sum(place.wire_bytes for place in missing)
    yield Report(PhaseProgress(str(opened.id), "upload", done, total))

    def stored_there(one: tuple[PartPlace, int]) -> PhaseProgress:
        nonlocal done
        done += one[0].wire_bytes
        return PhaseProgress(str(opened.id), "upload", done, total)

    def put(place: PartPlace) -> Flow[tuple[PartPlace, int]]:
        return place, (yield from _put(session, opened, entry, stored, place))

    puts = yield from together([partial(put, place) for place in missing], _AT_ONCE, stored_there)
    return sum(sent for _, sent in puts)


def _put(session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored, place: PartPlace) -> Flow[int]:
    request = Request(
        "PUT",
        f"/v1/submissions/{stored.submission_id}/parts/{place.number}",
        frozenset({200, 201, 204}),
        body=FileBody(((entry.part_path(place.number), place.wire_bytes),)),
        content_digest=known_digest_field(stored.manifest.part_digests[place.number]),
        headers={"Content-Type": "application/octet-stream"},
    )
    times = 1

    def again() -> Flow[Request]:
        nonlocal times
        times += 1
        yield from ()
        return request

    yield from _send(session, opened, request, again, lambda: _check_stored(entry, stored, [place]))
    return place.wire_bytes * times


def _send(
    session: Session,
    opened: OpenRound,
    request: Request,
    again: Callable[[], Flow[Request]],
    check: Callable[[], Flow[None]],
) -> Flow[Response]:
    """Send parts again until the aggregator has them undamaged."""
    tries = 0
    while True:
        tries += 1
        try:
            return (yield from exchange(session.retries, request, _until(session, opened), again))
        except HeAggError as error:
            yield from check()
            if error.reason not in _DAMAGED_ON_THE_WAY or tries == _PART_TRIES:
                raise
        request = yield from again()


def _rest(missing: Sequence[PartPlace], places: Sequence[PartPlace]) -> int | None:
    """Return the first missing part, if everything from there on is missing."""
    return len(places) - len(missing) if missing and list(missing) == list(places[-len(missing) :]) else None


def _put_rest(
    session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored, first: int
) -> Flow[tuple[int, bytes]]:
    """Send all parts from one on in as few requests as possible; the last is answered with the receipt.

    What was interrupted goes on where the aggregator says.

    Returns:
        How many bytes went out, and the answer.
    """
    places = session.plan.places
    sent = 0
    run = _run_from(places, first)

    def put() -> Request:
        nonlocal sent
        sent += sum(place.wire_bytes for place in run)
        return _put_run(session, opened, entry, stored, run)

    def again() -> Flow[Request]:
        nonlocal run
        missing = _missing(session, (yield from _ask_status(session, opened, stored)))
        run = _run_from(places, missing[0].number if missing else len(places))
        return put()

    def check() -> Flow[None]:
        return _check_stored(entry, stored, run)

    while True:
        response = yield from _send(session, opened, put(), again, check)
        if response.status != _NO_CONTENT:
            return sent, response.body
        run = _run_from(places, run[-1].number + 1)


def _run_from(places: Sequence[PartPlace], first: int) -> Sequence[PartPlace]:
    """Return the parts that go in one request: several short ones, or a long one."""
    ends = itertools.accumulate(place.wire_bytes for place in places[first:])
    return places[first : first + max(1, sum(end <= _RUN_BYTES for end in ends))]


def _put_run(
    session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored, run: Sequence[PartPlace]
) -> Request:
    if not run:
        return _completion(stored)
    first, total = run[0].number, session.plan.wire_bytes
    there = sum(place.wire_bytes for place in session.plan.places[:first])
    return Request(
        "PUT",
        f"/v1/submissions/{stored.submission_id}" + (f"?from={first}" if first else ""),
        frozenset({200, 201, _NO_CONTENT}),
        body=FileBody(tuple((entry.part_path(place.number), place.wire_bytes) for place in run)),
        content_digest=manifest_field(stored.submission_id),
        progress=lambda sent: PhaseProgress(str(opened.id), "upload", there + sent, total),
        headers={"Content-Type": "application/octet-stream"},
    )


def _check_stored(entry: SpoolEntry, stored: Stored, places: Sequence[PartPlace]) -> Flow[None]:
    for place in places:
        digest = stored.manifest.part_digests[place.number]
        yield from compute(partial(entry.check_part, place.number, place.wire_bytes, digest))


def _complete(session: Session, opened: OpenRound, stored: Stored) -> Flow[bytes]:
    """Say that all parts are there. Returns the answer."""
    response = yield from exchange(session.retries, _completion(stored), _until(session, opened))
    return response.body


def _completion(stored: Stored) -> Request:
    return Request("POST", f"/v1/submissions/{stored.submission_id}/complete", frozenset({200, 201}), body=b"")


def _take_receipt(
    session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored, answer: bytes
) -> Flow[Receipt]:
    receipt = yield from refusing(session, "receipt-rejected", opened.id, _receipt(session, opened, stored, answer))
    yield from compute(partial(entry.keep_receipt, answer))
    return receipt


def _receipt(session: Session, opened: OpenRound, stored: Stored, body: bytes) -> Flow[Receipt]:
    """Read a receipt, and see that an aggregator of the roster gives it for this very submission.

    The same receipt is given again and again, so it may be of the time of the roster that the manifest names.
    """
    keys = session.rosters.newest.roster.keys_of(Role.AGGREGATOR)
    before = session.rosters.named(stored.manifest.roster)
    try:
        document = yield from compute(partial(Signed.parse, body, "receipt", MAX_RECEIPT_BYTES))
        receipt = Receipt.parse(document.body)
    except WireError as error:
        raise RejectedError(error.reason, "receipt", "a signed receipt", error.message) from error
    if not document.signers(keys) and (before is None or not document.signers(before.keys_of(Role.AGGREGATOR))):
        raise RejectedError(
            Reason.BAD_SIGNATURE,
            "receipt, signature",
            f"of {' or '.join(sorted(keys))}",
            f"signed by {' '.join(sorted(document.signatures)) or 'nobody'}",
        )
    for what, want, got in (
        ("submission", stored.submission_id, receipt.id),
        ("round", str(opened.id), receipt.round_id),
        ("site", session.site, receipt.site),
    ):
        if want != got:
            raise RejectedError(Reason.BAD_ANSWER, f"receipt, {what}", want, got)
    return receipt


def _explained(error: ProtocolError, opened: OpenRound) -> ProtocolError:
    if error.reason == Reason.ROUND_CLOSED:
        return ProtocolError(
            error.reason,
            f"round {opened.id} closed before this site's submission was complete: {error.message}",
            "round.fetch() gets the mean of the other sites; site.rounds() goes on to the next round",
        )
    return error
