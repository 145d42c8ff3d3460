"""Submissions are announced by a signed manifest, which says what is going to come."""

from __future__ import annotations

import json
from dataclasses import dataclass

from he_agg.documents.manifest import Manifest
from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError
from he_agg.plan.plan import PublicPlan
from he_agg.protocol.messages import SubmissionStatus
from he_agg.protocol.wire import refuse_secrets
from service.core.conductor import Conductor
from service.core.find import federation_named, find_round
from service.core.roster_cache import newest_roster
from service.core.submissions.capacity import Capacity
from service.core.submissions.shared import round_closed, status_of
from service.domain.events import Phase
from service.domain.submissions import State
from service.refusal import RefusedError
from service.store.batch import Batch
from service.store.rows import RoundRow, SubmissionRow
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["Announcements"]


@dataclass(frozen=True)
class _Announcement:
    """A manifest that was read and whose signature was verified."""

    submission: SubmissionRow
    plan: PublicPlan
    manifest: Manifest
    body: bytes


class Announcements:
    """Takes manifests in."""

    def __init__(self, store: Store, conductor: Conductor, capacity: Capacity) -> None:
        self._conductor = conductor
        self._decisions = Batch(store, self._decide)
        self._capacity = capacity

    def announce(self, federation: str, site: str, round_id: str, body: bytes) -> tuple[SubmissionStatus, bool]:
        """Take a signed manifest.

        Returns:
            The submission, and whether it is new.

        Raises:
            WireError: not a manifest, one for something else, or not signed by its site.
            RefusedError: there is no such round, the site is not invited, the round is closed, the site has announced
                another submission or uses another roster or history, or there is no room.
        """
        # Looked at twice: what may be answered without the one writer, and in the transaction that decides.
        with self._conductor.reading(federation) as tx:
            new = self._read_announcement(tx, _invited_round(tx, federation, site, round_id), site, body)
            known = self._known_announcement(tx, new)
        if known is not None:
            return known, False
        outcome = self._decisions.run(new)
        if isinstance(outcome, RefusedError):
            raise outcome
        return outcome

    def _read_announcement(self, tx: Transaction, row: RoundRow, site: str, body: bytes) -> _Announcement:
        try:
            signed = Signed.parse(Manifest, body)
        except WireError:
            refuse_secrets(body)
            raise
        plan, roster = federation_named(tx, row.id.federation).parsed.plan, newest_roster(tx, row.id.federation)
        signed.body.check(plan, row.id, row.basis.epoch, row.basis.key_id, site)
        signed.check_signed(roster.body.keys_of(Role.SITE))
        submission = SubmissionRow(signed.digest, row.id, site, State.OPEN, None, signed.body.dealing)
        return _Announcement(submission, plan, signed.body, body)

    def _decide(self, tx: Transaction, new: _Announcement) -> tuple[SubmissionStatus, bool] | RefusedError:
        try:
            return self._announce(tx, new)
        except RefusedError as refusal:  # raised it would undo everybody else's decisions
            return refusal

    def _announce(self, tx: Transaction, new: _Announcement) -> tuple[SubmissionStatus, bool]:
        known = self._known_announcement(tx, new)
        if known is not None:
            return known, False
        submission = new.submission
        self._capacity.check(tx, federation_named(tx, submission.round_id.federation), submission.site)
        tx.add_submission(submission, new.body, new.manifest.part_digests, int(self._conductor.now()))
        return status_of(tx, submission, new.plan), True

    def _known_announcement(self, tx: Transaction, new: _Announcement) -> SubmissionStatus | None:
        """Find the submission if it was announced before; None if it may be now."""
        submission, round_id, site = new.submission, new.submission.round_id, new.submission.site
        row = find_round(tx, round_id.federation, str(round_id))
        existing = tx.submission_of(round_id, site)
        if existing is not None and existing.id == submission.id:
            return status_of(tx, existing, new.plan)
        if not self._conductor.takes(tx, row):
            raise round_closed(row)
        if existing is not None:
            raise RefusedError(
                Reason.SECOND_SUBMISSION,
                f"site {site} has already submitted {existing.id[:12]} to round {round_id}; "
                f"the first one stays, {submission.id[:12]} was not taken",
                "continue the first submission from its spool; never encrypt again for the same round",
                round_id=str(round_id),
                submission_id=existing.id,
                manifest=json.loads(tx.manifest(existing.id)),
            )
        self._check_history(tx, row, new.manifest)
        if new.manifest.holders != row.basis.holders:
            raise RefusedError(
                Reason.ROSTER_MISMATCH,
                f"manifest, holders: expected {str(row.basis.holders)[:12]}, got {str(new.manifest.holders)[:12]}",
                "deal to the holders that the round opened with: GET /v1/rounds/{round}/holders",
                round_id=str(row.id),
            )
        return None

    def _check_history(self, tx: Transaction, row: RoundRow, manifest: Manifest) -> None:
        """Check that a site has the same roster and the same records as everybody else."""
        if manifest.roster not in (row.basis.roster, newest_roster(tx, row.id.federation).body_digest):
            raise RefusedError(
                Reason.ROSTER_MISMATCH,
                f"manifest, roster: expected {row.basis.roster[:12]}, version {row.basis.roster_version}, "
                f"got {manifest.roster[:12]}",
                "fetch the newest roster: GET /v1/federations/{federation}/rosters/newest",
            )
        # No record is written while the round is open, so this is the one before it.
        head = tx.chain_head(row.id.federation)
        if manifest.previous != head.digest:
            raise RefusedError(
                Reason.CHAIN_MISMATCH,
                f"manifest, previous: expected record {head.index}, {head.digest[:12]}, got {manifest.previous[:12]}",
                "fetch the records that are missing: GET /v1/federations/{federation}/records/{index}. If this site "
                "has seen another record there, two histories are being told: stop, and ask the coordinator",
                round_id=str(row.id),
            )


def _invited_round(tx: Transaction, federation: str, site: str, round_id: str) -> RoundRow:
    """Find the round that a site wants to submit to, if it may."""
    row = find_round(tx, federation, round_id)
    if row.phase is Phase.ENDED:
        raise round_closed(row)
    if site not in tx.invited(row.id):
        raise RefusedError(
            Reason.NOT_INVITED,
            f"site {site} is not invited to round {row.id}",
            "sites take part from the first round that opens after they were added to the roster",
            round_id=str(row.id),
        )
    return row
