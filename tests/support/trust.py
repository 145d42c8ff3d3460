"""Consortia for tests: identities of all members and a signed roster, made by the real code."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from he_agg.documents.roster import Member, Role, Roster, majority
from he_agg.documents.signed import Signed
from he_agg.sharing.thresholds import Thresholds
from he_agg.signing import SigningKey
from keys import Identity

__all__ = ["AGGREGATOR", "AUDITOR", "COORDINATOR", "Consortium", "consortium", "identity_of", "roster_of"]

COORDINATOR = "coordinator"
AUDITOR = "auditor"
AGGREGATOR = "aggregator"


@cache
def identity_of(name: str) -> Identity:
    """An identity of that name, the same one each time: making ML-KEM keys for every test would take a while."""
    return Identity.create(name)


@dataclass(frozen=True)
class Consortium:
    """All private keys of a federation in one place, as only a test may have them.

    Attributes:
        federation: its name.
        identities: by name: the sites, a coordinator and an auditor.
        roster: the newest roster.
    """

    federation: str
    identities: dict[str, Identity]
    roster: Signed[Roster]

    def next_roster(self, members: dict[str, Member], **changes: Any) -> Signed[Roster]:
        """The next version, signed by the coordinator."""
        now = self.roster.body
        holders = sum(Role.HOLDER in member.roles for member in members.values())
        fields = {
            "issued_at": now.issued_at,
            "expires_at": now.expires_at,
            "threshold": 1,
            "min_sites": now.min_sites,
            "holders": Thresholds.choose(holders) if holders else None,
        }
        return self.signed(roster_of(self.federation, now.version + 1, members=members, **(fields | changes)))

    def signed(self, roster: Roster) -> Signed[Roster]:
        """A roster with the coordinator's signature."""
        return Signed.make(roster, self.identities[COORDINATOR].signing_key, COORDINATOR)


def roster_of(*fields: Any, **named: Any) -> Roster:
    """A roster that says that it allows small groups if it does."""
    roster = Roster(*fields, **named)
    return replace(roster, small_groups=roster.min_sites < majority(len(roster.having(Role.SITE))))


def _roles(sites: Sequence[str], holders: Sequence[str]) -> list[tuple[Role, Sequence[str]]]:
    return [(Role.SITE, sites), (Role.HOLDER, holders)]


def consortium(
    federation: str,
    sites: Sequence[str],
    aggregator: SigningKey | Member,
    *,
    min_sites: int = 2,
    valid_s: int = 86400,
    holders: Sequence[str] = (),
) -> Consortium:
    """A federation of these sites, one coordinator, one auditor and one aggregator, and of holders of shares."""
    public = aggregator.signing_key if isinstance(aggregator, Member) else aggregator.public_key.hex()
    identities = {name: identity_of(name) for name in (*dict.fromkeys((*sites, *holders)), COORDINATOR, AUDITOR)}
    members = {
        name: identities[name].member([role for role, those in _roles(sites, holders) if name in those])
        for name in (*sites, *holders)
    }
    members[COORDINATOR] = identities[COORDINATOR].member([Role.COORDINATOR])
    members[AUDITOR] = identities[AUDITOR].member([Role.AUDITOR])
    members[AGGREGATOR] = Member(AGGREGATOR, public, frozenset({Role.AGGREGATOR}))
    now = int(time.time())
    thresholds = Thresholds.choose(len(holders)) if holders else None
    roster = roster_of(federation, 1, now - 60, now + valid_s, 1, min_sites, members, holders=thresholds)
    unsigned = Consortium(federation, identities, Signed(roster))
    return Consortium(federation, identities, unsigned.signed(roster))
