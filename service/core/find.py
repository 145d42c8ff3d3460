"""Find what an address names, if it is the caller's: federations and rounds."""

from __future__ import annotations

from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId
from service.refusal import RefusedError
from service.store.rows import FederationRow, RoundRow
from service.store.transaction import Transaction

__all__ = ["federation_named", "find_round"]


def federation_named(tx: Transaction, name: str) -> FederationRow:
    """Find the federation of this name."""
    row = tx.federation(name)
    if row is None:
        raise RefusedError(Reason.UNKNOWN_FEDERATION, f"there is no federation {name} here")
    return row


def find_round(tx: Transaction, federation: str, text: str) -> RoundRow:
    """Find the round that an address names, if it is one of the caller's federation."""
    try:
        round_id = RoundId.parse(text)
    except WireError:
        raise RefusedError(
            Reason.UNKNOWN_ROUND, "expected a round id like 'federation.3.1', got another form"
        ) from None
    row = tx.round(round_id) if round_id.federation == federation else None
    if row is None:
        raise RefusedError(
            Reason.UNKNOWN_ROUND,
            f"there is no round {round_id} in federation {federation}",
            "`he-agg status` shows the open one",
        )
    return row
