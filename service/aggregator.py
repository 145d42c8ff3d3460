"""The aggregator without HTTP: its lock, stores and background work, opened together and closed together."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial

from he_agg.documents.roster import Member, Roster
from he_agg.documents.signed import Signed
from service.core.aggregator_key import FILE_NAME, AggregatorKey
from service.core.conductor import Conductor
from service.core.documents import Documents
from service.core.made_sums import MadeSums
from service.core.roster_cache import former_members, newest_roster, signer_in
from service.core.round_answers import RoundAnswers
from service.core.state import States
from service.core.submissions.admit import Admissions
from service.core.submissions.capacity import Capacity
from service.core.submissions.dealings import Dealings
from service.core.submissions.receive import Uploads
from service.core.submissions.running_sums import RunningSums
from service.logs import log
from service.settings import Settings
from service.store.failures import StoreFullError
from service.store.lock import DirectoryLock, match_key, match_parts
from service.store.parts.base import PartStore
from service.store.parts.opening import open_parts
from service.store.sql import Store, is_shared, make_data_dir, open_store
from service.work.housekeeping import purge_leftovers
from service.work.worker import Worker

__all__ = ["Aggregator", "NotReadyError"]

_OTHERS_MAY_WRITE_S = 3600.0
"""With replicas, a temporary file that is younger may be one that another replica is writing. Units: seconds."""


class NotReadyError(Exception):
    """What an aggregator needs and has not: its database, its store of parts, or disk space."""


class Aggregator:
    """One running aggregator. Build it with `open`.

    Attributes:
        unlisted: federations whose newest roster did not list this aggregator's key when it was opened.
    """

    def __init__(
        self,
        settings: Settings,
        lock: DirectoryLock | None,
        store: Store,
        part_store: PartStore,
        key: AggregatorKey,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.store = store
        self.part_store = part_store
        self.key = key
        self.conductor = Conductor(store, key, clock)
        self.states = States(self.conductor)
        self.round_answers = RoundAnswers()
        self.capacity = Capacity(settings, part_store)
        # Whoever folds nothing has no use for them.
        sums = RunningSums(settings.running_sum_bytes if settings.work else 0)
        self.made_sums = MadeSums(settings.made_sum_bytes)
        self.admissions = Admissions(store, part_store, self.conductor, self.capacity)
        self.uploads = Uploads(store, part_store, self.conductor, self.admissions, sums)
        self.documents = Documents(store)
        self.dealings = Dealings(store, self.conductor, self.admissions)
        self.worker = Worker(settings, store, part_store, self.conductor, sums, self.made_sums)
        self.unlisted: list[str] = []
        self._lock = lock

    @classmethod
    def open(
        cls, settings: Settings, clock: Callable[[], float] = time.time, part_store: PartStore | None = None
    ) -> Aggregator:
        """Take the data directory and make it ready: nothing half-written is left in it afterwards.

        Raises:
            ConfigError: another aggregator has it, or it cannot be used.
            KeystoreError: its key must not be used.
        """
        make_data_dir(settings.data_dir)
        # Replicas share the directory; what keeps them apart is in the database.
        lock = None if is_shared(settings) else DirectoryLock(settings.data_dir)
        try:
            key = AggregatorKey.load_or_create(settings.data_dir)
            store = open_store(settings, create=True)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        aggregator = cls(settings, lock, store, part_store or open_parts(settings), key, clock)
        try:
            removed = aggregator._clear_away()
        except BaseException:
            aggregator.close()
            raise
        aggregator._check_listed()
        log(logging.INFO, "store opened", temporary_files_removed=removed)
        return aggregator

    def _clear_away(self) -> int:
        with contextlib.suppress(StoreFullError):  # a full store still gives out its sums
            self.part_store.prove()
        match_parts(self.store, self.part_store, self.settings)
        if self.store.is_shared:
            match_key(self.store, self.key.signing_key.public_key, self.settings.data_dir / FILE_NAME)
            return purge_leftovers(self.store, self.part_store, older_than_s=_OTHERS_MAY_WRITE_S)
        # Whoever had a lease was a process that is gone: the lock says so.
        with self.store.write() as tx:
            tx.drop_leases()
        return purge_leftovers(self.store, self.part_store)

    def _check_listed(self) -> None:
        """Tell the operator of federations for which nothing can be signed: the key is another than it was."""
        with self.store.read() as tx:
            for row in tx.federations():
                if signer_in(newest_roster(tx, row.name).body, self.key) is None:
                    self.unlisted.append(row.name)
                    log(logging.CRITICAL, "the roster does not list this aggregator's key", federation=row.name)

    def newest_roster(self, federation: str) -> Signed[Roster]:
        """Return the roster that a federation goes by now."""
        return self.store.look(partial(newest_roster, federation=federation))  # its document never changes

    def former_member(self, federation: str, name: str) -> tuple[int, Member] | None:
        """Return the last version of the roster that listed a name which the newest does not, and how; None if none."""
        with self.store.read() as tx:
            return former_members(tx, federation).get(name)

    def check_ready(self) -> None:
        """Write to both stores.

        Raises:
            NotReadyError: one of them cannot be written, or the disk has too little left.
        """
        checks = {"database": self._check_rows, "parts": self.part_store.check, "disk space": self.capacity.check_disk}
        for what, check in checks.items():
            try:
                check()
            except Exception as error:
                raise NotReadyError(what) from error

    def _check_rows(self) -> None:
        with self.store.write() as tx:
            tx.generation()

    def close(self) -> None:
        """Let go of everything."""
        self.store.close()
        if self._lock is not None:
            self._lock.release()
