"""Sums of open rounds while their parts come in: guesses about the sets that will close them, and nothing else.

A part is added to the sum of its number as it arrives, from the memory that it arrived in. Which parts are in such a
sum is known exactly, by submission and digest, so folding may begin with it where the closed set has all of them. Of
what it has not, or where this process knows nothing, the files are read. So the sum stays a function of the closed set:
to forget a running sum is always right, and costs a reading of files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import Packed, Residues, fold, new_sum, residue_dtype
from he_agg.plan.sections import PartPlace

__all__ = ["RunningSum", "RunningSums"]

_RESTS_S = 60.0
"""A round to which nothing was added for so long makes room for others. Units: seconds."""


class RunningSum(NamedTuple):
    """The sum of some parts of one number.

    Attributes:
        added: of which they are: digests by submission.
        total: their sum. Whoever took it may add to it.
    """

    added: dict[str, str]
    total: Residues


class _Part:
    """One part of a sum. Its lock is held while something is added to it."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.lock = threading.Lock()
        self.added: dict[str, str] = {}
        self.total: Residues | None = None
        self.gone = False


@dataclass
class _Round:
    id: RoundId
    used_at: float
    parts: dict[int, _Part] = field(default_factory=dict)


class RunningSums:
    """The running sums of this process. Every method may be called from any thread.

    Args:
        most_bytes: how much memory they may take together; 0 keeps none. Units: bytes.
    """

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._room = most_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._rounds: dict[str, _Round] = {}
        self._taken: dict[str, tuple[int, int]] = {}

    def add(self, round_id: RoundId, place: PartPlace, submission_id: str, digest: str, packed: Packed) -> bool:
        """Add a part, once, whoever brings it. Its bytes have this digest.

        Returns:
            Whether it is in the sum, and so all its residues are below the modulus; if not, nobody has looked.

        Raises:
            WireError: one of them is not.
        """
        with self._lock:
            part = self._part(round_id, place)
        if part is None:
            return False
        section = place.section
        with part.lock:
            if part.gone:
                return False
            if (known := part.added.get(submission_id)) is not None:
                return known == digest
            if part.total is None:
                part.total = new_sum(place.residues, section.modulus_bits)
            bad = fold(part.total, packed, section.modulus_bits, section.modulus)
            if bad < 0:
                part.added[submission_id] = digest
                return True
            part.gone = True  # it is spoilt; the next part begins another one
        self._drop(round_id, place.number, part)
        raise WireError(
            Reason.RESIDUE_OUT_OF_RANGE,
            f"part {place.number}: residue {bad} is not below {section.modulus}",
        )

    def take(self, round_id: RoundId, number: int) -> RunningSum | None:
        """Hand out one part of the sum of a round that is closed, if there is one: nothing more is added to it."""
        with self._lock:
            mine = round_id.number, round_id.attempt
            self._taken[round_id.federation] = max(mine, self._taken.get(round_id.federation, mine))
            known = self._rounds.get(round_id.federation)
            part = known.parts.get(number) if known is not None and known.id == round_id else None
        if part is None:
            return None
        self._drop(round_id, number, part)
        with part.lock:
            total, part.total, part.gone = part.total, None, True
        return None if total is None else RunningSum(part.added, total)

    def _part(self, round_id: RoundId, place: PartPlace) -> _Part | None:
        """Find where a part is added, or make room for it."""
        if (round_id.number, round_id.attempt) <= self._taken.get(round_id.federation, (0, 0)):
            return None
        known = self._rounds.get(round_id.federation)
        if known is None or known.id != round_id:
            # A federation has one open round: what is left of another one failed, or was folded elsewhere.
            self._forget(round_id.federation)
            known = _Round(round_id, self._clock())
        part = known.parts.get(place.number)
        if part is None:
            size = place.residues * np.dtype(residue_dtype(place.section.modulus_bits)).itemsize
            if size > self._room:
                for federation, other in list(self._rounds.items()):
                    if other.used_at < self._clock() - _RESTS_S:
                        self._forget(federation)
            if size > self._room:
                return None
            part = known.parts[place.number] = _Part(size)
            self._room -= size
        known.used_at = self._clock()
        self._rounds[round_id.federation] = known
        return part

    def _drop(self, round_id: RoundId, number: int, part: _Part) -> None:
        with self._lock:
            known = self._rounds.get(round_id.federation)
            if known is not None and known.parts.get(number) is part:
                del known.parts[number]
                self._room += part.size_bytes

    def _forget(self, federation: str) -> None:
        known = self._rounds.pop(federation, None)
        if known is not None:
            # Whoever adds to one of them just now still does, for nothing.
            self._room += sum(part.size_bytes for part in known.parts.values())
