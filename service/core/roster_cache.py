"""Read rosters out of the store and keep them parsed: a request costs a look at the newest version, not a parsing."""

from __future__ import annotations

from he_agg.documents.roster import Member, Role, Roster
from he_agg.documents.signed import Signed
from he_agg.errors import Reason
from service.core.aggregator_key import AggregatorKey
from service.refusal import RefusedError
from service.store.rows import RosterRow
from service.store.transaction import Transaction

__all__ = ["former_members", "newest_roster", "roster_of", "signer_in"]

_MOST = 64
_parsed: dict[str, Signed[Roster]] = {}
_former: dict[str, dict[str, tuple[int, Member]]] = {}


def newest_roster(tx: Transaction, federation: str) -> Signed[Roster]:
    """Return the roster that a federation goes by now."""
    return _known(tx, _newest(tx, federation))


def former_members(tx: Transaction, federation: str) -> dict[str, tuple[int, Member]]:
    """Return who is in no roster any more, by name: the last version that listed it, and how.

    Older versions are read once for each newest one: strangers, who have proved nothing, may make us look here.
    """
    row = _newest(tx, federation)
    former = _former.get(row.digest)
    if former is None:
        former = {}
        for version in tx.roster_versions(federation):
            members = roster_of(tx, federation, version).body.members
            former |= {name: (version, member) for name, member in members.items()}
        former = {name: last for name, last in former.items() if last[0] < row.version}
        if len(_former) >= _MOST:
            _former.clear()
        _former[row.digest] = former
    return former


def roster_of(tx: Transaction, federation: str, version: int) -> Signed[Roster]:
    """Return the version of a federation's roster that a round opened under."""
    row = tx.roster(federation, version)
    if row is None:
        raise RuntimeError(f"version {version} of the roster of {federation} is gone")
    return _known(tx, row)


def signer_in(roster: Roster, key: AggregatorKey) -> str | None:
    """Return what a roster calls the aggregator that has this key; None if it does not list it."""
    for name, member in roster.having(Role.AGGREGATOR).items():
        if member.public_key == key.signing_key.public_key:
            return name
    return None


def _newest(tx: Transaction, federation: str) -> RosterRow:
    row = tx.newest_roster(federation)
    if row is None:
        raise RefusedError(Reason.UNKNOWN_FEDERATION, f"there is no federation {federation} here")
    return row


def _known(tx: Transaction, row: RosterRow) -> Signed[Roster]:
    # By digest: a digest names the same roster in every store that this process may have open.
    signed = _parsed.get(row.digest)
    if signed is None:
        signed = Signed.parse(Roster, tx.roster_document(row.federation, row.version))
        if len(_parsed) >= _MOST:
            _parsed.clear()
        _parsed[row.digest] = signed
    return signed
