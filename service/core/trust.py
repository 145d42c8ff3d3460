"""Bring in the next roster of a federation, a new group key, or what sites and holders say of keys of their own.

The rules are the same whether a coordinator sends a document or the operator brings it as a file. What is taken holds
from the end of the transaction on: a removed site's next request is refused, an open round that is touched fails.
"""

from __future__ import annotations

from he_agg.documents.epoch import Commitment, EpochBundle
from he_agg.documents.roster import Role, Roster, check_follows, check_signed
from he_agg.documents.sharing import SharingKey
from he_agg.documents.signed import Signed
from he_agg.errors import Reason
from service.core.aggregator_key import AggregatorKey
from service.core.conductor import Conductor
from service.core.roster_cache import newest_roster, signer_in
from service.domain import events
from service.refusal import RefusedError
from service.store.rows import EpochRow, FederationRow, RosterRow
from service.store.transaction import Transaction

__all__ = ["accept_bundle", "accept_commitment", "accept_roster", "accept_sharing_key", "add_first_roster"]


def _check_roster(signed: Signed[Roster], row: FederationRow, key: AggregatorKey, now: float) -> None:
    """Check that a roster can be a federation's, whoever signed it."""
    roster, plan = signed.body, row.parsed.plan
    if roster.federation != row.name:
        raise RefusedError(
            Reason.ROSTER_MISMATCH, f"expected the roster of federation {row.name}, got that of {roster.federation}"
        )
    signed.body.check_valid(now)
    if signer_in(roster, key) is None:
        raise RefusedError(
            Reason.ROSTER_MISMATCH,
            f"version {roster.version} of the roster of {row.name} does not list this aggregator's key",
            "the coordinator takes it from `he-agg aggregator show --out aggregator.public.json`",
        )
    if plan.splits_keys != (roster.holders is not None):
        raise RefusedError(
            Reason.ROSTER_MISMATCH,
            f"federation {row.name}: its plan splits one-time keys among holders, and version {roster.version} of the "
            "roster has none"
            if plan.splits_keys
            else f"federation {row.name}: the sites of its plan share one-time keys, and version {roster.version} of "
            "the roster has holders",
            "another way to keep keys needs another plan, and so a new federation",
        )
    sites = len(roster.having(Role.SITE))
    if sites > plan.max_sites:
        raise RefusedError(
            Reason.NO_HEADROOM,
            f"federation {row.name}: its plan holds sums of at most {plan.max_sites} sites, the roster has {sites}",
            "more sites need a new plan, and so a new federation",
        )


def add_first_roster(tx: Transaction, conductor: Conductor, row: FederationRow, data: bytes) -> None:
    """Take the roster that a federation begins with: the operator has compared its coordinators' fingerprints."""
    signed = Signed.parse(Roster, data)
    _check_roster(signed, row, conductor.key, conductor.now())
    check_signed(signed)
    tx.add_roster(RosterRow(row.name, signed.body.version, signed.body_digest), data, int(conductor.now()))


def accept_roster(tx: Transaction, conductor: Conductor, row: FederationRow, data: bytes, version: int) -> bool:
    """Take the next version of a roster. The same bytes again are no error.

    Raises:
        WireError: not a roster, signed by too few, or expired.
        RefusedError: not the next version, or not one that this aggregator can work with.
    """
    signed = Signed.parse(Roster, data)
    if signed.body.version != version:
        raise RefusedError(
            Reason.BAD_FIELD, f"expected version {version} of the roster, got version {signed.body.version}"
        )
    if tx.roster(row.name, version) is not None and tx.roster_document(row.name, version) == data:
        return False
    newest = newest_roster(tx, row.name)
    if version != newest.body.version + 1:
        raise RefusedError(
            Reason.ROSTER_MISMATCH,
            f"federation {row.name}: expected version {newest.body.version + 1} of the roster, got another version "
            f"{version}",
            "get the newest one and make its successor: `he-agg roster next`",
            status=409,
        )
    _check_roster(signed, row, conductor.key, conductor.now())
    check_follows(signed, Signed.parse(Roster, tx.roster_document(row.name, newest.body.version)))
    tx.add_roster(RosterRow(row.name, version, signed.body_digest), data, int(conductor.now()))
    removed = _removed(newest.body, signed.body, conductor.key)
    # Whoever has another key signs another sharing key. That of a round that is under way is in its list.
    tx.drop_sharing_keys(row.name, tx.newest_epoch(row.name).number, _gone(newest.body, signed.body, Role.HOLDER))
    conductor.apply_in(tx, row.name, events.RosterChanged(removed))
    tx.report(
        "roster.changed",
        federation=row.name,
        roster_version=version,
        members=len(signed.body.members),
        removed=len(removed),
    )
    tx.bump()  # the state names it, whatever became of rounds
    return True


def accept_bundle(
    tx: Transaction, conductor: Conductor, row: FederationRow, data: bytes, number: int, caller: str | None = None
) -> bool:
    """Take the bundle of the next epoch, or that of the current one, if it has none yet. Repeating it is fine.

        caller: the coordinator that sends it; None if the operator brings it.

    Raises:
        WireError: not a bundle, or not signed by its dealer.
        RefusedError: another federation's, plan's, roster's or epoch's, or somebody else's.
    """
    signed = Signed.parse(EpochBundle, data)
    bundle, plan = signed.body, row.parsed.plan
    newest, roster = tx.newest_epoch(row.name), newest_roster(tx, row.name)
    if caller is not None and bundle.dealer != caller:
        raise RefusedError(
            Reason.FORBIDDEN, f"epoch bundle: expected one that {caller} has dealt, got one of {bundle.dealer}"
        )
    if tx.epoch(row.name, number) is not None and tx.bundle(row.name, number) == data:
        return False
    for what, reason, expected, got in (
        ("federation", Reason.BAD_FIELD, row.name, bundle.federation),
        ("epoch", Reason.BAD_FIELD, str(number), str(bundle.epoch)),
        ("plan", Reason.PLAN_MISMATCH, plan.plan_id, bundle.plan_id),
        ("roster", Reason.ROSTER_MISMATCH, roster.body_digest, bundle.roster),
        ("version of the roster", Reason.ROSTER_MISMATCH, str(roster.body.version), str(bundle.roster_version)),
    ):
        if expected != got:
            raise RefusedError(reason, f"epoch bundle, {what}: expected {expected[:63]}, got {got[:63]}")
    sites = roster.body.having(Role.SITE).keys()
    if bundle.sealed.keys() != sites:
        raise RefusedError(
            Reason.BAD_FIELD,
            f"epoch bundle: expected the key sealed to the {len(sites)} sites of the roster, "
            f"got it for {len(bundle.sealed.keys() & sites)} of them and {len(bundle.sealed.keys() - sites)} others",
        )
    signed.check_signed(roster.body.keys_of(Role.COORDINATOR))
    if number == newest.number and tx.bundle(row.name, number) is None:
        if bundle.key_id != newest.key_id:
            raise RefusedError(
                Reason.KEY_MISMATCH,
                f"epoch {number}: expected the bundle of key {newest.key_id[:12]}, got that of {bundle.key_id[:12]}",
            )
        tx.set_bundle(row.name, number, data)
        _report_epoch(tx, bundle)
        return True
    if number != newest.number + 1:
        raise RefusedError(
            Reason.ALREADY_EXISTS,
            f"federation {row.name} is in epoch {newest.number}: expected a bundle for epoch {newest.number + 1}, "
            f"got another one for epoch {number}",
            "make it for the next epoch: `he-agg epoch rotate`",
        )
    tx.add_epoch(EpochRow(row.name, number, bundle.key_id), data, int(conductor.now()))
    conductor.apply_in(tx, row.name, events.EpochChanged())
    _report_epoch(tx, bundle)
    tx.bump()
    return True


def _report_epoch(tx: Transaction, bundle: EpochBundle) -> None:
    tx.report(
        "epoch.changed", federation=bundle.federation, epoch=bundle.epoch, key_id=bundle.key_id, dealer=bundle.dealer
    )


def accept_commitment(
    tx: Transaction, conductor: Conductor, row: FederationRow, data: bytes, number: int, site: str
) -> bool:
    """Take a site's word that it holds an epoch's key. Repeating it is fine.

    Raises:
        WireError: not a commitment, or not signed by its site.
        RefusedError: no such epoch, another key, or the site has committed to something else.
    """
    signed = Signed.parse(Commitment, data)
    commitment, epoch, roster = signed.body, tx.epoch(row.name, number), newest_roster(tx, row.name)
    if epoch is None:
        raise RefusedError(Reason.UNKNOWN_EPOCH, f"federation {row.name} has no epoch {number}")
    before = tx.commitment(row.name, number, site)
    if before == data:
        return False
    for what, reason, expected, got in (
        ("federation", Reason.BAD_FIELD, row.name, commitment.federation),
        ("epoch", Reason.BAD_FIELD, str(number), str(commitment.epoch)),
        ("site", Reason.FORBIDDEN, site, commitment.site),
        ("group key", Reason.KEY_MISMATCH, epoch.key_id, commitment.key_id),
    ):
        if expected != got:
            raise RefusedError(reason, f"commitment, {what}: expected {expected[:63]}, got {got[:63]}")
    signed.check_signed(roster.body.keys_of(Role.SITE))
    if before is not None:
        raise RefusedError(
            Reason.ALREADY_EXISTS, f"site {site} has committed to the key of epoch {number} in other bytes already"
        )
    tx.add_commitment(row.name, number, site, data, int(conductor.now()))
    return True


def accept_sharing_key(
    tx: Transaction, conductor: Conductor, row: FederationRow, data: bytes, number: int, holder: str
) -> bool:
    """Take what shares of an epoch are sealed to for a holder. Repeating it is fine.

    Raises:
        WireError: not a sharing key, or not signed by its holder.
        RefusedError: no such epoch, keys are shared, or the holder has another one in this epoch.
    """
    signed = Signed.parse(SharingKey, data)
    key, roster = signed.body, newest_roster(tx, row.name)
    if tx.epoch(row.name, number) is None:
        raise RefusedError(Reason.UNKNOWN_EPOCH, f"federation {row.name} has no epoch {number}")
    before = tx.sharing_key(row.name, number, holder)
    if before == data:
        return False
    for what, reason, expected, got in (
        ("federation", Reason.BAD_FIELD, row.name, key.federation),
        ("epoch", Reason.BAD_FIELD, str(number), str(key.epoch)),
        ("holder", Reason.FORBIDDEN, holder, key.holder),
    ):
        if expected != got:
            raise RefusedError(reason, f"sharing key, {what}: expected {expected[:63]}, got {got[:63]}")
    signed.check_signed(roster.body.keys_of(Role.HOLDER))
    if before is not None:
        raise RefusedError(
            Reason.ALREADY_EXISTS,
            f"holder {holder} has another sharing key in epoch {number}, which rounds may have been dealt to",
            "if that one is lost, this holder is out until the next epoch: `he-agg epoch rotate`",
        )
    tx.add_sharing_key(row.name, number, holder, data, int(conductor.now()))
    conductor.apply_in(tx, row.name, events.Ready())
    tx.bump()
    return True


def _removed(before: Roster, now: Roster, key: AggregatorKey) -> frozenset[str]:
    """Name the sites and holders whose signatures no longer hold; all of them if the aggregator's does not."""
    if signer_in(before, key) is None:
        return frozenset(before.having(Role.SITE)) | frozenset(before.having(Role.HOLDER))
    return _gone(before, now, Role.SITE) | _gone(before, now, Role.HOLDER)


def _gone(before: Roster, now: Roster, role: Role) -> frozenset[str]:
    """Name those who had a role and do not have it any more with the same key."""
    after = now.keys_of(role)
    return frozenset(name for name, public in before.keys_of(role).items() if after.get(name) != public)
