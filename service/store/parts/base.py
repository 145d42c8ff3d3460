"""The contract of a part store: parts of submissions and of sums, each whole or absent, and durable once put.

A store is any place that can keep bytes under a key. tests/service/store/parts/contract.py is what one has to pass.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from he_agg.errors import Reason
from he_agg.ids import RoundId
from service.store.failures import StoreError

__all__ = ["SUM", "PartKey", "PartLostError", "PartStore", "Space"]

SUM = "sum"
"""Owner of the parts of a round's sum."""


@dataclass(frozen=True)
class PartKey:
    """What a part is kept under. Whoever makes one has checked what it is made of.

    Attributes:
        owner: id of a submission, or `SUM`.
    """

    round_id: RoundId
    owner: str
    number: int


class PartLostError(StoreError):
    """A part is missing, shorter than it was, or cannot be read: its site can send it again, or it is made again."""

    def __init__(self, key: PartKey) -> None:
        what = f"part {key.number} of {key.owner[:12]} in round {key.round_id}"
        super().__init__(Reason.INTERNAL, f"{what}: expected the bytes that were put, they are missing or unreadable")


class Space(NamedTuple):
    """How much a store can hold. Units: bytes."""

    free_bytes: int
    size_bytes: int


class PartStore(ABC):
    """Keeps parts. Every method may be called from any thread, and again with the same arguments.

    Raises:
        StoreFullError, StoreBusyError: from every method that writes.
    """

    @abstractmethod
    def put_all(self, parts: Sequence[tuple[PartKey, bytes | memoryview]], *, to_be_read: bool = False) -> None:
        """Keep parts, one after another. When it returns they are durable.

        At any moment a part is absent, whole as it was, or whole as it is given here. If one cannot be put, those
        before it may be there.

        Args:
            to_be_read: whether they are worth a place in the kernel's memory, if the store is files.
        """

    @abstractmethod
    def read(self, key: PartKey) -> bytes | memoryview:
        """Read a whole part.

        Raises:
            PartLostError: it is not there, or cannot be read.
        """

    @abstractmethod
    def stream(self, key: PartKey, size: int) -> AsyncIterator[memoryview]:
        """Read a part piece by piece, for an event loop: what has to wait does so in a thread.

        Raises:
            PartLostError: it is not there, cannot be read, or has another size. Possibly after some of its pieces.
        """

    @abstractmethod
    def size(self, key: PartKey) -> int | None:
        """Return how long a part is, None if it is not there. Asked within transactions, so it must be quick."""

    def is_whole(self, key: PartKey, digest: str) -> bool:
        """Tell whether a part is there, and its SHA-256 is this."""
        try:
            return hashlib.sha256(self.read(key)).hexdigest() == digest
        except PartLostError:
            return False

    @abstractmethod
    def delete(self, key: PartKey) -> None:
        """Remove a part that no row names, if it is there."""

    @abstractmethod
    def purge_submission(self, round_id: RoundId, submission_id: str) -> None:
        """Remove all parts of one submission. More may be put later."""

    @abstractmethod
    def purge_submissions(self, round_id: RoundId) -> None:
        """Remove the parts of all submissions of a round. The sum stays."""

    @abstractmethod
    def purge_sum(self, round_id: RoundId) -> None:
        """Remove the sum of a round."""

    @abstractmethod
    def purge_round(self, round_id: RoundId) -> None:
        """Remove everything of a round."""

    @abstractmethod
    def purge_leftovers(self, older_than_s: float = 0.0) -> int:
        """Remove what a killed process was writing.

        Call it only while nobody writes, or with an age that says so.

        Args:
            older_than_s: leave younger ones alone. Units: seconds.

        Returns:
            How many parts or pieces it were.
        """

    @abstractmethod
    def rounds(self) -> Iterator[RoundId]:
        """Return the rounds of which anything is here."""

    @abstractmethod
    def space(self) -> Space | None:
        """Return how much room there is, None for a store that knows no limit."""

    @abstractmethod
    def check(self) -> None:
        """See that something can be put and removed. Asked by whoever asks whether we are ready."""

    def prove(self) -> None:
        """See at the start that the store can be used, and keeps what this contract promises of it.

        Raises:
            ConfigError: it cannot, or does not.
        """
        self.check()

    @abstractmethod
    def number(self) -> int | None:
        """Return the number that joins this store to the database whose rows speak of its parts.

        None before it has one, -1 for one that cannot be read.
        """

    @abstractmethod
    def take_number(self, number: int) -> None:
        """Take a number, durably."""
