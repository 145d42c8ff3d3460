"""Seal shares of a one-time key to holders: what he_agg/sharing is handed, since it holds no keys."""

from __future__ import annotations

from collections.abc import Mapping

from he_agg.documents.roster import Receiving
from he_agg.sharing.dealer import Seal
from keys.receiving import seal

__all__ = ["sealing_to"]


def sealing_to(keys: Mapping[str, Receiving]) -> Seal:
    """Return what seals to holders by name.

    Args:
        keys: the sharing keys of this epoch. To open, hand `ReceivingKey.open` to `open_share`.
    """

    def seal_to(holder: str, plaintext: bytes, info: bytes) -> bytes:
        return seal(keys[holder], plaintext, info)

    return seal_to
