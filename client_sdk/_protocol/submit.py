"""Flows that bring a stored submission to the aggregator, as often as it takes, always the same parts.

An aggregator that refuses the manifest can have another one signed, if roster or records have moved on, but never
another encryption: by refusals it could otherwise collect as many ciphertexts of one update as it liked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from client_sdk._disk.spool import SpoolEntry, Stored
from client_sdk._effects import FileBody, Flow, Report, Request, Response, compute, now
from client_sdk._protocol.accept import RejectedError, signers
from client_sdk._protocol.dealing import DAMAGED_ON_THE_WAY, TRIES, send_dealing
from client_sdk._protocol.exchange import answer_error, exchange, problem_of
from client_sdk._protocol.history import catch_up, follow_rosters, refusing
from client_sdk._protocol.poll import OpenRound
from client_sdk._protocol.prepare import lost_spool
from client_sdk._protocol.session import Session
from client_sdk.progress import PhaseFinished, PhaseProgress, PhaseStarted
from he_agg.documents.manifest import MAX_MANIFEST_BYTES, Manifest
from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.errors import HeAggError, ProtocolError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.plan.sections import MAX_PART_BYTES, PartPlace
from he_agg.protocol.http_signatures import known_digest_field, manifest_field
from he_agg.protocol.messages import Receipt, SubmissionState, SubmissionStatus

__all__ = ["deliver", "repair"]

_PASSES = 5
"""How often an aggregator may lose what it had stored (a restore from backup, bit rot) within one delivery."""


_RUN_BYTES = MAX_PART_BYTES
"""Parts that go in one request, together: what any proxy on the way lets through, for one part may be as long."""

_ANNOUNCEMENTS = 4
"""How many manifests of one encryption are announced: more rosters do not come while a round is open."""

_DEALING = -1
"""In the place of a part's number."""

_NO_CONTENT = 204

_OUTDATED = (Reason.ROSTER_MISMATCH, Reason.CHAIN_MISMATCH)
_START_OVER = (Reason.INCOMPLETE, Reason.UNKNOWN_SUBMISSION)


def deliver(session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored) -> Flow[Receipt]:
    """Announce a stored submission, send its dealing and the parts that are missing, complete it.

    Raises:
        ProtocolError: it refused: the round is closed, or it has another submission of this site; or its receipt is
            not one.
    """
    # Before the first byte goes out: from here on it may be in a sum, whatever becomes of this process.
    if not stored.elsewhere:
        yield from compute(partial(session.ledger.enter, opened.id, stored.submission_id, stored.fingerprint))
    started = yield from now()
    sent = len(stored.encoded)
    yield Report(PhaseStarted(str(opened.id), "upload", session.plan.wire_bytes))
    passes = 0
    while True:
        passes += 1
        try:
            stored, status = yield from _announce(session, opened, entry, stored)
            missing = _missing(session, status)
            if stored.elsewhere and (missing or status.dealing_missing):
                raise lost_spool(session, opened)
            if status.dealing_missing:
                sent += yield from send_dealing(session, opened, entry, stored, _until(session, opened))
            upload = _Upload(session, opened, entry, stored, missing)
            try:
                answer = yield from upload.send_all()
            finally:
                sent += upload.sent_bytes
            receipt = yield from _take_receipt(session, opened, entry, stored, answer)
        except ProtocolError as error:
            if error.reason not in _START_OVER:
                raise _explained(error, opened) from error
            if passes == _PASSES or (yield from now()) > _until(session, opened):
                raise ProtocolError(
                    error.reason,
                    f"round {opened.id}: the aggregator lost parts of this submission {passes} times: {error.message}",
                    "tell the operator; the submission stays in the spool, round.resume() sends it again",
                    "tell the operator; the submission stays in the spool, `he-agg submit` with the same file sends it "
                    "again",
                ) from error
        else:
            yield Report(PhaseFinished(str(opened.id), "upload", (yield from now()) - started, sent_bytes=sent))
            return receipt


def repair(
    session: Session, round_id: RoundId, entry: SpoolEntry, stored: Stored, repaired: Counter[int]
) -> Flow[None]:
    """Send again what the aggregator's disk has damaged after the round closed; usually that is nothing.

    Args:
        repaired: how often each part was sent again; three times is enough for an honest disk.
    """
    opened = OpenRound(round_id, (yield from now()), epoch=stored.manifest.epoch)
    try:
        status = yield from _ask_status(session, opened, stored)
        if stored.elsewhere or status.id != stored.submission_id or status.state != SubmissionState.COMPLETE:
            return
        again = [place for place in _missing(session, status) if repaired[place.number] < TRIES]
        repaired.update(place.number for place in again)
        if status.dealing_missing and repaired[_DEALING] < TRIES:
            repaired[_DEALING] += 1
            yield from send_dealing(session, opened, entry, stored, _until(session, opened))
        yield from _Upload(session, opened, entry, stored, again).send_missing()
    except ProtocolError as error:
        # The round has ended in the meantime: its record says how.
        if error.reason not in (Reason.ROUND_CLOSED, Reason.UNKNOWN_SUBMISSION):
            raise


def _until(session: Session, opened: OpenRound) -> float:
    """Return how long to be patient: after the deadline only one answer is left."""
    return opened.closes_at + session.patience_s


def _announce(
    session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored
) -> Flow[tuple[Stored, SubmissionStatus]]:
    """Send the manifest, or another one of the same parts; the answer says what is missing."""
    for _ in range(_ANNOUNCEMENTS):
        request = Request(
            "POST",
            f"/v1/rounds/{opened.id}/submissions",
            frozenset({200, 201, 409, 422}),
            body=stored.encoded,
            content_digest=known_digest_field(stored.submission_id),
            headers={"Content-Type": "application/json"},
            max_bytes=MAX_MANIFEST_BYTES + 2**16,
        )
        response = yield from exchange(session.retries, request, _until(session, opened))
        if response.status in (200, 201):
            return stored, _announced(session, opened, stored, response)
        refusal = answer_error(response, request)
        if refusal.reason == Reason.SECOND_SUBMISSION:
            shown = _first(session, opened, stored, response)
            first = yield from refusing(session, "refusal-rejected", opened.id, shown)
            stored = yield from _take_up(session, opened, entry, stored, first)
        elif refusal.reason in _OUTDATED:
            stored = yield from _renew(session, opened, entry, stored, refusal)
        else:
            raise refusal
    raise refusal


def _announced(session: Session, opened: OpenRound, stored: Stored, response: Response) -> SubmissionStatus:
    status = SubmissionStatus.parse(response.body)
    places = session.plan.places
    if (
        status.id != stored.submission_id
        or status.round_id != str(opened.id)
        or status.parts != len(places)
        or len(status.missing) > len(places)
        or not all(0 <= number < len(places) for number in status.missing)
        or (status.dealing_missing and not session.plan.splits_keys)
    ):
        raise ProtocolError(
            Reason.BAD_ANSWER,
            f"expected the state of submission {stored.submission_id[:12]} with {len(places)} parts, "
            "got that of another one",
        )
    return status


def _first(session: Session, opened: OpenRound, stored: Stored, response: Response) -> Flow[Signed[Manifest]]:
    """Read the manifest that the aggregator says it had first: one that this site's own key has signed."""
    problem = problem_of(response) or {}
    key = session.key_of(opened.epoch)
    try:
        first = Signed.from_json(Manifest, problem.get("manifest"))
        first.body.check(session.plan, opened.id, key.epoch, key.key_id, session.site)
        yield from compute(partial(first.check_signed, {session.site: session.identity.signing_key.public_key}))
    except WireError as error:
        raise RejectedError(
            error.reason, "refusal, first manifest", f"one of this round by {session.site}", error.message
        ) from error
    if first.digest == stored.submission_id:
        raise RejectedError(Reason.BAD_ANSWER, "refusal, first manifest", "another one", "the same")
    return first


def _take_up(
    session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored, first: Signed[Manifest]
) -> Flow[Stored]:
    """Go on with the manifest that was announced first, if it is of the parts that are stored here."""
    encoded, known = first.encode(), stored.manifest
    if replace(first.body, roster=known.roster, previous=known.previous) == known:
        yield from compute(partial(entry.renew, encoded))
        return Stored(first, encoded, stored.fingerprint)
    if (yield from compute(entry.receipt)) is None:
        # What is stored will never be accepted. The first takes its place, so that nothing is encrypted a third time.
        yield from compute(partial(entry.adopt, encoded))
    raise lost_spool(session, opened)


def _renew(session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored, refusal: HeAggError) -> Flow[Stored]:
    """Sign a manifest of the same parts for the roster and the record that this site has verified meanwhile."""
    yield from refusing(session, "roster-rejected", opened.id, follow_rosters(session))
    yield from refusing(session, "chain-rejected", opened.id, catch_up(session, opened.records))
    previous = yield from compute(partial(session.chain.head, opened.records))
    manifest = replace(stored.manifest, roster=session.rosters.newest.body_digest, previous=previous)
    promised = yield from compute(entry.receipt)
    if manifest == stored.manifest or promised is not None:
        raise ProtocolError(
            refusal.reason,
            f"round {opened.id}: the aggregator refuses this site's manifest because of its roster or record, and has "
            f"shown none that is newer: {refusal.message}",
            "the submission stays in the spool, encrypted once. Ask for the open round again and call aggregate() with "
            "the same update; if it is refused again, tell the coordinator",
            "the submission stays in the spool, encrypted once. Run `he-agg submit` again with the same file; if it is "
            "refused again, tell the coordinator",
        )
    signed = Signed.make(manifest, session.identity.signing_key)
    encoded = signed.encode()
    yield from compute(partial(entry.renew, encoded))
    return Stored(signed, encoded, stored.fingerprint)


def _ask_status(session: Session, opened: OpenRound, stored: Stored) -> Flow[SubmissionStatus]:
    request = Request("GET", f"/v1/submissions/{stored.submission_id}", frozenset({200}))
    response = yield from exchange(session.retries, request, _until(session, opened))
    return SubmissionStatus.parse(response.body)


def _missing(session: Session, status: SubmissionStatus) -> list[PartPlace]:
    """The parts that are missing, in order; numbers that the plan does not have are left out."""
    missing = set(status.missing)
    return [place for place in session.plan.places if place.number in missing]


class _Upload:
    """Parts on their way. Whatever is missing goes in as few requests as may be; none is sent that is there already."""

    def __init__(
        self, session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored, missing: list[PartPlace]
    ) -> None:
        self.sent_bytes = 0
        self._session, self._opened, self._entry, self._stored = session, opened, entry, stored
        self._missing = missing
        self._total = session.plan.wire_bytes

    def send_all(self) -> Flow[bytes]:
        """Send what is missing, and the end of the submission, which is empty if its last part is there."""
        while True:
            response = yield from self._send()
            if response.status != _NO_CONTENT:
                return response.body

    def send_missing(self) -> Flow[None]:
        """Send what is missing."""
        while self._missing:
            yield from self._send()

    def _send(self) -> Flow[Response]:
        """Send the next parts until they arrive as they are here."""
        tries = 0
        while True:
            tries += 1
            try:
                response = yield from exchange(
                    self._session.retries, self._next(), _until(self._session, self._opened), self._again
                )
            except HeAggError as error:
                # After a failure only, for the aggregator takes nothing damaged: the fault may be this site's own disk.
                yield from self._check()
                if error.reason not in DAMAGED_ON_THE_WAY or tries == TRIES:
                    raise
                yield from self._ask()
            else:
                self._missing = self._missing[len(self._run) :]
                return response

    def _next(self) -> Request:
        """The request for the first parts that are missing, or for the empty end if none is."""
        places, run = self._session.plan.places, _first_run(self._missing)
        first = run[0].number if run else len(places)
        there = self._total - sum(place.wire_bytes for place in self._missing)
        self._run = run
        self.sent_bytes += sum(place.wire_bytes for place in run)
        return Request(
            "PUT",
            f"/v1/submissions/{self._stored.submission_id}" + (f"?from={first}" if first else ""),
            frozenset({200 if first + len(run) == len(places) else _NO_CONTENT}),
            body=FileBody(tuple((self._entry.part_path(place.number), place.wire_bytes) for place in run)),
            content_digest=manifest_field(self._stored.submission_id),
            progress=lambda sent: PhaseProgress(str(self._opened.id), "upload", there + sent, self._total),
            headers={"Content-Type": "application/octet-stream"},
        )

    def _again(self) -> Flow[Request]:
        yield from self._ask()
        return self._next()

    def _ask(self) -> Flow[None]:
        """Go on where the aggregator says."""
        status = yield from _ask_status(self._session, self._opened, self._stored)
        self._missing = _missing(self._session, status)

    def _check(self) -> Flow[None]:
        for place in self._run:
            digest = self._stored.manifest.part_digests[place.number]
            yield from compute(partial(self._entry.check_part, place.number, place.wire_bytes, digest))


def _first_run(missing: Sequence[PartPlace]) -> Sequence[PartPlace]:
    """The parts that go in one request: consecutive ones, several short ones or a long one."""
    length = 0
    for count, place in enumerate(missing):
        length += place.wire_bytes
        if count and (place.number != missing[count - 1].number + 1 or length > _RUN_BYTES):
            return missing[:count]
    return missing


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
    keys = session.rosters.newest.body.keys_of(Role.AGGREGATOR)
    before = session.rosters.named(stored.manifest.roster)
    try:
        document = yield from compute(partial(Signed.parse, Receipt, body))
        receipt = document.body
    except WireError as error:
        raise RejectedError(error.reason, "receipt", "a signed receipt", error.message) from error
    if not document.signers(keys) and (before is None or not document.signers(before.keys_of(Role.AGGREGATOR))):
        raise RejectedError(
            Reason.BAD_SIGNATURE,
            "receipt, signature",
            f"of {' or '.join(sorted(keys))}",
            signers(document),
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
            "`he-agg fetch` gets the mean of the other sites; `he-agg submit` goes on with the next round",
        )
    return error
