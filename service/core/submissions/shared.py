"""Find submissions, and say how far one is or why it is refused."""

from __future__ import annotations

import json
from typing import Any

from he_agg.canonical import check_hex
from he_agg.errors import Reason, WireError
from he_agg.plan.plan import PublicPlan
from he_agg.protocol.messages import SubmissionStatus
from service.domain import submissions
from service.domain.events import Phase
from service.refusal import RefusedError
from service.store.rows import RoundRow, SubmissionRow
from service.store.transaction import Transaction

__all__ = ["expiring", "lacks_dealing", "own_submission", "round_closed", "status_of"]


def own_submission(tx: Transaction, federation: str, site: str, submission_id: str) -> SubmissionRow:
    """Find a site's submission."""
    try:
        check_hex(submission_id, 32, "submission id")
    except WireError as error:
        raise RefusedError(Reason.UNKNOWN_SUBMISSION, error.message) from None
    row = tx.submission(submission_id)
    if row is None or row.site != site or row.round_id.federation != federation:
        raise RefusedError(
            Reason.UNKNOWN_SUBMISSION,
            f"site {site} has no submission {submission_id[:12]}",
            "announce it first: POST its manifest to /v1/rounds/{round}/submissions",
        )
    return row


def status_of(tx: Transaction, row: SubmissionRow, plan: PublicPlan) -> SubmissionStatus:
    """Say how far a submission has come, as its site is told."""
    # Of a complete one nothing is missing but what the disk has damaged.
    return SubmissionStatus(
        row.id,
        str(row.round_id),
        submissions.told(row.state),
        len(plan.places),
        tx.missing(row.id),
        row.state in submissions.AWAITED and lacks_dealing(tx, row),
    )


def lacks_dealing(tx: Transaction, row: SubmissionRow) -> bool:
    """Tell whether a dealing belongs to a submission and is not here."""
    return row.dealing is not None and not tx.has_dealing(row.id)


def expiring(row: SubmissionRow) -> RefusedError:
    """Refuse a part while those of its submission are being removed."""
    return RefusedError(
        Reason.BUSY,
        f"submission {row.id[:12]} was abandoned and its parts are being removed",
        "send it again in a moment, from the first part",
        submission_id=row.id,
    )


def round_closed(row: RoundRow) -> RefusedError:
    """Refuse what comes after a round has closed. The refusal carries the record, if there is one."""
    members: dict[str, Any] = {"round_id": str(row.id)}
    if row.record is not None:
        members["record"] = json.loads(row.record)
    return RefusedError(
        Reason.ROUND_CLOSED,
        f"round {row.id} is {'closed' if row.phase is Phase.OPEN else row.phase} and takes no more submissions",
        "go on with the next round",
        **members,
    )
