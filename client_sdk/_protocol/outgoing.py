"""A submission on its way out: each part can be sent once it is durable in the spool, and its manifest at the end.

Where the codec repeats itself from a seed, parts may leave while others are still encrypted, by a thread of its own. A
process that dies in between leaves behind what it had begun, and the next one goes on with the very same bytes. Short
submissions, and those of all other codecs, are made before anything leaves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Protocol

from client_sdk._disk.stored import Stored
from client_sdk._protocol.frames import HELD_BYTES
from client_sdk._protocol.making import Making
from he_agg.errors import ConfigError, Reason

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

    def wait_until_begun(self) -> None:
        """Wait until the spool has what it takes to go on with it after a crash."""

    def part(self, number: int) -> memoryview | None:
        """Wait until a part may leave, and return it, once; None if it is in the spool only."""

    def wait_for_dealing(self) -> None:
        """Wait until the dealing may leave."""

    def stored(self) -> Stored:
        """Wait until all of it is in the spool."""

    def seconds(self) -> float | None:
        """Return how long encryption took; None if it was done before anything was sent. Units: seconds."""

    def start(self) -> None:
        """Begin what is made while it leaves, in a call that closes it, so that it ends with the call."""

    def close(self) -> None:
        """Stop what is under way, and wait for it. What was begun can be gone on with."""


class Made:
    """A submission that is in the spool.

    Args:
        held: parts of it that are in memory, too.
        manifest_bytes: what its manifest is filled up to when it leaves; nothing if left out. Units: bytes.
    """

    def __init__(
        self, stored: Stored, held: Mapping[int, memoryview] | None = None, manifest_bytes: int | None = None
    ) -> None:
        self._stored, self._held = stored, dict(held or {})
        self.upload, self.fingerprint = stored.manifest.nonce, stored.fingerprint
        self.manifest_bytes = manifest_bytes or len(stored.encoded)

    def wait_until_begun(self) -> None:
        """See `Outgoing.wait_until_begun`."""

    def part(self, number: int) -> memoryview | None:
        """See `Outgoing.part`."""
        return self._held.pop(number, None)

    def wait_for_dealing(self) -> None:
        """See `Outgoing.wait_for_dealing`."""

    def stored(self) -> Stored:
        """See `Outgoing.stored`."""
        return self._stored

    def seconds(self) -> None:
        """See `Outgoing.seconds`."""

    def start(self) -> None:
        """See `Outgoing.start`."""

    def close(self) -> None:
        """See `Outgoing.close`."""


class Encrypting:
    """A submission that is being made.

    Args:
        keep: notes, durably, that what the seed does not give again is in the spool: its digest. Nothing leaves before.
        key_number: the part of the one-time key, which the seed does not give again; None if there is none.
        kept: whether that was noted before.
    """

    def __init__(self, making: Making, keep: Callable[[str], None], *, key_number: int | None, kept: bool) -> None:
        self.upload, self.fingerprint = making.upload, making.fingerprint
        self.manifest_bytes = making.manifest_bytes
        self._making, self._keep, self._key_number = making, keep, key_number
        self._written: set[int] = set()
        self._held: dict[int, memoryview] = {}
        self._dealt, self._kept = False, kept
        self._stored: Stored | None = None
        self._seconds: float | None = None
        self._error: BaseException | None = None
        self._stopped = False
        self._ended = threading.Event()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="he-agg-encrypt", daemon=True)

    def start(self) -> None:
        """See `Outgoing.start`."""
        self._thread.start()

    def wait_until_begun(self) -> None:
        """See `Outgoing.wait_until_begun`."""
        self._wait(lambda: self._kept)

    def part(self, number: int) -> memoryview | None:
        """See `Outgoing.part`."""
        self._wait(lambda: self._kept and number in self._written)
        with self._news:
            return self._held.pop(number, None)

    def wait_for_dealing(self) -> None:
        """See `Outgoing.wait_for_dealing`."""
        self._wait(lambda: self._dealt)

    def stored(self) -> Stored:
        """See `Outgoing.stored`."""
        self._wait(lambda: False)
        if self._stored is None:
            raise RuntimeError("encryption ended without a manifest and without an error")
        return self._stored

    def seconds(self) -> float | None:
        """See `Outgoing.seconds`."""
        return self._seconds

    def close(self) -> None:
        """See `Outgoing.close`."""
        self._stopped = True
        if self._thread.ident is None:
            return
        impatience: KeyboardInterrupt | None = None
        while not self._ended.is_set():
            try:
                # Not `join`: interrupted, it takes the thread for ended, which still writes where the next call begins.
                self._ended.wait()
            except KeyboardInterrupt as error:
                impatience = error
        if impatience is not None:
            raise impatience

    def dealt(self, digest: str) -> None:
        """Take note that the dealing is in the spool; called by who deals."""
        self._note(digest)
        with self._news:
            self._dealt = True
            self._news.notify_all()

    def _note(self, digest: str) -> None:
        if not self._kept:
            self._keep(digest)
            with self._news:
                self._kept = True
                self._news.notify_all()

    def _wait(self, enough: Callable[[], bool]) -> None:
        with self._news:
            self._news.wait_for(lambda: enough() or self._stored is not None or self._error is not None)
            if not enough() and self._error is not None:
                raise self._error

    def _run(self) -> None:
        began = time.monotonic()
        try:
            with self._making:
                self._write_all()
                stored = self._making.seal()
        except BaseException as error:  # it is raised where somebody waits
            with self._news:
                self._error = error
                self._news.notify_all()
        else:
            with self._news:
                self._stored, self._seconds = stored, time.monotonic() - began
                self._news.notify_all()
        finally:
            self._ended.set()

    def _write_all(self) -> None:
        """Store all parts; when this returns they are durable.

        A few at a time: syncing takes longer than encrypting, and its latencies overlap.
        """
        turn = threading.Lock()

        def write_some() -> None:
            while (number := self._next(turn)) is not None:
                try:
                    self._write(number)
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

    def _next(self, turn: threading.Lock) -> int | None:
        with turn:
            return None if self._stopped else self._making.make()

    def _write(self, number: int) -> None:
        frame, digest = self._making.write(number)
        if number == self._key_number:
            self._note(digest)
        with self._news:
            self._written.add(number)
            if sum(map(len, self._held.values())) + len(frame) <= HELD_BYTES:
                self._held[number] = frame
            self._news.notify_all()
