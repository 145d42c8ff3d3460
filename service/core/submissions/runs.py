"""Runs of parts: what a request may bring, cut to what its body holds, and taken a few MiB at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from he_agg.documents.manifest import MAX_MANIFEST_BYTES
from he_agg.errors import Reason
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import PartPlace
from service.refusal import RefusedError
from service.store.parts.base import PartKey
from service.store.rows import Basis, SubmissionRow

__all__ = ["ExpectedPart", "Run", "key_of", "measured"]

_GROUP_BYTES = 4 * 2**20
"""So much of one body is checked and stored at a time: what is interrupted is sent again from there."""


@dataclass(frozen=True)
class ExpectedPart:
    """A part that a body has to bring.

    Attributes:
        digest: what it has to be, if that is known: it came before, or a manifest was accepted.
        stored: whether it is stored already.
    """

    place: PartPlace
    digest: str | None
    stored: bool


@dataclass(frozen=True)
class Run:
    """Consecutive parts of a submission, one after another in a body; none, if it begins behind the last one.

    Attributes:
        basis: what its round opened under.
        manifest_bytes: how long the manifest behind them is, with the spaces that follow it; 0 if none is there.
        begins: whether it begins the submission: nothing of that is here yet.
        keys: its site's, as the newest roster had it when the head came.
    """

    submission: SubmissionRow
    plan: PublicPlan
    basis: Basis
    parts: tuple[ExpectedPart, ...]
    manifest_bytes: int = 0
    begins: bool = False
    keys: Mapping[str, bytes] = field(default_factory=dict)

    def lengths(self) -> list[int]:
        """Say how long the parts are, and the manifest behind them if there is one. Units: bytes."""
        return [part.place.wire_bytes for part in self.parts] + [self.manifest_bytes] * bool(self.manifest_bytes)

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
        groups = groups or [[]]
        last = len(groups) - 1
        return [
            replace(
                self,
                parts=tuple(group),
                manifest_bytes=self.manifest_bytes * (n == last),
                begins=self.begins and n == 0,
            )
            for n, group in enumerate(groups)
        ]


def measured(places: Sequence[PartPlace], length: int) -> tuple[Sequence[PartPlace], int]:
    """Find which parts a body of this length holds, and how long the manifest is that comes behind the last of all.

    It may come alone, in another request: a proxy lets through so many bytes at a time, and one part may be as long.

    Args:
        places: those that it may hold, to the submission's end.

    Raises:
        RefusedError: it does not end where a part or a manifest does, or has a longer one than there are.
    """
    ends = list(itertools.accumulate((place.wire_bytes for place in places), initial=0))
    if length > ends[-1] + MAX_MANIFEST_BYTES:
        raise RefusedError(
            Reason.TOO_LARGE,
            f"expected a body of at most {ends[-1] + MAX_MANIFEST_BYTES} bytes, got {length} announced",
        )
    if length > ends[-1]:
        return places, length - ends[-1]
    if not places:
        raise RefusedError(Reason.TRUNCATED, "expected the signed manifest behind the last part, got an empty body")
    if length not in ends[1:]:
        expected = f"{ends[1]} to {ends[-1]}"
        raise RefusedError(Reason.TRUNCATED, f"expected whole parts, {expected} bytes, got {length} announced")
    return places[: ends.index(length)], 0


def key_of(run: Run, part: ExpectedPart) -> PartKey:
    """Name the place of a part in the part store."""
    return PartKey(run.submission.round_id, run.submission.id, part.place.number)
