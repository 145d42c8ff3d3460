"""Find what an address names, if it is the caller's: federations, rounds, submissions."""

from __future__ import annotations

import json
from typing import Any

from he_agg.canonical import check_hex
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId
from service.domain.events import Phase
from service.refusal import RefusedError
from service.store.base import Transaction
from service.store.rows import FederationRow, RoundRow, SubmissionRow

__all__ = ["expiring", "federation_named", "find_round", "own_submission", "round_closed"]


def federation_named(tx: Transaction, name: str) -> FederationRow:
    """Find the federation of this name.

    Raises:
        RefusedError: there is none.
    """
    row = tx.federation(name)
    if row is None:
        raise RefusedError(Reason.UNKNOWN_FEDERATION, f"there is no federation {name} here")
    return row


def find_round(tx: Transaction, federation: str, text: str) -> RoundRow:
    """Find the round that an address names, if it is one of the caller's federation.

    Raises:
        RefusedError: it is not, whether or not another federation has it.
    """
    try:
        round_id = RoundId.parse(text)
    except WireError:
        raise RefusedError(
            Reason.UNKNOWN_ROUND, "expected a round id like 'federation.3.1', got another form"
        ) from None
    row = tx.round(round_id) if round_id.federation == federation else None
    if row is None:
        raise RefusedError(Reason.UNKNOWN_ROUND, f"there is no round {round_id} in federation {federation}")
    return row


def own_submission(tx: Transaction, federation: str, site: str, submission_id: str) -> SubmissionRow:
    """Find a site's submission.

    Raises:
        RefusedError: it has none of this id.
    """
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


def expiring(row: SubmissionRow) -> RefusedError:
    """Return the refusal while parts of this submission are being removed."""
    return RefusedError(
        Reason.BUSY,
        f"submission {row.id[:12]} was abandoned and its parts are being removed",
        "send it again in a moment, from the first part",
        submission_id=row.id,
    )


def round_closed(row: RoundRow) -> RefusedError:
    """Return the refusal of a round that takes nothing more, with its record if it has one."""
    members: dict[str, Any] = {"round_id": str(row.id)}
    if row.record is not None:
        members["record"] = json.loads(row.record)
    return RefusedError(
        Reason.ROUND_CLOSED,
        f"round {row.id} is {'closed' if row.phase is Phase.OPEN else row.phase} and takes no more submissions",
        "go on with the next round",
        **members,
    )
