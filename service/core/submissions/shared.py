"""Find submissions, and say how far one is or why it is refused."""

from __future__ import annotations

import json
from typing import Any

from he_agg.errors import Reason
from he_agg.ids import RoundId
from he_agg.plan.plan import PublicPlan
from he_agg.protocol.messages import SubmissionStatus
from service.domain import submissions
from service.domain.events import Phase
from service.refusal import RefusedError
from service.store.rows import RoundRow, SubmissionRow
from service.store.transaction import Transaction

__all__ = ["expiring", "own_submission", "round_closed", "status_of", "unknown_upload"]


def own_submission(tx: Transaction, round_id: RoundId, site: str, upload: str) -> SubmissionRow:
    """Find a site's upload to a round."""
    row = tx.submission_of(round_id, site)
    if row is None or row.id != upload:
        raise unknown_upload(site, upload)
    return row


def unknown_upload(site: str, upload: str) -> RefusedError:
    """Refuse what is about an upload that is not there, or not there any more, or another site's."""
    return RefusedError(
        Reason.UNKNOWN_SUBMISSION,
        f"site {site} has no upload {upload[:12]} here",
        "another upload of this site may have taken its place; send the parts from the first one on",
    )


def status_of(tx: Transaction, row: RoundRow, submission: SubmissionRow, plan: PublicPlan) -> SubmissionStatus:
    """Say how far a submission has come, as its site is told."""
    # Of a complete one nothing is missing but what the disk has damaged.
    return SubmissionStatus(
        submission.id,
        str(row.id),
        submissions.told(submission.state),
        len(plan.places),
        tx.missing(submission.id),
        submission.state in submissions.AWAITED and _lacks_dealing(tx, row, submission),
    )


def _lacks_dealing(tx: Transaction, row: RoundRow, submission: SubmissionRow) -> bool:
    """Tell whether a dealing belongs to a submission and is not here."""
    return row.basis.holders is not None and tx.dealing_digest(submission.id) is None


def expiring(row: SubmissionRow) -> RefusedError:
    """Refuse a part while those of its submission are being removed."""
    return RefusedError(
        Reason.BUSY,
        f"upload {row.id[:12]} was abandoned and its parts are being removed",
        "send it again in a moment, from the first part",
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
