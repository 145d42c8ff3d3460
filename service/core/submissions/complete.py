"""The end of a submission: one transaction decides whether it is in, and a receipt says so."""

from __future__ import annotations

from typing import NamedTuple

from he_agg.documents.signed import Signed
from he_agg.errors import Reason, counted
from he_agg.protocol.messages import Receipt
from service.core.conductor import Conductor
from service.core.find import find_round
from service.core.submissions.shared import lacks_dealing, own_submission, round_closed
from service.domain import events
from service.domain.submissions import AWAITED
from service.failpoints import failpoint
from service.refusal import RefusedError
from service.store.rows import RoundRow, SubmissionRow
from service.store.transaction import Transaction

__all__ = ["Completion", "complete", "receipt"]


class Completion(NamedTuple):
    """A submission that was decided on: accepted, or too late."""

    submission: SubmissionRow
    round: RoundRow
    signer: str


def complete(conductor: Conductor, tx: Transaction, announced: SubmissionRow) -> Completion:
    """Decide whether a submission is in.

    Raises:
        RefusedError: parts or the dealing are missing.
        InputError: nothing can be signed for this federation; nothing was written.
    """
    federation, site, submission_id = announced.round_id.federation, announced.site, announced.id
    row = find_round(tx, federation, str(announced.round_id))
    signer = conductor.signer(tx, federation, row.basis.roster_version)
    conductor.tick_in(tx, federation)
    submission = own_submission(tx, federation, site, submission_id)
    if submission.state in AWAITED:
        row = find_round(tx, federation, str(submission.round_id))
        missing, undealt = tx.missing(submission_id), lacks_dealing(tx, submission)
        if (missing or undealt) and conductor.takes(tx, row):
            lacking = [counted(len(missing), "part")] if missing else []
            lacking += ["the dealing"] if undealt else []
            raise RefusedError(
                Reason.INCOMPLETE,
                f"submission {submission_id[:12]}: {' and '.join(lacking)} missing",
                "put what is missing, then the end of the submission again",
                round_id=str(row.id),
                submission_id=submission_id,
                missing=missing,
            )
        if not missing and not undealt:
            failpoint("completion.before_row")
            conductor.apply_in(tx, federation, events.Completed(row.id.number, row.id.attempt, site))
            submission = own_submission(tx, federation, site, submission_id)
    row = find_round(tx, federation, str(submission.round_id))
    return Completion(submission, row, signer)


def receipt(conductor: Conductor, completion: Completion) -> Signed[Receipt]:
    """Sign the receipt: the same bytes each time, for nothing in it is new, and Ed25519 has no randomness."""
    submission, row, signer = completion
    if submission.accepted_at is None:
        raise round_closed(row)
    body = Receipt(submission.id, str(submission.round_id), submission.site, submission.accepted_at)
    return Signed.make(body, conductor.key.signing_key, signer)
