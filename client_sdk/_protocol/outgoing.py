"""A submission on its way out: each part can be sent once it is durable in the spool, and its manifest at the end.

Where the codec repeats itself from a seed, parts may leave while others are still encrypted, by a thread of its own. A
process that dies in between leaves behind what it had begun, and the next one goes on with the very same bytes. All
other codecs make everything first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from typing import Protocol

from client_sdk._disk.spool import SpoolEntry, Stored
from client_sdk._protocol.frames import HELD_BYTES, Frames
from he_agg.codecs.base import Room, Watch
from he_agg.documents.manifest import Manifest
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, Reason
from he_agg.mac import RoundMac, TagTotal, tag_count
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import Part
from he_agg.signing import SIGNATURE_BYTES

__all__ = ["Encrypting", "Made", "Outgoing"]

_WRITES = 3
"""Parts that are being written at a time."""


class Outgoing(Protocol):
    """What is sent. Whoever waits gets the error that encryption ended with, if it did."""

    @property
    def upload(self) -> str:
        """The nonce of its manifest."""

    @property
    def fingerprint(self) -> str:
        """Keyed fingerprint of what is encrypted."""

    @property
    def manifest_bytes(self) -> int:
        """The most that its signed manifest takes. Units: bytes."""

    def part(self, number: int) -> memoryview | None:
        """Wait until a part may leave, and return it, once; None if it is in the spool only."""

    def wait_for_dealing(self) -> None:
        """Wait until the dealing may leave."""

    def stored(self) -> Stored:
        """Wait until all of it is in the spool."""

    def seconds(self) -> float | None:
        """Return how long encryption took; None if it was done before anything was sent. Units: seconds."""

    def close(self) -> None:
        """Stop what is under way, and wait for it. What was begun can be gone on with."""


class Made:
    """A submission that is in the spool."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self.upload, self.fingerprint = stored.manifest.nonce, stored.fingerprint
        self.manifest_bytes = len(stored.encoded)

    def part(self, number: int) -> None:
        """See `Outgoing.part`."""

    def wait_for_dealing(self) -> None:
        """See `Outgoing.wait_for_dealing`."""

    def stored(self) -> Stored:
        """See `Outgoing.stored`."""
        return self._stored

    def seconds(self) -> None:
        """See `Outgoing.seconds`."""

    def close(self) -> None:
        """See `Outgoing.close`."""


class Encrypting:
    """A submission that is being made.

    Args:
        unsigned: its manifest, but for digests, tags and the dealing.
        frames: has the memory that parts are made in, and leave from.
        parts: begins the encryption: is given who looks at residues, and where they go.
        seal: signs the manifest, and makes what is in the spool a submission.
        keep: notes, durably, that what the seed does not give again is in the spool: its digest.
        at_once: whether parts may leave before all are made.
        key_number: the part of the one-time key, which the seed does not give again; None if there is none.
    """

    def __init__(
        self,
        plan: PublicPlan,
        entry: SpoolEntry,
        mac: RoundMac,
        unsigned: Manifest,
        frames: Frames,
        parts: Callable[[Watch, Room], Generator[Part]],
        seal: Callable[[Manifest], Stored],
        keep: Callable[[str], None],
        *,
        fingerprint: str,
        at_once: bool,
        key_number: int | None,
    ) -> None:
        self.upload, self.fingerprint = unsigned.nonce, fingerprint
        self.manifest_bytes = _longest(plan, unsigned)
        self._plan, self._entry, self._mac, self._unsigned = plan, entry, mac, unsigned
        self._frames, self._parts, self._seal, self._keep = frames, parts, seal, keep
        self._at_once, self._key_number = at_once, key_number
        self._digests: dict[int, str] = {}
        self._held: dict[int, memoryview] = {}
        self._dealt = False
        self._stored: Stored | None = None
        self._seconds: float | None = None
        self._error: BaseException | None = None
        self._stopped = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="he-agg-encrypt", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def part(self, number: int) -> memoryview | None:
        """See `Outgoing.part`."""
        self._wait(lambda: self._at_once and number in self._digests)
        with self._news:
            return self._held.pop(number, None)

    def wait_for_dealing(self) -> None:
        """See `Outgoing.wait_for_dealing`."""
        self._wait(lambda: self._dealt)

    def wait_until_made(self, number: int) -> None:
        """Wait until a part is in the spool, whether or not it may leave."""
        self._wait(lambda: number in self._digests)

    def stored(self) -> Stored:
        """See `Outgoing.stored`."""
        self._wait(lambda: False)
        if self._stored is None:
            raise RuntimeError("encryption ended without a manifest and without an error")
        return self._stored

    def seconds(self) -> float | None:
        """See `Outgoing.seconds`."""
        return self._seconds if self._at_once else None

    def close(self) -> None:
        """See `Outgoing.close`."""
        with self._news:
            self._stopped = True
        if self._thread.ident is not None:
            self._thread.join()

    def dealt(self, digest: str) -> None:
        """Take note that the dealing is in the spool; called by who deals."""
        self._keep(digest)
        with self._news:
            self._dealt = True
            self._news.notify_all()

    def _wait(self, enough: Callable[[], bool]) -> None:
        with self._news:
            self._news.wait_for(lambda: enough() or self._stored is not None or self._error is not None)
            if not enough() and self._error is not None:
                raise self._error

    def _run(self) -> None:
        began = time.monotonic()
        try:
            stored = self._encrypt()
        except BaseException as error:  # it is raised where somebody waits
            with self._news:
                self._error = error
                self._news.notify_all()
        else:
            with self._news:
                self._stored, self._seconds = stored, time.monotonic() - began
                self._news.notify_all()

    def _encrypt(self) -> Stored:
        total: TagTotal = self._mac.new_total()
        try:
            # A one-time key lives in the generator: it is closed now, not whenever it is collected.
            with closing(self._parts(partial(self._mac.watch, total), self._frames.room)) as parts:
                self._write_all(parts)
            tags = self._mac.tags(total, self._unsigned.site, self.upload)
        finally:
            self._mac.wipe()
        digests = tuple(self._digests[place.number] for place in self._plan.places)
        return self._seal(_replaced(self._unsigned, digests, tags))

    def _write_all(self, parts: Iterator[Part]) -> None:
        """Store all parts; when this returns they are durable.

        A few at a time: syncing takes longer than encrypting, and its latencies overlap.
        """
        turn = threading.Lock()

        def write_some() -> None:
            while (part := self._next(parts, turn)) is not None:
                try:
                    self._write(part.number)
                except BaseException:
                    self._stopped = True  # the others, too
                    raise

        with ThreadPoolExecutor(_WRITES, thread_name_prefix="he-agg-spool") as disk:
            writing = [disk.submit(write_some) for _ in range(_WRITES)]
            wait(writing)
        for done in writing:
            done.result()
        if self._stopped:
            raise ConfigError(Reason.INTERNAL, "encryption was stopped")

    def _next(self, parts: Iterator[Part], turn: threading.Lock) -> Part | None:
        with turn:
            return None if self._stopped else next(parts, None)

    def _write(self, number: int) -> None:
        frame = self._frames.whole(number)
        digest = self._entry.write_part(number, frame)
        if number == self._key_number:
            self._keep(digest)
        with self._news:
            self._digests[number] = digest
            if sum(map(len, self._held.values())) + len(frame) <= HELD_BYTES:
                self._held[number] = frame
            self._news.notify_all()


def _replaced(unsigned: Manifest, digests: tuple[str, ...], tags: tuple[tuple[int, ...], ...]) -> Manifest:
    return Manifest(**{**vars(unsigned), "part_digests": digests, "tags": tags})


def _longest(plan: PublicPlan, unsigned: Manifest) -> int:
    """Return how long a signed manifest can be: its tags are numbers, and all else in it has one length."""
    digest = "0" * 64
    tags = tuple((place.section.modulus - 1,) * tag_count(place.section) for place in plan.places)
    fullest = _replaced(unsigned, (digest,) * len(plan.places), tags)
    if plan.splits_keys:
        fullest = Manifest(**{**vars(fullest), "dealing": digest})
    return len(Signed(fullest, {unsigned.site: bytes(SIGNATURE_BYTES)}).encode())
