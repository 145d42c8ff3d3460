"""The aggregator without HTTP: its lock, store, files and background work, opened together and closed together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from service.conductor import Conductor
from service.intake import Intake
from service.logs import log
from service.settings import Settings
from service.store.base import SiteRow
from service.store.blobs import Blobs
from service.store.lock import DirectoryLock
from service.store.sql import SqlStore, make_data_dir, open_store
from service.worker import Worker

__all__ = ["Aggregator"]


class Aggregator:
    """One running aggregator. Build it with `open`.

    Attributes:
        settings: as given.
        store: rows.
        blobs: files.
        conductor: the one writer of rounds.
        intake: what becomes of submissions.
        worker: deadlines, folding, scrubbing and waking.
    """

    def __init__(self, settings: Settings, lock: DirectoryLock, store: SqlStore, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.store = store
        self.blobs = Blobs(settings.data_dir)
        self.conductor = Conductor(store, clock)
        self.intake = Intake(store, self.blobs, self.conductor)
        self.worker = Worker(settings, store, self.blobs, self.conductor)
        self._lock = lock

    @classmethod
    def open(cls, settings: Settings, clock: Callable[[], float] = time.time) -> Aggregator:
        """Take the data directory and make it ready: nothing half-written is left in it afterwards.

        Raises:
            ConfigError: another aggregator has it, or it cannot be used.
        """
        make_data_dir(settings.data_dir)
        lock = DirectoryLock(settings.data_dir)
        try:
            aggregator = cls(settings, lock, open_store(settings, create=True), clock)
        except BaseException:
            lock.release()
            raise
        removed = aggregator.blobs.remove_temporary()
        log(logging.INFO, "store opened", temporary_files_removed=removed)
        return aggregator

    def site_of_token(self, digest: str) -> SiteRow | None:
        """Whose token has this SHA-256."""
        with self.store.read() as tx:
            return tx.site_of_token(digest)

    def check_ready(self) -> None:
        """Write to the store and to the disk.

        Raises:
            Exception: whatever stands in the way.
        """
        with self.store.write() as tx:
            tx.generation()
        self.blobs.check_writable()

    def close(self) -> None:
        """Let go of everything."""
        self.store.close()
        self._lock.release()
