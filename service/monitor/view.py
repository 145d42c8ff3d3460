"""Show an aggregator in one document, read from the store in one transaction.

Everything that shows a federation shows this: `federation show`, the operators' page, `watch` and the metrics. It holds
what the aggregator knows anyway and nothing more: names, states, times, sizes and reasons. Digests, tags, signatures
and nonces of submissions are not in it; the ids of plan and key and the head of the chain are, for people to compare.

Words for states are those of the state machines: a federation's `stage`, a round's `phase`, a submission's `state`,
and "absent" for a site that has begun none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from he_agg.documents.record import RoundRecord
from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.plan.plan import PublicPlan
from service.core.roster_cache import newest_roster, roster_of
from service.core.verdicts import disputed_round, quorum
from service.domain.events import Phase, Stage
from service.domain.submissions import State
from service.monitor.holding import holding
from service.settings import Settings
from service.store.parts.base import PartStore
from service.store.rows import FederationRow, RoundRow, SubmissionRow
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["take_view"]

HISTORY = 30
"""How many ended attempts of a federation are shown."""


def take_view(
    store: Store, part_store: PartStore, settings: Settings, now: float, *, process: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Look at everything.

    Args:
        process: what only the running server knows: its version and age, what it refused lately.

    Returns:
        JSON values. Times are seconds since 1970, UTC; sizes are bytes.
    """
    with store.read() as tx:
        rows = tx.federations()
        rounds, submissions = tx.count_rounds(), tx.count_submissions()
        federations = [
            _federation(tx, row, now)
            | {
                "attempts": {
                    phase.value: rounds.get((row.name, phase), 0) for phase in Phase if phase is not Phase.ENDED
                },
                "submissions": {state.value: submissions.get((row.name, state), 0) for state in State},
            }
            for row in rows
        ]
    space = part_store.space()
    database = settings.data_dir / "aggregator.sqlite3"
    return {
        "v": 1,
        "now": round(now, 3),
        "storage": {
            "free_bytes": None if space is None else space.free_bytes,
            "size_bytes": None if space is None else space.size_bytes,
            "reserve_bytes": settings.reserve_bytes,
            "held_bytes": sum(federation["held_bytes"] for federation in federations),
            "database_bytes": _size(database) if settings.database_url is None else None,
        },
        "federations": federations,
        "process": None if process is None else dict(process),
    }


def _federation(tx: Transaction, row: FederationRow, now: float) -> dict[str, Any]:
    plan, newest, epoch = row.parsed.plan, tx.newest_round(row.name), tx.newest_epoch(row.name)
    roster, head, last = newest_roster(tx, row.name), tx.chain_head(row.name), tx.last_published(row.name)
    kept = {sum_.id for sum_ in tx.kept_sums(row.name)}
    quorum = _quorum(tx, row, newest)
    min_sites, coordinators = max(plan.min_sites, roster.body.min_sites), roster.body.having(Role.COORDINATOR)
    return {
        "federation": row.name,
        "stage": row.stage.value,
        "paused_at": row.paused_at,
        "end": _end(tx.end_of(row.name)),
        "sites": sorted(roster.body.having(Role.SITE)),
        "coordinators": {name: member.fingerprint for name, member in sorted(coordinators.items())},
        "min_sites": min_sites,
        "small_groups": roster.body.small_groups,
        "max_sites": plan.max_sites,
        "quorum": quorum,
        "rounds": plan.rounds,
        "deadline_s": plan.deadline_s,
        "published": 0 if last is None else last.number,
        "last_published": None if last is None else str(last),
        "disputed": _disputed(tx, row.name),
        "holding": holding(tx, row, newest),
        "plan_id": plan.plan_id,
        "codec": plan.codec,
        "values": plan.values,
        "bytes_up": plan.wire_bytes,
        "epoch": epoch.number,
        "key_id": epoch.key_id,
        "committed": tx.committed(row.name, epoch.number),
        "roster_version": roster.body.version,
        "roster_expires_at": roster.body.expires_at,
        "records": head.index,
        "head": head.digest if head.index else None,
        "held_bytes": (tx.stored_submissions(row.name) + len(kept)) * plan.wire_bytes,
        "sample_percent": plan.sample_percent,
        "keep_sums": row.keeping.keep_sums,
        "keep_submissions": row.keeping.keep_submissions,
        "round": None if newest is None else _round(tx, row, newest, quorum, now),
        "history": [_ended(tx, each, plan, each.id in kept) for each in tx.recent_rounds(row.name, HISTORY)],
    }


def _end(row: RoundRow | None) -> dict[str, Any] | None:
    """Say how the record of its end says that it has ended."""
    if row is None or row.record is None:
        return None
    return {"reason": _record(row.record).reason, "ended_at": row.ended_at}


def _quorum(tx: Transaction, row: FederationRow, newest: RoundRow | None) -> int:
    """Return how many sites must be complete by the deadline, by plan, newest roster and the round's roster."""
    need = [row.parsed.plan.min_sites, newest_roster(tx, row.name).body.min_sites]
    if newest is not None:
        need.append(roster_of(tx, row.name, newest.basis.roster_version).body.min_sites)
    return max(need)


def _round(tx: Transaction, row: FederationRow, newest: RoundRow, quorum: int, now: float) -> dict[str, Any]:
    plan = row.parsed.plan
    by_site = {submission.site: submission for submission in tx.submissions(newest.id)}
    again: dict[str, list[int]] = {}
    for part in tx.damaged(newest.id):
        again.setdefault(part.site, []).append(part.number)
    clock_runs = newest.phase is Phase.OPEN and row.stage is Stage.RUNNING
    return {
        "id": str(newest.id),
        "number": newest.id.number,
        "attempt": newest.id.attempt,
        "phase": newest.phase.value,
        "opened_at": newest.opened_at,
        "deadline_at": newest.deadline_at,
        "remaining_s": max(0, int(newest.deadline_at - now)) if clock_runs else None,
        "closed_at": newest.closed_at,
        "ended_at": newest.ended_at,
        "quorum": quorum,
        "complete": sum(submission.state is State.COMPLETE for submission in by_site.values()),
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
        state, lacking = "absent", None
    elif submission.state is State.COMPLETE:
        state, lacking = "complete", again
    elif submission.state is State.EXCLUDED:
        state, lacking = "excluded", None
    else:
        state, lacking = "open", tx.missing(submission.id)
    held = 0 if lacking is None else plan.wire_bytes - sum(plan.places[number].wire_bytes for number in lacking)
    return {
        "site": site,
        "state": state,
        "bytes": held,
        "bytes_total": plan.wire_bytes,
        "accepted_at": None if submission is None else submission.accepted_at,
        "asked_again": again,
    }


def _disputed(tx: Transaction, federation: str) -> dict[str, Any] | None:
    """Say what sites have said of the newest sum, if it is disputed."""
    row = disputed_round(tx, federation)
    if row is None:
        return None
    return {"id": str(row.id), "verdicts": tx.verdicts(row.id), "quorum": quorum(tx, row)}


def _ended(tx: Transaction, row: RoundRow, plan: PublicPlan, kept: bool) -> dict[str, Any]:
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
        "verdicts": tx.verdicts(row.id),
        "answered": [] if row.basis.holders is None else tx.answered(row.id),
        "settled_at": row.settled_at,
    }


@lru_cache(maxsize=512)
def _record(document: bytes) -> RoundRecord:
    # It never changes, and is looked at every second.
    return Signed.parse(RoundRecord, document).body


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))
