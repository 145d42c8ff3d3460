"""Put together the list of holders that a round opens with, and find that of one that has opened."""

from __future__ import annotations

from he_agg.documents.roster import Role, Roster
from he_agg.documents.sharing import HolderList, SharingKey
from he_agg.documents.signed import Signed
from service.core.roster_cache import roster_of
from service.store.rows import RoundRow
from service.store.transaction import Transaction

__all__ = ["is_ready", "list_of", "next_list"]

_MOST = 64
_parsed: dict[str, HolderList] = {}


def is_ready(tx: Transaction, roster: Roster) -> bool:
    """Tell whether so many holders of a roster have a sharing key that a round may open. Always where keys are shared.

    Args:
        roster: the newest.
    """
    if roster.holders is None:
        return True
    having = tx.holders_with_keys(roster.federation, tx.newest_epoch(roster.federation).number)
    return len(roster.having(Role.HOLDER).keys() & set(having)) >= roster.holders.quorum


def next_list(tx: Transaction, roster: Signed[Roster]) -> HolderList | None:
    """Return the list that a round opens with now; None where keys are shared.

    Args:
        roster: the newest.
    """
    body = roster.body
    if body.holders is None:
        return None
    epoch, holders = tx.newest_epoch(body.federation).number, body.having(Role.HOLDER)
    keys = {name: data for name, data in tx.sharing_keys(body.federation, epoch).items() if name in holders}
    return HolderList.of(roster, epoch, [Signed.parse(SharingKey, data) for data in keys.values()])


def list_of(tx: Transaction, row: RoundRow) -> HolderList | None:
    """Return the list that a round has opened with; None where keys are shared."""
    digest = row.basis.holders
    if digest is None:
        return None
    known = _parsed.get(digest)
    if known is None:
        data = tx.holder_list(row.id)
        if data is None:
            raise RuntimeError(f"the list of holders of round {row.id} is gone")
        known = HolderList.parse(data, roster_of(tx, row.id.federation, row.basis.roster_version), row.basis.epoch)
        if len(_parsed) >= _MOST:
            _parsed.clear()
        _parsed[digest] = known
    return known
