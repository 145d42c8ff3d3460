"""Show what holders of a federation have done, and who is awaited, where one-time keys are split."""

from __future__ import annotations

from typing import Any

from he_agg.documents.roster import Role
from service.core.holder_lists import list_of
from service.core.roster_cache import newest_roster
from service.store.rows import FederationRow, RoundRow
from service.store.transaction import Transaction

__all__ = ["holding"]


def holding(tx: Transaction, row: FederationRow, newest: RoundRow | None) -> dict[str, Any] | None:
    """Say which holders can take part, and what the holders of an awaited round have sent; None where keys are shared.

    Args:
        newest: the newest attempt.
    """
    roster = newest_roster(tx, row.name).body
    if roster.holders is None:
        return None
    holders = sorted(roster.having(Role.HOLDER))
    having = set(tx.holders_with_keys(row.name, tx.newest_epoch(row.name).number))
    return {
        "quorum": roster.holders.quorum,
        "threshold": roster.holders.threshold,
        "holders": [{"holder": name, "has_key": name in having} for name in holders],
        "ready": len(having & set(holders)) >= roster.holders.quorum,
        "awaited": None if newest is None or not newest.is_awaited else _awaited(tx, newest),
    }


def _awaited(tx: Transaction, row: RoundRow) -> dict[str, Any] | None:
    listed = list_of(tx, row)
    if listed is None:
        return None
    echoed, answered = tx.echoed(row.id), tx.answered(row.id)
    if len(echoed) < listed.thresholds.quorum:
        waits_for = [name for name in listed.names if name not in echoed]
    else:
        waits_for = [name for name in listed.keys if name not in answered]
    return {
        "id": str(row.id),
        "since": row.ended_at,
        "quorum": listed.thresholds.quorum,
        "threshold": listed.thresholds.threshold,
        "holders": [
            {
                "holder": name,
                "has_key": name in listed.keys,
                "echoed": name in echoed,
                "answered": name in answered,
            }
            for name in listed.names
        ],
        "waits_for": waits_for,
        "complaints": [
            {"holder": holder, "dealer": dealer, "fault": fault} for holder, dealer, fault in tx.complained(row.id)
        ],
    }
