"""Remove what must not stay: submissions and dealings of ended rounds, old sums, and uploads that were abandoned.

The single submissions behind a sum stay until enough of its sites have said that they opened it (`core/verdicts.py`):
they are the only evidence if it turns out to be wrong.

Each step looks at the rows, removes parts and then says so in the rows, so it may be interrupted and repeated anywhere.
Whatever a receipt was given for is touched only after its round has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from service.domain.events import Phase
from service.domain.submissions import AWAITED, Event, step
from service.failpoints import failpoint
from service.logs import log
from service.settings import Settings
from service.store.parts.base import PartStore
from service.store.rows import RoundRow, SubmissionRow
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["Housekeeper", "purge_leftovers"]


def purge_leftovers(store: Store, part_store: PartStore, older_than_s: float = 0.0) -> int:
    """Remove what killed processes left: half-written parts, and parts that came when their round had been purged.

    Args:
        older_than_s: leave younger pieces alone, since others may be writing them. Units: seconds.
    """
    for round_id in list(part_store.rounds()):
        with store.read() as tx:
            row = tx.round(round_id)
        if row is None:
            continue  # rows that were restored may be older than the parts
        if row.phase is Phase.FAILED:
            part_store.purge_round(round_id)
        elif row.scrubbed:
            part_store.purge_submissions(round_id)
    return part_store.purge_leftovers(older_than_s)


class Housekeeper:
    """Removes what is due."""

    def __init__(self, settings: Settings, store: Store, part_store: PartStore, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._store = store
        self._part_store = part_store
        self._clock = clock

    def is_needed(self, tx: Transaction) -> bool:
        """Tell whether `run` would do anything."""
        return bool(
            tx.unscrubbed(self._kept_since())
            or tx.sums_to_remove()
            or tx.dealings_to_remove(self._dealt_since())
            or self._too_many(tx)
            or tx.expiring()
            or tx.idle(self._expired())
        )

    def run(self, hold: Callable[[Transaction], None] = lambda _: None) -> None:
        """Do what is due now.

        Args:
            hold: called within every transaction that writes; raises to give up.
        """
        with self._store.read() as tx:
            unscrubbed = tx.unscrubbed(self._kept_since())
        for row in unscrubbed:
            self._scrub(row, hold)
        self._scrub_sums(hold)
        self._remove_dealings(hold)
        with self._store.read() as tx:
            idle = [*tx.expiring(), *tx.idle(self._expired())]
        for submission in idle:
            self._expire(submission, hold)

    def _scrub(self, row: RoundRow, hold: Callable[[Transaction], None]) -> None:
        # Parts first: once the rows say that a round is scrubbed, nobody looks for its parts again.
        if row.phase is Phase.FAILED:
            self._part_store.purge_round(row.id)
        else:
            self._part_store.purge_submissions(row.id)
        failpoint("scrubbing.files_gone")
        with self._store.write() as tx:
            hold(tx)
            tx.scrub(row.id)

    def _too_many(self, tx: Transaction) -> list[RoundRow]:
        found = []
        for federation in tx.federations():
            keep = federation.keeping.keep_sums or self._settings.keep_sums
            found += tx.kept_sums(federation.name)[keep:]
        return found

    def _scrub_sums(self, hold: Callable[[Transaction], None]) -> None:
        # Rows first, here: sites ask for sums at any time, and must be told that one is gone before it is.
        with self._store.read() as tx:
            needed = bool(self._too_many(tx))
        if needed:
            with self._store.write() as tx:
                hold(tx)
                for row in self._too_many(tx):
                    tx.scrub_sum(row.id)
        with self._store.read() as tx:
            going = tx.sums_to_remove()
        for round_id in going:
            self._part_store.purge_sum(round_id)
            with self._store.write() as tx:
                hold(tx)
                tx.forget_sum(round_id)

    def _remove_dealings(self, hold: Callable[[Transaction], None]) -> None:
        # Whoever keeps shares longer than they are needed keeps what opens updates: this asks no option of audits.
        with self._store.read() as tx:
            done = tx.dealings_to_remove(self._dealt_since())
        for round_id in done:
            with self._store.write() as tx:
                hold(tx)
                tx.remove_dealings(round_id)

    def _expire(self, submission: SubmissionRow, hold: Callable[[Transaction], None]) -> None:
        """Remove the parts of an upload that nobody goes on with. Its manifest stays, the site's one for the round."""
        with self._store.write() as tx:
            hold(tx)
            current = tx.submission(submission.id)
            if current is None or current.state not in AWAITED:
                return  # it has been completed, or its round has ended
            tx.move_submission(current.id, step(current.state, Event.ABANDONED))
            tx.unmark_parts(current.id)
        self._part_store.purge_submission(submission.round_id, submission.id)
        with self._store.write() as tx:
            hold(tx)
            current = tx.submission(submission.id)
            if current is not None:
                tx.move_submission(current.id, step(current.state, Event.EMPTIED))
        log(
            logging.WARNING,
            "an upload was abandoned; its parts are removed",
            round_id=str(submission.round_id),
            site=submission.site,
            upload=submission.id,
        )

    def _kept_since(self) -> int:
        return int(self._clock() - self._settings.keep_unopened_s)

    def _dealt_since(self) -> int:
        return int(self._clock() - self._settings.keep_dealings_s)

    def _expired(self) -> int:
        return int(self._clock() - self._settings.upload_expiry_s)
