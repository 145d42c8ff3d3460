"""The contract of a store that keeps what is in rows.py.

A transaction of `write` sees and changes the newest state alone and is durable when it has ended; raising inside
undoes it. A transaction of `read` sees one state throughout. All methods block: call them off the event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from he_agg.ids import RoundId
from service.domain.events import Phase, Round, Stage
from service.store.rows import (
    Basis,
    ChainHead,
    DamagedPart,
    EpochRow,
    FederationRow,
    LeaseRow,
    PartRow,
    RosterRow,
    RoundRow,
    SubmissionRow,
)

__all__ = ["Store", "Transaction"]


class Transaction(Protocol):
    """Reads and writes within one transaction."""

    # federations
    def federation(self, name: str) -> FederationRow | None:
        """One federation."""

    def federations(self) -> list[FederationRow]:
        """All of them, by name."""

    def add_federation(self, row: FederationRow) -> None:
        """Register one."""

    def set_stage(self, name: str, stage: Stage) -> None:
        """Change its stage."""

    def set_paused(self, name: str, at: int | None) -> None:
        """Note when a federation was paused, or that it is not any more."""

    # rosters, epochs and commitments
    def newest_roster(self, federation: str) -> RosterRow:
        """The newest version of the roster of a federation that is here."""

    def roster(self, federation: str, version: int) -> RosterRow | None:
        """One version of its roster."""

    def roster_document(self, federation: str, version: int) -> bytes:
        """The canonical bytes of a version that is here."""

    def roster_versions(self, federation: str) -> list[int]:
        """All versions that are here, ascending."""

    def add_roster(self, row: RosterRow, document: bytes, at: int) -> None:
        """Write a version of a roster."""

    def newest_epoch(self, federation: str) -> EpochRow:
        """The current epoch of a federation that is here."""

    def epoch(self, federation: str, number: int) -> EpochRow | None:
        """One epoch."""

    def bundle(self, federation: str, number: int) -> bytes | None:
        """The canonical bytes of an epoch's bundle; None if there is none here."""

    def add_epoch(self, row: EpochRow, bundle: bytes | None, at: int) -> None:
        """Write an epoch."""

    def set_bundle(self, federation: str, number: int, bundle: bytes) -> None:
        """Write the bundle of an epoch that came without."""

    def commitment(self, federation: str, epoch: int, site: str) -> bytes | None:
        """The canonical bytes of a site's commitment."""

    def commitments(self, federation: str, epoch: int) -> list[bytes]:
        """All commitments to an epoch's key, by site."""

    def add_commitment(self, federation: str, epoch: int, site: str, document: bytes, at: int) -> None:
        """Write a commitment."""

    # rounds
    def round(self, round_id: RoundId) -> RoundRow | None:
        """One attempt."""

    def newest_round(self, federation: str) -> RoundRow | None:
        """The newest attempt of a federation."""

    def last_published(self, federation: str) -> RoundId | None:
        """The newest attempt with a sum."""

    def rounds_in(self, phases: Collection[Phase]) -> list[RoundRow]:
        """All attempts in these phases."""

    def unscrubbed(self) -> list[RoundRow]:
        """Ended attempts whose single submissions have not been deleted yet and are not to be kept."""

    def invited(self, round_id: RoundId) -> frozenset[str]:
        """The sites that were invited."""

    def open_round(self, round_id: RoundId, state: Round, basis: Basis) -> None:
        """Write a new attempt and its invitations."""

    def close_round(self, round_id: RoundId, at: int) -> None:
        """Note that an attempt's set is final."""

    def set_phase(self, round_id: RoundId, phase: Phase) -> None:
        """Move an attempt on."""

    def end_round(self, round_id: RoundId, phase: Phase, record: bytes, head: ChainHead, at: int) -> None:
        """Write the record, which is the new head of the chain."""

    def chain_head(self, federation: str) -> ChainHead:
        """The newest record of a federation."""

    def record_at(self, federation: str, index: int) -> RoundRow | None:
        """The attempt whose record is at a position of the chain."""

    def move_deadline(self, round_id: RoundId, deadline_at: int) -> None:
        """Give an attempt another deadline."""

    def recent_rounds(self, federation: str, limit: int) -> list[RoundRow]:
        """The attempts of a federation that have ended last, newest first."""

    def count_rounds(self) -> dict[tuple[str, Phase], int]:
        """How many attempts are in which phase, by federation and phase."""

    def count_submissions(self) -> dict[tuple[str, str], int]:
        """How many submissions are in which state, by federation and state."""

    def kept_sums(self, federation: str) -> list[RoundRow]:
        """Published rounds whose sum is here, newest first."""

    def scrub_sum(self, round_id: RoundId) -> None:
        """Note that the files of a sum are going to be removed. The record stays."""

    def sums_to_remove(self) -> list[RoundId]:
        """Rounds whose sum is scrubbed while rows still name its parts."""

    def forget_sum(self, round_id: RoundId) -> None:
        """Forget the parts of a sum whose files are gone."""

    def scrub(self, round_id: RoundId) -> None:
        """Forget the single parts, and those of a sum that was never published, once their files are gone."""

    # submissions
    def submission(self, submission_id: str) -> SubmissionRow | None:
        """One submission."""

    def submission_of(self, round_id: RoundId, site: str) -> SubmissionRow | None:
        """The submission of one site to one attempt."""

    def submissions(self, round_id: RoundId) -> list[SubmissionRow]:
        """All submissions to one attempt, by id."""

    def completed(self, round_id: RoundId) -> frozenset[str]:
        """The sites whose submission to one attempt is complete."""

    def manifest(self, submission_id: str) -> bytes:
        """The signed manifest's bytes."""

    def manifests(self, round_id: RoundId) -> list[bytes]:
        """The signed manifests of all complete submissions, by site."""

    def add_submission(self, row: SubmissionRow, manifest: bytes, digests: Iterable[str], at: int) -> None:
        """Write a new submission and the parts it announces."""

    def accept(self, submission_id: str, at: int) -> None:
        """Make it complete."""

    def exclude_open(self, round_id: RoundId) -> None:
        """Make all submissions that are not complete excluded."""

    def exclude_all(self, round_id: RoundId) -> None:
        """Make all submissions excluded."""

    def expire(self, submission_id: str) -> None:
        """Make an open submission expiring: none of its parts counts as stored, and none may be marked."""

    def reopen(self, submission_id: str) -> None:
        """Make an expiring submission open again, once its files are gone."""

    def expiring(self) -> list[SubmissionRow]:
        """Submissions whose parts are being removed."""

    def idle(self, before: int) -> list[SubmissionRow]:
        """Open submissions of open rounds that hold parts and have not got one since `before`."""

    def stored_submissions(self, federation: str, site: str | None = None) -> int:
        """How many submissions, of one site or of all, the disk holds or has to hold parts of."""

    def awaited_parts(self) -> dict[str, int]:
        """How many parts have been announced for open submissions and are not stored, by federation."""

    def unsummed(self) -> list[str]:
        """The federation of every round whose sum is still to be made."""

    # parts
    def part(self, submission_id: str, number: int) -> PartRow | None:
        """One announced part; None when there is none or the round is scrubbed."""

    def parts(self, submission_id: str) -> list[PartRow]:
        """All announced parts, in no order; none when the round is scrubbed."""

    def missing(self, submission_id: str) -> list[int]:
        """Numbers of announced parts that are not stored."""

    def digests_of_part(self, round_id: RoundId, number: int) -> list[tuple[str, str, str]]:
        """(submission id, site, digest) of part `number` of every complete submission, by submission id."""

    def mark_stored(self, submission_id: str, number: int, at: int) -> None:
        """Note that a part's file is durable."""

    def mark_damaged(self, submission_id: str, number: int, at: int) -> None:
        """Note that a part's file is not what it was, so that the part is missing again."""

    def damaged(self, round_id: RoundId) -> list[DamagedPart]:
        """Parts of the closed set that are missing again."""

    def sum_digests(self, round_id: RoundId) -> dict[int, str]:
        """Digest by number of the parts of the sum that are durable."""

    def add_sum_part(self, round_id: RoundId, number: int, digest: str) -> None:
        """Note that a part of the sum is durable, or replace what was noted."""

    # leases
    def lease(self, name: str) -> LeaseRow | None:
        """Who has it, or had it."""

    def put_lease(self, row: LeaseRow) -> None:
        """Write it, whoever had it."""

    def drop_lease(self, name: str) -> None:
        """Nobody has it."""

    def drop_leases(self) -> None:
        """Nobody has any."""

    # changes
    def number(self, name: str) -> int | None:
        """A number of `meta`."""

    def set_number(self, name: str, number: int) -> None:
        """Write a number of `meta` that is not there yet."""

    def generation(self) -> int:
        """A number that grows with every `bump`."""

    def bump(self) -> None:
        """Tell whoever waits, in this process or another, that rounds have changed."""


class Store(Protocol):
    """Where rows are kept.

    Attributes:
        is_shared: whether several servers may use it at once.
    """

    is_shared: bool

    def read(self) -> AbstractContextManager[Transaction]:
        """A transaction that only reads."""

    def write(self) -> AbstractContextManager[Transaction]:
        """A transaction that may write. One at a time, whatever the number of processes."""

    def close(self) -> None:
        """Let go of connections."""
