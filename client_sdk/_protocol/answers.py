"""Flows that wait for the answers of a round's holders, and open its sum with the sum of one-time keys they give.

An aggregator serves echoes and answers; each counts if a listed holder has signed it, for this very record. With fewer
echoes than the quorum nothing is opened: another record of the same number might be answered. Who answered otherwise
than the others shows when the sum opens, and goes into the security log by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk._effects import Flow, Report, Request, compute, now
from client_sdk._protocol.accept import RejectedError
from client_sdk._protocol.exchange import exchange
from client_sdk._protocol.holding import context_of, seen_by
from client_sdk._protocol.session import Session
from client_sdk._protocol.state import poll_s, unhurried
from client_sdk.progress import Waits
from he_agg import canonical
from he_agg.documents.holding import MAX_ANSWER_BYTES, MAX_ECHO_BYTES, Answer, Echo
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import RoundRecord
from he_agg.documents.roster import Role
from he_agg.documents.sharing import HolderList
from he_agg.documents.signed import Signed
from he_agg.errors import DecryptionError, ProtocolError, Reason, WireError, counted
from he_agg.sharing.decoding import Rebuilt, rebuild
from he_agg.sharing.field import Elements
from he_agg.sharing.masks import total_mask, unmasked
from he_agg.sharing.shares import read_answer
from he_agg.sharing.thresholds import MAX_HOLDERS
from keys import GroupKey

__all__ = ["Told", "open_with_answers"]

_MAX_BYTES = 64 + MAX_HOLDERS * (MAX_ECHO_BYTES + MAX_ANSWER_BYTES)

T = TypeVar("T")

OpenSum = Callable[[NDArray[np.int64]], T]
"""Opens a round's sum with a sum of keys, or raises `RejectedError`. The sum of keys is wiped when it returns."""


def open_with_answers(
    session: Session,
    key: GroupKey,
    holders: HolderList,
    record: RoundRecord,
    manifests: tuple[Signed[Manifest], ...],
    open_sum: OpenSum[T],
    until: float,
) -> Flow[T]:
    """Wait for answers, and open a sum with what they give; if it does not open, wait for more while more may help.

    Args:
        holders: of the round, which all its members have dealt to.
        manifests: of the record's members; the record has been verified, and is in the chain.
        until: how long answers are waited for, on the driver's clock. Units: seconds.

    Raises:
        RejectedError: the sum does not open with them.
        ProtocolError: `SUM_NOT_READY`: too few holders have answered.
    """
    digest = yield from compute(partial(session.chain.head, record.index))
    keys = session.rosters.signed_as(record.roster).body.keys_of(Role.HOLDER)
    told, refused = Told(holders, keys, record, digest), None
    masks = yield from compute(
        partial(total_mask, key.mask_key, [context_of(holders, signed.body) for signed in manifests])
    )
    try:
        while True:
            if not (yield from _ask(session, told, until)):
                raise refused or _not_ready(record, holders)
            if not told.is_enough:
                continue
            try:
                opened, liars = yield from compute(partial(told.open, masks, len(manifests), open_sum))
            except RejectedError as error:
                refused = RejectedError(error.reason, error.what, error.expected, error.got)
                if told.is_final:
                    raise refused from None
            else:
                yield from compute(partial(_note_liars, session, record, liars))
                return opened
    finally:
        masks.fill(0)


def _ask(session: Session, told: Told, until: float) -> Flow[bool]:
    """Ask until there are more answers than before.

    Returns:
        Whether there are; not if the time is over.
    """
    round_id, thresholds = told.record.round_id, told.holders.thresholds
    text = f"round {round_id}: waiting for {counted(thresholds.threshold, 'holder')} to answer for its sum"
    while True:
        asked_at = yield from now()
        yield Report(Waits(text, str(round_id), max(until - asked_at, 0.0)))
        wait_s = poll_s(until - asked_at)
        request = Request(
            "GET",
            f"/v1/rounds/{round_id}/answers?wait={wait_s}&more_than={told.served}",
            frozenset({200, 204}),
            max_bytes=_MAX_BYTES,
            wait_s=wait_s,
        )
        response = yield from exchange(session.retries, request)
        if response.status == 200:
            yield from compute(partial(told.take, response.body))
            return True
        if (yield from now()) > until:
            return False
        yield from unhurried(asked_at)


def _not_ready(record: RoundRecord, holders: HolderList) -> ProtocolError:
    threshold, round_id = holders.thresholds.threshold, record.round_id
    return ProtocolError(
        Reason.SUM_NOT_READY,
        f"round {round_id}: the sum is there, and fewer than {threshold} of {len(holders.names)} holders have "
        f"answered for it; nothing is lost",
        "round.fetch() gets it later; ask the operator which holders are awaited",
        f"`he-agg fetch --config site.toml --round {round_id} --out mean.npz` gets it later; ask the operator "
        "which holders are awaited",
    )


def _note_liars(session: Session, record: RoundRecord, liars: tuple[str, ...]) -> None:
    for name in liars:
        facts = {"federation": session.federation, "site": session.site, "round": str(record.round_id)}
        session.log.note("holder-lied", **facts, holder=name, what="its answer is not its share of the sum")


class Told:
    """What the holders of a list have said of one record, as far as it counts.

    Attributes:
        served: how many answers the aggregator has shown, whatever they are worth.
        seen: the holders who have echoed the record.
        rows: answers, by the holder's point.
        malformed: holders whose answers are no numbers.
    """

    def __init__(self, holders: HolderList, keys: dict[str, bytes], record: RoundRecord, digest: str) -> None:
        self.holders, self.record = holders, record
        self.served = 0
        self.seen: frozenset[str] = frozenset()
        self.rows: dict[int, Elements] = {}
        self.malformed: set[str] = set()
        self._keys, self._digest = keys, digest

    def take(self, body: bytes) -> None:
        """Take what the aggregator serves. Echoes and answers of others, or about another record, count for nothing.

        Raises:
            RejectedError: it cannot be read.
        """
        try:
            fields = canonical.Fields(canonical.parse(body, _MAX_BYTES), "answers")
            fields.integer("v", 1, 1)
            echoes = [Signed.from_json(Echo, value) for value in fields.array("echoes", MAX_HOLDERS)]
            answers = [Signed.from_json(Answer, value) for value in fields.array("answers", MAX_HOLDERS)]
            fields.end()
        except WireError as error:
            raise RejectedError(error.reason, "answers", "signed ones of holders", error.message) from error
        self.served = max(self.served, len(answers))
        self.seen |= seen_by(self.holders, self._keys, self.record.round_id, self._digest, echoes)
        for signed in answers:
            name = signed.body.holder
            about = signed.body.round_id, signed.body.record
            if name not in self.holders.keys or about != (self.record.round_id, self._digest):
                continue
            if name not in signed.signers(self._keys):
                continue
            try:
                self.rows.setdefault(self.holders.holders.index(name), read_answer(signed.body.shares))
            except WireError:
                self.malformed.add(name)

    @property
    def is_enough(self) -> bool:
        """Whether the record is certified, and answered by as many holders as it takes."""
        thresholds = self.holders.thresholds
        return len(self.seen) >= thresholds.quorum and len(self.rows) >= thresholds.threshold

    @property
    def is_final(self) -> bool:
        """Whether no further answer can change what these give.

        All holders have answered; or so many agree that, with as many wrong ones among them as a list of holders is
        made for, the right ones alone determine the sum.
        """
        if len(self.rows) + len(self.malformed) >= len(self.holders.keys):
            return True
        thresholds = self.holders.thresholds
        with contextlib.suppress(DecryptionError):
            agreeing = len(self.rows) - len(self._rebuilt(lambda _: True).liars)
            return agreeing - thresholds.may_be_away >= thresholds.threshold
        return False

    def open(self, masks: Elements, sites: int, open_sum: OpenSum[T]) -> tuple[T, tuple[str, ...]]:
        """Open a sum with the sum of keys that the answers give: that it opens tells the right one from others.

        Args:
            masks: the sum of the members' masks. Secret.
            sites: how many members.

        Returns:
            What `open_sum` made of it, and the names of those who answered otherwise.

        Raises:
            RejectedError: it opens with none that they can give.
        """
        judge = _Judge(masks, sites, open_sum)
        try:
            rebuilt = self._rebuilt(judge)
        except DecryptionError as error:
            wanted = f"a sum of {sites} one-time keys"
            raise judge.refused or RejectedError(error.reason, "answers of holders", wanted, error.message) from error
        names = {self.holders.names[point - 1] for point in rebuilt.liars}
        return judge.opened[-1], tuple(sorted(names | self.malformed))

    def _rebuilt(self, plausible: Callable[[Elements], bool]) -> Rebuilt:
        return rebuild(self.rows, self.holders.thresholds.threshold, plausible)


class _Judge(Generic[T]):
    """Judges sums of masked keys by opening the round's sum with them.

    Attributes:
        opened: what came of it; once, since no two of them open it.
        refused: why it did not open with one that could have been the right one.
    """

    def __init__(self, masks: Elements, sites: int, open_sum: OpenSum[T]) -> None:
        self.opened: list[T] = []
        self.refused: RejectedError | None = None
        self._masks, self._sites, self._open_sum = masks, sites, open_sum
        self._judged: dict[bytes, bool] = {}

    def __call__(self, total: Elements) -> bool:
        """Say whether the sum opens. It is tried once with each."""
        name = total.tobytes()
        if name not in self._judged:
            self._judged[name] = self._opens(total)
        return self._judged[name]

    def _opens(self, total: Elements) -> bool:
        narrow = unmasked(total, self._masks, self._sites)
        if narrow is None:
            return False
        key_sum = narrow.astype(np.int64)
        narrow.fill(0)
        try:
            self.opened.append(self._open_sum(key_sum))
        except RejectedError as error:
            self.refused = RejectedError(error.reason, error.what, error.expected, error.got)
            return False
        finally:
            key_sum.fill(0)
        return True
