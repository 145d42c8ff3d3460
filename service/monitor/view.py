"""What an operator gets to see: where everything stands, in one document, read from the store in one transaction.

It holds what the aggregator knows anyway and nothing more: names, states, times, sizes and reasons. Digests, tags,
signatures and nonces are not in it, except for the head of the chain, which coordinators compare.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from he_agg.documents.record import RoundRecord, SignedRecord
from he_agg.documents.roster import Role
from he_agg.plan.plan import PublicPlan
from service.core.roster_cache import newest_roster, roster_of
from service.domain.events import Phase, Stage
from service.settings import Settings
from service.store.base import Store, Transaction
from service.store.rows import FederationRow, RoundRow, SubmissionRow

__all__ = ["quorum", "take_snapshot"]

HISTORY = 30
"""How many ended attempts of a federation are shown."""


def take_snapshot(
    store: Store, settings: Settings, now: float, *, process: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Look at everything.

    Args:
        now: the aggregator's time. Units: seconds since 1970, UTC.
        process: what only the running server knows: its version and age, what it refused lately.

    Returns:
        JSON values. Times are seconds since 1970, UTC; sizes are bytes.
    """
    with store.read() as tx:
        federations = [_federation(tx, row) for row in tx.federations()]
    disk = shutil.disk_usage(settings.data_dir)
    database = settings.data_dir / "aggregator.sqlite3"
    return {
        "v": 1,
        "now": round(now, 3),
        "storage": {
            "free_bytes": disk.free,
            "size_bytes": disk.total,
            "reserve_bytes": settings.reserve_bytes,
            "held_bytes": sum(federation["held_bytes"] for federation in federations),
            "database_bytes": _size(database) if settings.database_url is None else None,
        },
        "federations": federations,
        "process": None if process is None else dict(process),
    }


def quorum(tx: Transaction, row: FederationRow, newest: RoundRow | None) -> int:
    """Return how many sites must be complete by the deadline, by plan, newest roster and the round's roster."""
    need = [row.parsed.plan.min_sites, newest_roster(tx, row.name).roster.min_sites]
    if newest is not None:
        need.append(roster_of(tx, row.name, newest.basis.roster_version).roster.min_sites)
    return max(need)


def _federation(tx: Transaction, row: FederationRow) -> dict[str, Any]:
    plan, newest, roster = row.parsed.plan, tx.newest_round(row.name), newest_roster(tx, row.name)
    head, last = tx.chain_head(row.name), tx.last_published(row.name)
    kept = {sum_.id for sum_ in tx.kept_sums(row.name)}
    need = quorum(tx, row, newest)
    return {
        "federation": row.name,
        "stage": row.stage.value,
        "paused_at": row.paused_at,
        "sites": sorted(roster.roster.having(Role.SITE)),
        "quorum": need,
        "rounds": plan.rounds,
        "published": 0 if last is None else last.number,
        "codec": plan.codec,
        "values": plan.values,
        "bytes_up": plan.wire_bytes,
        "epoch": tx.newest_epoch(row.name).number,
        "roster_version": roster.version,
        "roster_expires_at": roster.roster.expires_at,
        "records": head.index,
        "head": head.digest if head.index else None,
        "held_bytes": (tx.stored_submissions(row.name) + len(kept)) * plan.wire_bytes,
        "sample_fraction": row.keeping.sample_fraction,
        "round": None if newest is None else _round(tx, row, newest, need),
        "history": [_ended(each, plan, each.id in kept) for each in tx.recent_rounds(row.name, HISTORY)],
    }


def _round(tx: Transaction, row: FederationRow, newest: RoundRow, need: int) -> dict[str, Any]:
    plan = row.parsed.plan
    by_site = {submission.site: submission for submission in tx.submissions(newest.id)}
    again: dict[str, list[int]] = {}
    for part in tx.damaged(newest.id):
        again.setdefault(part.site, []).append(part.number)
    return {
        "id": str(newest.id),
        "number": newest.id.number,
        "attempt": newest.id.attempt,
        "phase": newest.phase.value,
        "opened_at": newest.opened_at,
        "deadline_at": newest.deadline_at,
        "closed_at": newest.closed_at,
        "ended_at": newest.ended_at,
        "clock_stands": row.stage is Stage.PAUSED,
        "quorum": need,
        "complete": sum(submission.state == "complete" for submission in by_site.values()),
        "sites": [
            _site(tx, plan, site, by_site.get(site), again.get(site, [])) for site in sorted(tx.invited(newest.id))
        ],
        "parts": len(plan.places),
        "sum_parts": len(tx.sum_digests(newest.id)),
    }


def _site(
    tx: Transaction, plan: PublicPlan, site: str, submission: SubmissionRow | None, again: list[int]
) -> dict[str, Any]:
    if submission is None:
        state, held = "absent", 0
    elif submission.state == "complete":
        state, held = "complete", plan.wire_bytes - sum(plan.places[number].wire_bytes for number in again)
    elif submission.state == "excluded":
        state, held = "excluded", 0
    else:
        missing = tx.missing(submission.id)
        state, held = "uploading", plan.wire_bytes - sum(plan.places[number].wire_bytes for number in missing)
    return {
        "site": site,
        "state": state,
        "bytes": held,
        "bytes_total": plan.wire_bytes,
        "accepted_at": None if submission is None else submission.accepted_at,
        "asked_again": again,
    }


def _ended(row: RoundRow, plan: PublicPlan, kept: bool) -> dict[str, Any]:
    record = None if row.record is None else _record(row.record)
    members = 0 if record is None else len(record.members)
    published = row.phase is Phase.PUBLISHED
    return {
        "id": str(row.id),
        "number": row.id.number,
        "attempt": row.id.attempt,
        "outcome": row.phase.value,
        "opened_at": row.opened_at,
        "closed_at": row.closed_at,
        "ended_at": row.ended_at,
        "members": members,
        "excluded": {} if record is None else dict(sorted(record.excluded.items())),
        "bytes_up": members * plan.wire_bytes,
        "bytes_sum": plan.wire_bytes if published else 0,
        "sum_kept": published and kept,
    }


@lru_cache(maxsize=512)
def _record(document: bytes) -> RoundRecord:
    # It never changes, and is looked at every second.
    return SignedRecord.parse(document).record


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))
