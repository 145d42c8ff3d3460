"""Runs of parts: what a request may bring, cut to what its body holds, and taken a few MiB at a time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from he_agg.errors import Reason
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import PartPlace
from service.refusal import RefusedError
from service.store.parts.base import PartKey
from service.store.rows import SubmissionRow

__all__ = ["ExpectedPart", "Run", "key_of"]

_GROUP_BYTES = 4 * 2**20
"""So much of one body is checked and stored at a time: what is interrupted is sent again from there."""


@dataclass(frozen=True)
class ExpectedPart:
    """A part that a body has to bring, and whether it is stored already."""

    place: PartPlace
    digest: str
    stored: bool


@dataclass(frozen=True)
class Run:
    """Consecutive parts of a submission, one after another in a body; none, if it begins behind the last one."""

    submission: SubmissionRow
    plan: PublicPlan
    parts: tuple[ExpectedPart, ...]

    @property
    def wire_bytes(self) -> int:
        """How long the body is. Units: bytes."""
        return sum(part.place.wire_bytes for part in self.parts)

    @property
    def reaches_end(self) -> bool:
        """Whether no part of the submission comes after these."""
        return not self.parts or self.parts[-1].place.number + 1 == len(self.plan.places)

    def cut(self, length: int) -> Run:
        """Keep as many of these parts as a body of this length holds.

        Raises:
            RefusedError: the body does not end where a part does.
        """
        ends = list(itertools.accumulate(part.place.wire_bytes for part in self.parts))
        if not ends and not length:
            return self
        if length not in ends:
            expected = f"{ends[0]} to {ends[-1]}" if ends else "0"
            raise RefusedError(Reason.TRUNCATED, f"expected whole parts, {expected} bytes, got {length} announced")
        return replace(self, parts=self.parts[: ends.index(length) + 1])

    def groups(self) -> list[Run]:
        """Cut them into groups that are in memory together: one long part or several short ones, and never no group."""
        groups: list[list[ExpectedPart]] = []
        room = 0
        for part in self.parts:
            if part.place.wire_bytes > room:
                groups.append([])
                room = _GROUP_BYTES
            groups[-1].append(part)
            room -= part.place.wire_bytes
        return [replace(self, parts=tuple(group)) for group in groups] or [self]


def key_of(run: Run, part: ExpectedPart) -> PartKey:
    """Name the place of a part in the part store."""
    return PartKey(run.submission.round_id, run.submission.id, part.place.number)
