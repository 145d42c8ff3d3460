"""Define the rows that the aggregator remembers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from he_agg.documents.federation import FederationDocument
from he_agg.documents.record import RoundRecord
from he_agg.documents.signed import Signed
from he_agg.ids import RoundId
from service.domain.events import Phase, Stage
from service.domain.submissions import State

__all__ = [
    "Basis",
    "ChainHead",
    "DamagedPart",
    "EpochRow",
    "FederationRow",
    "Keeping",
    "LeaseRow",
    "PartRow",
    "RosterRow",
    "RoundRow",
    "SubmissionRow",
]


@lru_cache(maxsize=64)
def _document(data: bytes) -> FederationDocument:
    # A document never changes, and checking a plan again for every request would cost more than the request.
    return FederationDocument.parse(data)


@lru_cache(maxsize=16)
def _record(data: bytes) -> Signed[RoundRecord]:
    # Every site of a sum asks for it, and says what it found, and each time it is looked whether it is a member.
    return Signed.parse(RoundRecord, data)


@dataclass(frozen=True)
class Keeping:
    """What the operator decided about a federation, beside its plan.

    Attributes:
        keep_sums: how many sums stay; None for the server's setting.
        keep_submissions: whether the single ciphertexts of published rounds stay, for audit.
    """

    keep_sums: int | None = None
    keep_submissions: bool = False


@dataclass(frozen=True)
class FederationRow:
    """A federation. `document` is the canonical bytes of its `FederationDocument`."""

    name: str
    document: bytes
    stage: Stage
    created_at: int
    paused_at: int | None = None
    keeping: Keeping = Keeping()

    @property
    def parsed(self) -> FederationDocument:
        """The document, checked."""
        return _document(self.document)


@dataclass(frozen=True)
class RosterRow:
    """A version of a federation's roster. `digest` is that of the roster without its signatures."""

    federation: str
    version: int
    digest: str


@dataclass(frozen=True)
class EpochRow:
    """An epoch of a federation's group key."""

    federation: str
    number: int
    key_id: str


@dataclass(frozen=True)
class Basis:
    """What a round opened under. `holders` is the digest of its list of holders; None where keys are shared."""

    epoch: int
    key_id: str
    roster: str
    roster_version: int
    holders: str | None = None


@dataclass(frozen=True)
class ChainHead:
    """The newest record of a federation: its position in the chain, 0 if there is none, and its digest."""

    index: int
    digest: str


@dataclass(frozen=True)
class RoundRow:
    """One attempt at one round. `record` is the canonical bytes of its `Signed[RoundRecord]`, once it has ended.

    `settled_at` is set once it is published and nothing is awaited of holders.
    """

    id: RoundId
    phase: Phase
    opened_at: int
    deadline_at: int
    basis: Basis
    record: bytes | None
    record_digest: str | None
    scrubbed: bool = False
    sum_scrubbed: bool = False
    closed_at: int | None = None
    ended_at: int | None = None
    settled_at: int | None = None

    @property
    def signed(self) -> Signed[RoundRecord] | None:
        """The record, read."""
        return None if self.record is None else _record(self.record)

    @property
    def is_awaited(self) -> bool:
        """Whether it is published, and its holders have not answered yet."""
        return self.phase is Phase.PUBLISHED and self.settled_at is None


@dataclass(frozen=True)
class SubmissionRow:
    """One submission.

    Attributes:
        id: what it is kept under from its first byte on: its upload, the nonce of its manifest.
        accepted_at: set once it is complete.
        digest: what records and receipts call it, the SHA-256 of its signed manifest; None until one was accepted.
    """

    id: str
    round_id: RoundId
    site: str
    state: State
    accepted_at: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class PartRow:
    """One part of a submission, and whether it is stored. `digest` is that of what came first; None before."""

    submission_id: str
    number: int
    digest: str | None
    stored: bool
    damaged_at: int | None = None


@dataclass(frozen=True)
class DamagedPart:
    """A part of a complete submission whose file was found to be another, and which its site is asked for again."""

    submission_id: str
    site: str
    number: int
    damaged_at: int


@dataclass(frozen=True)
class LeaseRow:
    """Who does a piece of background work. `token` is another one each time that somebody takes it."""

    name: str
    holder: str
    token: str
    expires_at: float
