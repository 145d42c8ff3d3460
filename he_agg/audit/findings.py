"""Report an audit: who was in which round, and what must not be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from he_agg.documents.record import NO_RECORD

__all__ = ["Audit", "Coordinator", "Finding", "Notes", "RosterRow", "RoundRow"]


@dataclass(frozen=True)
class Finding:
    """Something that must not be.

    Attributes:
        kind: one word for what is wrong, for programs.
        line: of the transcript, from 1; 0 for what is missing in it.
        text: for people.
    """

    kind: str
    line: int
    text: str


@dataclass(frozen=True)
class Coordinator:
    """A coordinator of the first roster, on whom all trust rests.

    Attributes:
        confirmed: whether the auditor gave this fingerprint.
    """

    name: str
    fingerprint: str
    confirmed: bool


@dataclass(frozen=True)
class RosterRow:
    """One version of the roster. Units: `issued_at`, `expires_at` in seconds since 1970, UTC."""

    version: int
    digest: str
    issued_at: int
    expires_at: int
    sites: tuple[str, ...]
    min_sites: int
    signed_by: tuple[str, ...]


@dataclass(frozen=True)
class RoundRow:
    """What a record says, and its members of it. Units: `closed_at` in seconds since 1970, UTC.

    `reason` is why the federation has ended, if the record is its end. `holders` says of each that has said anything
    about the record whether it has `echoed` or `answered`.
    """

    index: int
    round: str
    outcome: str
    closed_at: int
    roster_version: int | None
    epoch: int
    members: tuple[str, ...]
    excluded: Mapping[str, str]
    verdicts: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    holders: dict[str, str] = field(default_factory=dict)


@dataclass
class Audit:
    """What came of it.

    Attributes:
        federation: its name; empty if not even that could be read.
        head: digest of the last record, for comparing with what sites have.
        findings: the first violation of each kind. None: everything holds.
    """

    federation: str = ""
    plan_id: str = ""
    coordinators: list[Coordinator] = field(default_factory=list)
    rosters: list[RosterRow] = field(default_factory=list)
    rounds: list[RoundRow] = field(default_factory=list)
    head: str = NO_RECORD
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def participation(self) -> dict[str, Counter[str]]:
        """For each site, in how many sums it is, and how often it was left out for which reason."""
        counts: dict[str, Counter[str]] = {}
        for row in self.rosters:
            for site in row.sites:
                counts.setdefault(site, Counter())
        for round_ in self.rounds:
            for site in round_.members:
                counts.setdefault(site, Counter())["in the sum"] += 1
            for site, reason in round_.excluded.items():
                counts.setdefault(site, Counter())[reason] += 1
        return dict(sorted(counts.items()))


class Notes:
    """Where the checks write."""

    def __init__(self) -> None:
        self.result = Audit()
        self.line = 0
        self._kinds: set[str] = set()

    def find(self, kind: str, text: str, line: int | None = None) -> None:
        """Note a violation, unless one of its kind has been noted; by default of the line that is being read."""
        if kind not in self._kinds:
            self._kinds.add(kind)
            self.result.findings.append(Finding(kind, self.line if line is None else line, text))
