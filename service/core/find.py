"""Find what an address names, if it is the caller's: federations, rounds, and what has become of these."""

from __future__ import annotations

from he_agg.documents.record import RoundRecord
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId
from service.domain.events import Phase
from service.refusal import RefusedError
from service.store.rows import FederationRow, RoundRow
from service.store.transaction import Transaction

__all__ = ["federation_named", "find_round", "require_sum", "round_named"]


def federation_named(tx: Transaction, name: str) -> FederationRow:
    """Find the federation of this name."""
    row = tx.federation(name)
    if row is None:
        raise RefusedError(Reason.UNKNOWN_FEDERATION, f"there is no federation {name} here")
    return row


def round_named(text: str) -> RoundId:
    """Read the name of a round in an address."""
    try:
        return RoundId.parse(text)
    except WireError:
        raise RefusedError(
            Reason.UNKNOWN_ROUND, "expected a round id like 'federation.3.1', got another form"
        ) from None


def find_round(tx: Transaction, federation: str, text: str) -> RoundRow:
    """Find the round that an address names, if it is one of the caller's federation."""
    round_id = round_named(text)
    row = tx.round(round_id) if round_id.federation == federation else None
    if row is None:
        raise RefusedError(
            Reason.UNKNOWN_ROUND,
            f"there is no round {round_id} in federation {federation}",
            "`he-agg status` shows the open one",
        )
    return row


def require_sum(row: RoundRow) -> Signed[RoundRecord]:
    """Return the record of a round that has a sum.

    Raises:
        RefusedError: it has none, or none yet.
    """
    if row.phase is Phase.REJECTED:
        raise RefusedError(
            Reason.ROUND_FAILED,
            f"the sum of round {row.id} was given up, since sites have rejected it",
            "go on with the next attempt",
            round_id=str(row.id),
        )
    if row.phase in (Phase.FAILED, Phase.ENDED):
        ended = row.phase is Phase.ENDED
        raise RefusedError(
            Reason.ROUND_FAILED,
            f"round {row.id} {'never opened: the federation has ended' if ended else 'failed and has no sum'}",
            "there are no more rounds" if ended else "go on with the next attempt",
            round_id=str(row.id),
        )
    signed = row.signed
    if row.phase is not Phase.PUBLISHED or signed is None:
        raise RefusedError(
            Reason.SUM_NOT_READY,
            f"round {row.id} is {row.phase}; its sum is not there yet",
            "wait for the record: GET /v1/rounds/{round}/record?wait=30",
            round_id=str(row.id),
        )
    return signed
