"""Tell who may have spoilt sums that sites have rejected, from records and verdicts alone.

What a sum was, is what most of its members have said of it: one that lies is outvoted. Whoever spoils sums is in all
of those that were rejected, so a site is named if it is the only one that is. One member cannot bring another into
that place, since it would have to be in all of them itself; two that work together can.

To get there, other sets are tried, without data: zeros instead of updates. docs/decisions/0024-finding-a-bad-member.md
says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from he_agg.audit.findings import RoundRow
from he_agg.documents.record import PUBLISHED
from he_agg.documents.verdict import OPENED, REJECTED

__all__ = ["Suspects", "next_set", "suspects"]


@dataclass(frozen=True)
class Suspects:
    """What verdicts come to.

    Attributes:
        rejected: rounds whose sum most of its members have rejected.
        together: sites that are in all of these.
        named: the only one of them, if there is only one.
        against: for each site that has said something else than most members, the rounds of which.
        next_set: who should take part in the next rehearsal to find out more; empty if that would not help.
    """

    rejected: tuple[str, ...]
    together: tuple[str, ...]
    named: str | None
    against: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    next_set: tuple[str, ...] = ()


def suspects(rounds: Sequence[RoundRow], sites: Set[str], least: int) -> Suspects | None:
    """Look at all published sums of a transcript; None if nobody has rejected any.

    Args:
        sites: of the newest roster: who can take part in what comes.
        least: how many must be in a sum.
    """
    published = [row for row in rounds if row.outcome == PUBLISHED]
    if not any(REJECTED in row.verdicts.values() for row in published):
        return None
    judged = [(frozenset(row.members), said) for row in published if (said := _most(row)) is not None]
    together = _together(judged) or frozenset()
    against: dict[str, tuple[str, ...]] = {}
    for row in published:
        most = _most(row)
        for site, verdict in row.verdicts.items():
            if most is not None and verdict != most:
                against[site] = (*against.get(site, ()), row.round)
    return Suspects(
        rejected=tuple(row.round for row in published if _most(row) == REJECTED),
        together=tuple(sorted(together)),
        named=next(iter(together)) if len(together) == 1 else None,
        against=dict(sorted(against.items())),
        next_set=tuple(sorted(next_set(sites, least, judged))),
    )


def next_set(sites: Set[str], least: int, judged: Sequence[tuple[Set[str], str]]) -> frozenset[str]:
    """Choose who takes part in the next rehearsal: half of those who may be it, and others who are not.

    Args:
        judged: sets that were tried, and what most of their members have said.

    Returns:
        The set; empty if it is known who it is, or no set that was not tried before tells more.
    """
    together = _together(judged)
    suspected = sites if together is None else together & sites
    if len(suspected) < 2:
        return frozenset()
    cleared = frozenset().union(*(members for members, said in judged if said == OPENED))
    likely = sorted(suspected - cleared) or sorted(suspected)
    chosen = set(likely[: max(1, len(likely) // 2)])
    others = [*sorted(sites - suspected), *sorted(suspected & cleared - chosen), *likely]
    for site in others:
        if len(chosen) < least:
            chosen.add(site)
    tried = {frozenset(members) for members, _ in judged}
    return frozenset() if suspected <= chosen or chosen in tried else frozenset(chosen)


def _most(row: RoundRow) -> str | None:
    """Return what more than half of a sum's members have said of it."""
    said = list(row.verdicts.values())
    for verdict in (OPENED, REJECTED):
        if 2 * said.count(verdict) > len(row.members):
            return verdict
    return None


def _together(judged: Sequence[tuple[Set[str], str]]) -> frozenset[str] | None:
    """Return the sites that are in all sums that were rejected; None if there is none."""
    rejected = [frozenset(members) for members, said in judged if said == REJECTED]
    return frozenset.intersection(*rejected) if rejected else None
