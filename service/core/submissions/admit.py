"""Say whether a submission may begin: whether its site may send to this round now, and whether there is room."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from he_agg.errors import Reason
from service.core.conductor import Conductor
from service.core.event_loop import leave_event_loop, leave_reading
from service.core.find import federation_named, find_round
from service.core.submissions.capacity import Capacity
from service.core.submissions.shared import round_closed, unknown_upload
from service.domain.events import Phase
from service.domain.submissions import State
from service.refusal import RefusedError
from service.store.parts.base import PartStore
from service.store.rows import RoundRow, SubmissionRow
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["Admissions", "second_submission"]


class Admissions:
    """Admits uploads, one of each site to an attempt."""

    def __init__(self, store: Store, part_store: PartStore, conductor: Conductor, capacity: Capacity) -> None:
        self._store = store
        self._part_store = part_store
        self._conductor = conductor
        self._capacity = capacity

    @contextlib.contextmanager
    def looking(self, federation: str) -> Iterator[Transaction]:
        """Open a reading transaction to `admit` in.

        Raises:
            NotReadingError: as of `Conductor.reading` and `making_room`.
        """
        with self.making_room(), self._conductor.reading(federation) as tx:
            yield tx

    @contextlib.contextmanager
    def making_room(self) -> Iterator[None]:
        """Make room for whoever asks next, if what is done within finds none.

        Raises:
            NotReadingError: rows are read for a request here.
        """
        try:
            yield
        except RefusedError as refusal:
            if refusal.reason is Reason.STORAGE_FULL:
                leave_reading()
                with self._store.write() as tx:
                    self._capacity.let_go(tx)
            raise

    def admit(self, tx: Transaction, row: RoundRow, site: str, upload: str) -> tuple[SubmissionRow, bool]:
        """Find an upload, or see that it may begin. Nothing is written before something of it is here.

        There is a guess about its room as well; what others may still send, and quotas, are counted when it begins.

        Args:
            upload: the nonce of its manifest.

        Returns:
            It, and whether it begins.

        Raises:
            RefusedError: the site is not invited, the round is closed, the site has completed another submission, or
                there is no room.
        """
        _check_invited(tx, row, site)
        known, _ = self._find(tx, row, site, upload)
        if known is not None:
            return known, False
        self._capacity.foresee(tx, federation_named(tx, row.id.federation), site)
        return SubmissionRow(upload, row.id, site, State.OPEN), True

    def begin(self, tx: Transaction, new: SubmissionRow) -> tuple[SubmissionRow, SubmissionRow | None]:
        """Find an upload, or write that it begins. Another one of its site, with no manifest accepted, goes for it.

        Returns:
            It, and the one whose place it took, for `gone`.

        Raises:
            RefusedError: as of `admit`; nothing of it was written.
        """
        federation = federation_named(tx, new.round_id.federation)
        known, replaced = self._find(tx, find_round(tx, federation.name, str(new.round_id)), new.site, new.id)
        if known is not None:
            return known, None
        try:
            self._capacity.check(tx, federation, new.site)
        except RefusedError as refusal:
            if refusal.reason is Reason.STORAGE_FULL:
                self._capacity.let_go(tx)
            raise
        if replaced is not None:
            tx.remove_submission(replaced.id)
        tx.add_submission(new, len(federation.parsed.plan.places), int(self._conductor.now()))
        return new, replaced

    def gone(self, replaced: SubmissionRow | None) -> None:
        """Remove the parts of an upload that another one has taken the place of, once that is durable."""
        if replaced is not None:
            # What a request for it puts from now on, that request removes: no row names it any more.
            self._part_store.purge_submission(replaced.round_id, replaced.id)

    def _find(
        self, tx: Transaction, row: RoundRow, site: str, upload: str
    ) -> tuple[SubmissionRow | None, SubmissionRow | None]:
        """Return the upload, if it is there, and the one that it may take the place of.

        Raises:
            RefusedError: it is not there, and may not begin.
        """
        tx.look_for(upload, row.id, site)
        existing = tx.submission_of(row.id, site)
        if existing is not None and existing.id == upload:
            return existing, None
        if existing is not None and existing.state is State.COMPLETE:
            # Of a round that is over as well: it is this one that the record names, and its site may not have it.
            leave_event_loop()  # its manifest is read
            raise second_submission(tx, existing)
        if not self._conductor.takes(tx, row):
            raise round_closed(row)
        if tx.submission(upload) is not None:
            raise unknown_upload(site, upload)
        return None, existing


def second_submission(tx: Transaction, first: SubmissionRow) -> RefusedError:
    """Refuse another submission than the one that was accepted. The refusal carries the first one's manifest."""
    return RefusedError(
        Reason.SECOND_SUBMISSION,
        f"site {first.site} has already submitted {str(first.digest)[:12]} to round {first.round_id}; "
        "the first one stays, another one was not taken",
        "continue the first submission from its spool; never encrypt again for the same round",
        round_id=str(first.round_id),
        submission_id=first.digest,
        manifest=json.loads(tx.manifest(first.id)),
    )


def _check_invited(tx: Transaction, row: RoundRow, site: str) -> None:
    """Refuse a site that may not submit to a round."""
    if row.phase is Phase.ENDED:
        raise round_closed(row)
    if not tx.is_invited(row.id, site):
        raise RefusedError(
            Reason.NOT_INVITED,
            f"site {site} is not invited to round {row.id}",
            "sites take part from the first round that opens after they were added to the roster",
            round_id=str(row.id),
        )
