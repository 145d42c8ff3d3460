"""Draw the sites of an attempt, so that anybody can draw again and nobody can choose.

All sites of a roster are invited, or a percentage of them that the plan says. What the draw depends on was fixed before
by others than the aggregator: the plan, the roster under which the attempt opened, and who was counted with what in the
last published sum. Those are digests of what sites have signed, with their random nonces in them. An aggregator that
does not like a draw can only let the attempt fail, which leaves a record.

Where a sum was given up, its number is tried again by all of its own members and nobody else: whoever spoilt it can
open it, and would read off the difference what a site has sent that is in one of the two sums only. Who stays away is
for people to decide, by a roster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set

from he_agg import canonical
from he_agg.documents.record import PUBLISHED, RoundRecord
from he_agg.documents.roster import Role, Roster
from he_agg.ids import RoundId
from he_agg.plan.plan import PublicPlan

__all__ = ["draw", "drawn_number", "invited_sites", "last_counted", "members_digest"]


def drawn_number(sites: int, percent: int, min_sites: int) -> int:
    """Return how many sites are invited: the percentage, rounded up, but enough for a sum."""
    return min(sites, max(-(-percent * sites // 100), min_sites))


def draw(sites: Set[str], number: int, round_id: RoundId, roster: str, counted: str) -> frozenset[str]:
    """Draw so many of these sites.

    Args:
        sites: all that the roster has.
        number: how many.
        round_id: the attempt.
        roster: digest of the roster under which it opens.
        counted: digest of the members of the last published record before it, `NO_RECORD` if there is none.
    """
    if number >= len(sites):
        return frozenset(sites)
    seed = canonical.digest(
        {
            "draw": 1,
            "federation": round_id.federation,
            "round": round_id.number,
            "attempt": round_id.attempt,
            "roster": roster,
            "counted": counted,
        }
    )
    order = sorted(sites, key=lambda site: hashlib.sha256(f"{seed}.{site}".encode()).digest())
    return frozenset(order[:number])


def invited_sites(
    plan: PublicPlan, roster: Roster, digest: str, round_id: RoundId, counted: str, again: Set[str] | None = None
) -> frozenset[str]:
    """Return the sites that have to be invited to an attempt.

    Args:
        roster: the one under which it opens.
        digest: of that roster.
        counted: as for `draw`.
        again: members of the sum that was given up at this number; None if there is none.
    """
    sites = frozenset(roster.having(Role.SITE))
    if again is not None:
        return sites & again
    number = drawn_number(len(sites), plan.sample_percent, max(plan.min_sites, roster.min_sites))
    return draw(sites, number, round_id, digest, counted)


def members_digest(members: Mapping[str, str]) -> str:
    """Return the digest of who was counted with what: submission ids by site."""
    return canonical.digest(dict(members))


def last_counted(record: RoundRecord, counted: str) -> str:
    """Return what the draws after a record depend on, given what the draw before it did."""
    return members_digest(record.members) if record.outcome == PUBLISHED else counted
