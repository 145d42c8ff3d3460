"""The sum on its way: one answer holds all parts from one on, each is verified, kept and opened when it is whole.

Nothing is decrypted before its own tags were found right; nothing of it leaves before all of them were, and what a part
opens to, or whether it does, changes nothing until then.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, deque
from functools import partial

from client_sdk._disk.sum_parts import SumParts
from client_sdk._effects import Flow, Report, Request, cleaned_up, compute, now
from client_sdk._protocol.accept import RejectedError, check_tags
from client_sdk._protocol.exchange import exchange
from client_sdk._protocol.session import Session
from client_sdk.progress import PhaseProgress
from he_agg.codecs import Opening
from he_agg.documents.record import RoundRecord
from he_agg.errors import HeAggError, ProtocolError, Reason, TransportError, WireError
from he_agg.mac import SumCheck
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import Part, PartPlace
from he_agg.protocol.wire import parse_part

__all__ = ["download", "part_of_sum"]

_PART_TRIES = 3
"""How often one part of the sum may arrive with another digest than the record's."""


class _ChangedError(Exception):
    """A part that came is not the record's. Never leaves this module."""

    def __init__(self, number: int, got: str) -> None:
        super().__init__(number)
        self.number = number
        self.got = got


def download(
    session: Session, sums: SumParts, record: RoundRecord, check: SumCheck, opening: Opening | None
) -> Flow[int]:
    """Have all parts of a sum here, verified, and opened as far as they can be.

    Args:
        sums: of a round that is locked. What an interrupted download left there is not fetched again; if this one is,
            what it has got is in the spool afterwards.
        record: the round's, with the digests of the parts.
        check: made from the manifests of the record.
        opening: takes each part that was verified; None where the sum of keys is still to come.

    Raises:
        RejectedError: a part is not the record's, however often it is fetched, or not one of the plan, or its tags are
            not the sum of the manifests' tags.
    """
    arriving = _Arriving(session, sums, record, check, opening)

    def store() -> None:
        with contextlib.suppress(HeAggError):  # a full disk is not what ended it
            sums.store()

    yield from cleaned_up(_fetch(session, record, arriving), store, unless=RejectedError)  # of that nothing is kept
    return arriving.received_bytes


def _fetch(session: Session, record: RoundRecord, arriving: _Arriving) -> Flow[None]:
    for place in session.plan.places:
        if (yield from compute(partial(arriving.find, place))):
            yield Report(arriving.progress())
    changed: Counter[int] = Counter()
    until = (yield from now()) + session.retries.policy.transfer_s(session.plan.wire_bytes)
    while arriving.missing:
        if (yield from now()) > until:
            what = f"round {record.round_id}: expected the sum by now, {len(arriving.missing)} parts are missing"
            raise TransportError(
                Reason.UNREACHABLE,
                what,
                "what is here stays in the spool: round.fetch() goes on",
                "what is here stays in the spool: `he-agg fetch` goes on",
            )
        try:
            yield from exchange(session.retries, arriving.request(), until, arriving.again)
            arriving.check_end()
        except _WholeError:
            break
        except _ChangedError as error:
            changed[error.number] += 1
            if changed[error.number] == _PART_TRIES:
                digest = record.sum_digests[error.number]
                what = f"sum, part {error.number}, digest, {_PART_TRIES} times"
                raise RejectedError(Reason.BAD_DIGEST, what, digest, error.got) from None


class _WholeError(Exception):
    """All parts are here, though the answer broke before its end. Never leaves this module."""


class _Arriving:
    """Cuts parts out of a stream of bytes, which comes in pieces and may break off in any of them."""

    def __init__(
        self, session: Session, sums: SumParts, record: RoundRecord, check: SumCheck, opening: Opening | None
    ) -> None:
        self.missing = {place.number: place for place in session.plan.places}
        self.received_bytes = 0
        self._plan, self._sums, self._record = session.plan, sums, record
        self._check, self._opening = check, opening
        self._coming: deque[PartPlace] = deque()
        self._memory = session.memory
        self._room = memoryview(b"")
        self._filled = self._done = 0

    @property
    def first_missing(self) -> int:
        """Number of the first part that is not here. There is one."""
        return next(iter(self.missing))

    def find(self, place: PartPlace) -> bool:
        """Look whether an interrupted download has left a part."""
        data = self._sums.find(place.number, place.wire_bytes, self._record.sum_digests[place.number])
        if data is not None:
            self._open(place, self._verified(place, data))
        return data is not None

    def request(self) -> Request:
        """Ask for all parts from the first missing one on."""
        self._coming = deque(self._plan.places[self.first_missing :])
        self._filled = 0
        return Request(
            "GET",
            f"/v1/rounds/{self._record.round_id}/sum?from={self._coming[0].number}",
            frozenset({200}),
            into=self,
        )

    def again(self) -> Flow[Request]:
        """Return what to ask for after an interruption."""
        yield from ()
        if not self.missing:
            raise _WholeError
        return self.request()

    def room(self) -> memoryview:
        """Return where the next bytes belong. See `Sink`."""
        if not self._coming:
            return memoryview(bytearray(1))  # for what is too much
        if not self._filled:
            self._room = self._memory.take(self._coming[0].wire_bytes).data
        return self._room[self._filled :]

    def took(self, count: int) -> PhaseProgress | None:
        """Take note of bytes that came, and take the part that becomes whole with them."""
        if not self._coming:
            raise ProtocolError(Reason.TOO_LARGE, "sum: expected the parts of the plan, got more bytes than that")
        self.received_bytes += count
        self._filled += count
        place = self._coming[0]
        if self._filled < place.wire_bytes:
            return None
        self._filled = 0
        self._coming.popleft()
        if place.number not in self.missing:
            return None
        self._accept(place, self._room)
        return self.progress()

    def check_end(self) -> None:
        """Check, at the end of an answer, that it was the whole one."""
        if self.missing:
            raise _ChangedError(self.first_missing, "fewer bytes")

    def progress(self) -> PhaseProgress:
        """Return how much is here."""
        return PhaseProgress(str(self._record.round_id), "download", self._done, self._plan.wire_bytes)

    def _accept(self, place: PartPlace, data: memoryview) -> None:
        digest = hashlib.sha256(data).hexdigest()
        if digest != self._record.sum_digests[place.number]:
            raise _ChangedError(place.number, digest)
        part = self._verified(place, data)
        self._sums.keep(place.number, data)
        self._open(place, part)

    def _verified(self, place: PartPlace, data: bytes | memoryview) -> Part:
        """Verify a part while it is in memory anyway."""
        part = part_of_sum(self._plan, place, data)
        check_tags(place.number, self._check.holds(place.number, part.packed))
        return part

    def _open(self, place: PartPlace, part: Part) -> None:
        """Open a part that was verified, while the next one fills the buffers of the kernel."""
        if self._opening is not None:
            self._opening.take(part)
        del self.missing[place.number]
        self._done += place.wire_bytes


def part_of_sum(plan: PublicPlan, place: PartPlace, data: bytes | memoryview) -> Part:
    """Take a part of the sum apart. Its residues are for the codec to look at."""
    try:
        return parse_part(data, place, plan.plan_id, check_residues=False)
    except WireError as error:
        raise RejectedError(error.reason, f"sum, part {place.number}", "as in the plan", error.message) from error
