"""Rosters as people and scripts read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from he_agg.documents.roster import Member, Role, Roster
from he_agg.documents.signed import Signed
from he_agg.errors import counted

__all__ = ["day_of", "roster_facts", "roster_table", "signers_of"]

_DAY_S = 86400


def signers_of(roster: Signed[Roster]) -> list[str]:
    """Name the roster's own coordinators that have signed it."""
    return sorted(roster.signers(roster.body.keys_of(Role.COORDINATOR)))


def roster_facts(roster: Signed[Roster]) -> dict[str, Any]:
    """Return what the roster says, for scripts."""
    now = roster.body
    return {
        "federation": now.federation,
        "version": now.version,
        "digest": roster.body_digest,
        "issued_at": now.issued_at,
        "expires_at": now.expires_at,
        "threshold": now.threshold,
        "min_sites": now.min_sites,
        "small_groups": now.small_groups,
        "holders": None
        if now.holders is None
        else {
            "names": sorted(now.having(Role.HOLDER)),
            "quorum": now.holders.quorum,
            "threshold": now.holders.threshold,
            "claim": now.holders.claim(now.min_sites),
        },
        "signed_by": signers_of(roster),
        "members": {
            name: {"roles": sorted(member.roles), "fingerprint": member.fingerprint}
            for name, member in sorted(now.members.items())
        },
    }


def roster_table(roster: Signed[Roster], before: Signed[Roster] | None = None) -> str:
    """Return what the roster says, for people, and what changed since the version before."""
    now = roster.body
    days = (now.expires_at - now.issued_at) // _DAY_S
    rows = [
        f"roster of {now.federation}, version {now.version}",
        f"good from {day_of(now.issued_at)} to {day_of(now.expires_at)} ({days} days)",
        now.smallest_group,
        *_holders(now),
        f"signatures of coordinators: {', '.join(signers_of(roster)) or 'none'} ({now.threshold} needed)",
        "members:",
    ]
    rows += [_row(member) for _, member in sorted(now.members.items())]
    if before is not None:
        rows += [f"changes since version {before.body.version}:", *_changes(before.body, now)]
    return "\n".join(rows)


def _holders(roster: Roster) -> list[str]:
    """Say who holds shares, how many it takes, and against whom that helps."""
    thresholds = roster.holders
    if thresholds is None:
        return []
    claim = thresholds.claim(roster.min_sites)
    return [
        f"holders of split keys: {', '.join(sorted(roster.having(Role.HOLDER)))}",
        f"{thresholds.quorum} of {thresholds.holders} have to see the same record (quorum), and {thresholds.threshold} "
        f"to answer for it (threshold); {thresholds.may_be_away} may be away",
        f"the aggregator, with {counted(claim, 'holder')} on its side at most, reads no update (claim {claim})",
    ]


def _row(member: Member) -> str:
    return f"  {member.name:<24} {member.fingerprint}  {', '.join(sorted(member.roles))}"


def _changes(before: Roster, now: Roster) -> list[str]:
    rows = []
    for name in sorted(set(before.members) | set(now.members)):
        old, new = before.members.get(name), now.members.get(name)
        if old is None and new is not None:
            rows.append(f"  added    {_row(new).strip()}")
        elif new is None:
            rows.append(f"  removed  {name}")
        elif old is not None and old.fingerprint != new.fingerprint:
            rows.append(f"  NEW KEYS {_row(new).strip()}")
        elif old is not None and old.roles != new.roles:
            rows.append(f"  roles    {name}: {', '.join(sorted(old.roles))} -> {', '.join(sorted(new.roles))}")
    rows += [
        f"  {name}: {getattr(before, name)} -> {getattr(now, name)}"
        for name in ("threshold", "min_sites", "small_groups")
        if getattr(before, name) != getattr(now, name)
    ]
    if before.holders != now.holders:
        rows += [f"  holders: {_numbers(before)} -> {_numbers(now)}"]
    return rows or ["  none but its dates"]


def _numbers(roster: Roster) -> str:
    thresholds = roster.holders
    if thresholds is None:
        return "none"
    return f"quorum {thresholds.quorum} of {thresholds.holders}, threshold {thresholds.threshold}"


def day_of(seconds: int) -> str:
    """Return the UTC day of a time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
