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
from service.domain.submissions import State
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
        """Return one federation."""

    def federations(self) -> list[FederationRow]:
        """Return all federations, by name."""

    def add_federation(self, row: FederationRow) -> None:
        """Register one."""

    def set_stage(self, name: str, stage: Stage) -> None:
        """Change its stage."""

    def set_paused(self, name: str, at: int | None) -> None:
        """Note when a federation was paused, or that it is not any more."""

    # rosters, epochs and commitments
    def newest_roster(self, federation: str) -> RosterRow:
        """Return the newest version of a federation's roster; None if it never had one."""

    def roster(self, federation: str, version: int) -> RosterRow | None:
        """Return one version of a federation's roster."""

    def roster_document(self, federation: str, version: int) -> bytes:
        """Return the canonical bytes of a version that is here."""

    def roster_versions(self, federation: str) -> list[int]:
        """Return all versions that are here, ascending."""

    def add_roster(self, row: RosterRow, document: bytes, at: int) -> None:
        """Write a version of a roster."""

    def newest_epoch(self, federation: str) -> EpochRow:
        """Return the current epoch of a federation that is here."""

    def epoch(self, federation: str, number: int) -> EpochRow | None:
        """Return one epoch."""

    def bundle(self, federation: str, number: int) -> bytes | None:
        """Return the canonical bytes of an epoch's bundle; None if there is none here."""

    def add_epoch(self, row: EpochRow, bundle: bytes | None, at: int) -> None:
        """Write an epoch."""

    def set_bundle(self, federation: str, number: int, bundle: bytes) -> None:
        """Write the bundle of an epoch that came without."""

    def commitment(self, federation: str, epoch: int, site: str) -> bytes | None:
        """Return the canonical bytes of a site's commitment."""

    def commitments(self, federation: str, epoch: int) -> list[bytes]:
        """Return all commitments to an epoch's key, by site."""

    def add_commitment(self, federation: str, epoch: int, site: str, document: bytes, at: int) -> None:
        """Write a commitment."""

    # rounds
    def round(self, round_id: RoundId) -> RoundRow | None:
        """Return one attempt."""

    def newest_round(self, federation: str) -> RoundRow | None:
        """Return the newest attempt of a federation."""

    def last_published(self, federation: str) -> RoundId | None:
        """Return the newest attempt with a sum."""

    def rounds_in(self, phases: Collection[Phase]) -> list[RoundRow]:
        """Return all attempts in these phases."""

    def unscrubbed(self) -> list[RoundRow]:
        """Return ended attempts whose single submissions are still to be deleted and not to be kept."""

    def invited(self, round_id: RoundId) -> frozenset[str]:
        """Return the sites that were invited."""

    def open_round(self, round_id: RoundId, state: Round, basis: Basis) -> None:
        """Write a new attempt and its invitations."""

    def close_round(self, round_id: RoundId, at: int) -> None:
        """Note that an attempt's set is final."""

    def set_phase(self, round_id: RoundId, phase: Phase) -> None:
        """Move an attempt on."""

    def end_round(self, round_id: RoundId, phase: Phase, record: bytes, head: ChainHead, at: int) -> None:
        """Write the record, which is the new head of the chain."""

    def chain_head(self, federation: str) -> ChainHead:
        """Return the newest record of a federation."""

    def record_at(self, federation: str, index: int) -> RoundRow | None:
        """Return the attempt whose record is at a position of the chain."""

    def move_deadline(self, round_id: RoundId, deadline_at: int) -> None:
        """Give an attempt another deadline."""

    def recent_rounds(self, federation: str, limit: int) -> list[RoundRow]:
        """Return the attempts of a federation that have ended last, newest first."""

    def count_rounds(self) -> dict[tuple[str, Phase], int]:
        """Return how many attempts are in which phase, by federation and phase."""

    def count_submissions(self) -> dict[tuple[str, State], int]:
        """Return how many submissions are in which state, by federation and state."""

    def kept_sums(self, federation: str) -> list[RoundRow]:
        """Return published rounds whose sum is here, newest first."""

    def scrub_sum(self, round_id: RoundId) -> None:
        """Note that the files of a sum are going to be removed. The record stays."""

    def sums_to_remove(self) -> list[RoundId]:
        """Return rounds whose sum is scrubbed while rows still name its parts."""

    def forget_sum(self, round_id: RoundId) -> None:
        """Forget the parts of a sum whose files are gone."""

    def scrub(self, round_id: RoundId) -> None:
        """Forget the single parts, and those of a sum that was never published, once their files are gone."""

    # submissions
    def submission(self, submission_id: str) -> SubmissionRow | None:
        """Return one submission."""

    def submission_of(self, round_id: RoundId, site: str) -> SubmissionRow | None:
        """Return the submission of one site to one attempt."""

    def submissions(self, round_id: RoundId) -> list[SubmissionRow]:
        """Return all submissions to one attempt, by id."""

    def completed(self, round_id: RoundId) -> frozenset[str]:
        """Return the sites whose submission to one attempt is complete."""

    def manifest(self, submission_id: str) -> bytes:
        """Return the signed manifest's bytes."""

    def manifests(self, round_id: RoundId) -> list[bytes]:
        """Return the signed manifests of all complete submissions, by site."""

    def add_submission(self, row: SubmissionRow, manifest: bytes, digests: Iterable[str], at: int) -> None:
        """Write a new submission and the parts it announces."""

    def move_submission(self, submission_id: str, state: State, accepted_at: int | None = None) -> None:
        """Put a submission into another state, and note when it was accepted, if that is now."""

    def unmark_parts(self, submission_id: str) -> None:
        """Note that no part of a submission is stored."""

    def expiring(self) -> list[SubmissionRow]:
        """Return submissions whose parts are being removed."""

    def idle(self, before: int) -> list[SubmissionRow]:
        """Open submissions of open rounds that hold parts and have not got one since `before`."""

    def stored_submissions(self, federation: str, site: str | None = None) -> int:
        """Return how many submissions, of one site or of all, the disk holds or has to hold parts of."""

    def awaited_parts(self) -> dict[str, int]:
        """Return how many parts have been announced for open submissions and are not stored, by federation."""

    def unsummed(self) -> list[str]:
        """Return the federation of every round whose sum is still to be made."""

    # parts
    def part(self, submission_id: str, number: int) -> PartRow | None:
        """Return one announced part; None when there is none or the round is scrubbed."""

    def parts(self, submission_id: str) -> list[PartRow]:
        """Return all announced parts, in no order; none when the round is scrubbed."""

    def missing(self, submission_id: str) -> list[int]:
        """Return numbers of announced parts that are not stored."""

    def digests_of_part(self, round_id: RoundId, number: int) -> list[tuple[str, str, str]]:
        """Return (submission id, site, digest) of part `number` of every complete submission, by submission id."""

    def mark_stored(self, submission_id: str, number: int, at: int) -> None:
        """Note that a part's file is durable."""

    def mark_damaged(self, submission_id: str, number: int, at: int) -> None:
        """Note that a part's file is not what it was, so that the part is missing again."""

    def damaged(self, round_id: RoundId) -> list[DamagedPart]:
        """Return parts of the closed set that are missing again."""

    def sum_digests(self, round_id: RoundId) -> dict[int, str]:
        """Return the digest by number of the parts of the sum that are durable."""

    def add_sum_part(self, round_id: RoundId, number: int, digest: str) -> None:
        """Note that a part of the sum is durable, or replace what was noted."""

    # leases
    def lease(self, name: str) -> LeaseRow | None:
        """Return who has the lease, or had it."""

    def put_lease(self, row: LeaseRow) -> None:
        """Write it, whoever had it."""

    def drop_lease(self, name: str) -> None:
        """Drop a lease, whoever has it."""

    def drop_leases(self) -> None:
        """Drop all leases."""

    # changes
    def number(self, name: str) -> int | None:
        """Read a number of `meta`."""

    def set_number(self, name: str, number: int) -> None:
        """Write a number of `meta` that is not there yet."""

    def generation(self) -> int:
        """Return a number that grows with every `bump`."""

    def bump(self) -> None:
        """Tell whoever waits, in this process or another, that rounds have changed."""


class Store(Protocol):
    """Where rows are kept.

    Attributes:
        is_shared: whether several servers may use it at once.
    """

    is_shared: bool

    def read(self) -> AbstractContextManager[Transaction]:
        """Open a transaction that only reads."""

    def write(self) -> AbstractContextManager[Transaction]:
        """Open a transaction that may write. One at a time, whatever the number of processes."""

    def close(self) -> None:
        """Let go of connections."""
