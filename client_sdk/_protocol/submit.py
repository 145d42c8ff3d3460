"""Flows that bring a submission to the aggregator, as often as it takes, always the same parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from client_sdk._disk.files import PIECE_BYTES, read_file
from client_sdk._disk.spool import SpoolEntry
from client_sdk._disk.stored import ELSEWHERE, Stored
from client_sdk._effects import Flow, Report, Request, Response, StreamBody, compute, now
from client_sdk._protocol.dealing import DAMAGED_ON_THE_WAY, TRIES, check_dealing, send_dealing
from client_sdk._protocol.exchange import answer_error, exchange
from client_sdk._protocol.manifests import ANOTHER_MANIFEST, RefusedManifestError, another_manifest, take_receipt
from client_sdk._protocol.outgoing import Made, Outgoing
from client_sdk._protocol.poll import OpenRound
from client_sdk._protocol.prepare import lost_spool, not_here
from client_sdk._protocol.session import Session
from client_sdk.progress import PhaseFinished, PhaseProgress, PhaseStarted
from he_agg.errors import HeAggError, ProtocolError, Reason
from he_agg.ids import RoundId
from he_agg.plan.sections import MAX_PART_BYTES, PartPlace
from he_agg.protocol.http_signatures import manifest_field
from he_agg.protocol.messages import Receipt, SubmissionState, SubmissionStatus

__all__ = ["deliver", "repair"]

_PASSES = 5
"""How often an aggregator may lose what it had stored (a restore from backup, bit rot) within one delivery."""


_RUN_BYTES = MAX_PART_BYTES
"""What goes in one request: what any proxy on the way lets through, for one part may be as long."""

_MANIFESTS = 4
"""How many manifests of one encryption are sent: more rosters do not come while a round is open."""

_DEALING = -1
"""In the place of a part's number."""

_NO_CONTENT = 204

_REFUSED = (409, 422)
_START_OVER = (Reason.INCOMPLETE, Reason.UNKNOWN_SUBMISSION)


def deliver(session: Session, opened: OpenRound, entry: SpoolEntry, outgoing: Outgoing) -> Flow[Receipt]:
    """Send a submission's dealing, the parts that are missing and its manifest, and verify the receipt.

    What is still encrypted is begun here, and sent as it comes. If it cannot be sent, all of it is in the spool when
    this ends.

    Args:
        outgoing: to be closed, unless this gets to its end.

    Raises:
        InputError: another one was sent to this round.
        ProtocolError: it refused: the round is closed, or it has another submission of this site; or its receipt is
            not one.
    """
    outgoing.start()
    upload = _Upload(session, opened, entry, outgoing)
    if outgoing.fingerprint != ELSEWHERE:
        yield from compute(outgoing.wait_until_begun)
        # Before the first byte goes out: from here on it may be in a sum, whatever becomes of this process.
        enter = partial(session.ledger.enter, opened.id, outgoing.upload, outgoing.fingerprint)
        before = yield from compute(enter)
        if before is not None and before.upload != outgoing.upload:
            raise not_here(before)
        upload.fresh = before is None
    started = yield from now()
    yield Report(PhaseStarted(str(opened.id), "upload", session.plan.wire_bytes))
    try:
        receipt = yield from _delivered(session, opened, upload)
    except HeAggError:
        # What was begun is finished here, so that it can be sent again without the update.
        yield from compute(outgoing.stored)
        raise
    if (seconds := outgoing.seconds()) is not None:
        yield Report(PhaseFinished(str(opened.id), "encrypt", seconds))
    yield Report(PhaseFinished(str(opened.id), "upload", (yield from now()) - started, sent_bytes=upload.sent_bytes))
    return receipt


def _delivered(session: Session, opened: OpenRound, upload: _Upload) -> Flow[Receipt]:
    passes = manifests = 0
    while True:
        try:
            return (yield from upload.send_all())
        except RefusedManifestError as refused:
            manifests += 1
            if manifests == _MANIFESTS:
                raise refused.error from refused
            yield from upload.change_manifest(refused)
        except ProtocolError as error:
            if error.reason not in _START_OVER:
                raise _explained(error, opened) from error
            if upload.elsewhere:
                raise lost_spool(session, opened) from error
            passes += 1
            if passes == _PASSES or (yield from now()) > _until(session, opened):
                raise ProtocolError(
                    error.reason,
                    f"round {opened.id}: the aggregator lost parts of this submission {passes} times: {error.message}",
                    "tell the operator; the submission stays in the spool, round.resume() sends it again",
                    "tell the operator; the submission stays in the spool, `he-agg submit` with the same file sends it "
                    "again",
                ) from error


def repair(
    session: Session, round_id: RoundId, entry: SpoolEntry, stored: Stored, repaired: Counter[int]
) -> Flow[None]:
    """Send again what the aggregator's disk has damaged after the round closed; usually that is nothing.

    Args:
        repaired: how often each part was sent again; three times is enough for an honest disk.
    """
    opened = OpenRound(round_id, (yield from now()), epoch=stored.manifest.epoch)
    upload = _Upload(session, opened, entry, Made(stored))
    try:
        status = yield from upload.ask_status()
        if upload.elsewhere or status.state != SubmissionState.COMPLETE:
            return
        upload.missing = [place for place in upload.missing if repaired[place.number] < TRIES]
        repaired.update(place.number for place in upload.missing)
        if status.dealing_missing and repaired[_DEALING] < TRIES:
            repaired[_DEALING] += 1
            yield from send_dealing(session, opened, entry, Made(stored), _until(session, opened))
        yield from upload.send_missing()
    except ProtocolError as error:
        # The round has ended in the meantime: its record says how.
        if error.reason not in (Reason.ROUND_CLOSED, Reason.UNKNOWN_SUBMISSION):
            raise


def _until(session: Session, opened: OpenRound) -> float:
    """Return how long to be patient: after the deadline only one answer is left."""
    return opened.closes_at + session.patience_s


class _Upload:
    """Parts on their way. Whatever is missing goes in as few requests as may be; none is sent that is there already.

    Attributes:
        sent_bytes: how much went out so far. Units: bytes.
        missing: the parts that the aggregator has not, as far as is known.
        fresh: whether nothing of it can be there.
    """

    def __init__(self, session: Session, opened: OpenRound, entry: SpoolEntry, outgoing: Outgoing) -> None:
        self.sent_bytes = 0
        self.missing: Sequence[PartPlace] = session.plan.places
        self.fresh = False
        self._undealt = session.plan.splits_keys
        self._session, self._opened, self._entry, self._outgoing = session, opened, entry, outgoing
        self._total = session.plan.wire_bytes
        self._path = f"/v1/rounds/{opened.id}/submissions/{outgoing.upload}"
        self._run: Sequence[PartPlace] = ()
        self._spoilt = 0  # how often in all: parts that are spoilt on the way are found at the end, in another request

    @property
    def elsewhere(self) -> bool:
        """Whether its parts are not here."""
        return self._outgoing.fingerprint == ELSEWHERE

    def send_all(self) -> Flow[Receipt]:
        """Send what is missing, and the manifest behind it."""
        if self.elsewhere:
            self.missing, self._undealt = (), False
        elif not self.fresh:
            yield from self._ask()
        self.fresh = False
        if self._undealt:
            sent = send_dealing(self._session, self._opened, self._entry, self._outgoing, self._until)
            self.sent_bytes += yield from sent
            self._undealt = False
        while True:
            response = yield from self._send()
            if response.status != _NO_CONTENT:
                stored = yield from compute(self._outgoing.stored)
                return (yield from take_receipt(self._session, self._opened, self._entry, stored, response.body))

    def send_missing(self) -> Flow[None]:
        """Send what is missing of a submission that is complete."""
        while self.missing:
            yield from self._send()

    def ask_status(self) -> Flow[SubmissionStatus]:
        """Ask what is missing."""
        request = Request("GET", self._path, frozenset({200}))
        response = yield from exchange(self._session.retries, request, self._until)
        status = SubmissionStatus.parse(response.body)
        places, numbers = self._session.plan.places, set(status.missing)
        if (
            (status.upload, status.round_id) != (self._outgoing.upload, str(self._opened.id))
            or status.parts != len(places)
            or len(status.missing) > len(places)
            or not numbers <= {place.number for place in places}
            or (status.dealing_missing and not self._session.plan.splits_keys)
        ):
            raise ProtocolError(
                Reason.BAD_ANSWER,
                f"expected the state of upload {self._outgoing.upload[:12]} with {len(places)} parts, "
                "got that of another one",
            )
        self.missing = [place for place in places if place.number in numbers]
        self._undealt = status.dealing_missing
        return status

    def change_manifest(self, refused: RefusedManifestError) -> Flow[None]:
        """Go on with another manifest of the same parts."""
        stored = yield from compute(self._outgoing.stored)
        other = another_manifest(self._session, self._opened, self._entry, stored, refused)
        self._outgoing = Made((yield from other))

    @property
    def _until(self) -> float:
        return _until(self._session, self._opened)

    def _send(self) -> Flow[Response]:
        """Send the next parts until they arrive as they are here."""
        while True:
            try:
                request = self._next()
                response = yield from exchange(self._session.retries, request, self._until, self._again)
                if response.status in _REFUSED:
                    refusal = answer_error(response, request)
                    if refusal.reason in ANOTHER_MANIFEST:
                        raise RefusedManifestError(refusal, response)
                    raise refusal
            except HeAggError as error:
                # After a failure only, for the aggregator takes nothing damaged: the fault may be this site's own disk.
                yield from self._check(error)
                self._spoilt += error.reason in DAMAGED_ON_THE_WAY
                if error.reason not in DAMAGED_ON_THE_WAY or self._spoilt == TRIES:
                    raise
                yield from self._ask()
            else:
                self.missing = self.missing[len(self._run) :]
                return response

    def _next(self) -> Request:
        """The request for the first parts that are missing; with the manifest, if they are the last and it fits."""
        places, run, outgoing = self._session.plan.places, _first_run(self.missing), self._outgoing
        first = run[0].number if run else len(places)
        there = self._total - sum(place.wire_bytes for place in self.missing)
        length = sum(place.wire_bytes for place in run)
        at_end = first + len(run) == len(places) and (not run or length + outgoing.manifest_bytes <= MAX_PART_BYTES)
        length += at_end * outgoing.manifest_bytes
        self._run = run
        self.sent_bytes += length

        def pieces() -> Iterator[bytes | memoryview]:
            for place in run:
                part = outgoing.part(place.number)
                if part is None:
                    yield from read_file(self._entry.part_path(place.number), place.wire_bytes)
                else:
                    yield from (part[at : at + PIECE_BYTES] for at in range(0, len(part), PIECE_BYTES))
            if at_end:
                yield outgoing.stored().encoded.ljust(outgoing.manifest_bytes)

        return Request(
            "PUT",
            self._path + (f"?from={first}" if first else ""),
            frozenset({200 if at_end else _NO_CONTENT, *_REFUSED}),
            body=StreamBody(length, pieces),
            content_digest=manifest_field(outgoing.upload),
            progress=lambda sent: PhaseProgress(
                str(self._opened.id), "upload", min(there + sent, self._total), self._total
            ),
            headers={"Content-Type": "application/octet-stream"},
        )

    def _again(self) -> Flow[Request]:
        yield from self._ask()
        return self._next()

    def _ask(self) -> Flow[None]:
        """Go on where the aggregator says; from the first part on, if it knows nothing."""
        try:
            yield from self.ask_status()
        except ProtocolError as error:
            if error.reason != Reason.UNKNOWN_SUBMISSION:
                raise
            self.missing, self._undealt = self._session.plan.places, self._session.plan.splits_keys

    def _check(self, error: HeAggError) -> Flow[None]:
        # What was changed before it left is found at the end only, whenever it left.
        places = self._session.plan.places if error.reason in DAMAGED_ON_THE_WAY else self._run
        if self.elsewhere or not places:
            return
        stored = yield from compute(self._outgoing.stored)
        for place in places:
            digest = stored.manifest.part_digests[place.number]
            yield from compute(partial(self._entry.check_part, place.number, place.wire_bytes, digest))
        if self._session.plan.splits_keys and error.reason in DAMAGED_ON_THE_WAY:
            yield from check_dealing(self._session, self._opened, self._entry, stored)


def _first_run(missing: Sequence[PartPlace]) -> Sequence[PartPlace]:
    """The parts that go in one request: consecutive ones, several short ones or a long one."""
    length = 0
    for count, place in enumerate(missing):
        length += place.wire_bytes
        if count and (place.number != missing[count - 1].number + 1 or length > _RUN_BYTES):
            return missing[:count]
    return missing


def _explained(error: ProtocolError, opened: OpenRound) -> ProtocolError:
    if error.reason == Reason.ROUND_CLOSED:
        return ProtocolError(
            error.reason,
            f"round {opened.id} closed before this site's submission was complete: {error.message}",
            "round.fetch() gets the mean of the other sites; site.rounds() goes on to the next round",
            "`he-agg fetch` gets the mean of the other sites; `he-agg submit` goes on with the next round",
        )
    return error
