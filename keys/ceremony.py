"""The life of an epoch: dealing a group key to the sites of a roster, and accepting it.

A dealt key travels once, encrypted under a random content key; that content key is sealed to every site by HPKE with
all of the context in `info`. HPKE in base mode says nothing about the sender, so the dealer signs the bundle.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from he_agg import canonical
from he_agg.documents.epoch import Commitment, EpochBundle
from he_agg.documents.roster import Role, Roster, check_signed
from he_agg.documents.signed import Signed
from he_agg.errors import InputError, KeystoreError, Reason, WireError
from keys.commitments import commit
from keys.group_key import GroupKey, public_facts
from keys.identity import Identity
from keys.keystores import kept_epochs, kept_path
from keys.pinning import check_self
from keys.receiving import seal
from keys.sealed_box import Passphrase
from keys.self_test import self_test

__all__ = ["accept", "accept_missed", "deal", "install"]

_LABEL = "he-agg/epoch-key/v1"
_CONTENT_KEY_BYTES = 32
_NONCE = bytes(12)
"""A content key encrypts one payload in its life, so the nonce may be fixed."""


def deal(key: GroupKey, roster: Signed[Roster], dealer: Identity, now: float) -> Signed[EpochBundle]:
    """Seal a group key to every site of a roster, and sign the bundle.

    Args:
        roster: the newest roster. The dealer has signed it: nobody deals to sites that somebody else put together.

    Raises:
        InputError: not a coordinator of it, or a roster that does not go with the key's plan.
        WireError: a roster that is expired or not signed.
    """
    _check_roster(roster, now)
    members, public = roster.body, key.plan.public
    check_self(members, dealer, Role.COORDINATOR)
    if dealer.name not in roster.signers({dealer.name: dealer.signing_key.public_key}):
        raise InputError(
            Reason.BAD_SIGNATURE,
            f"{dealer.name} has not signed version {members.version} of the roster, and deals only to sites of a "
            "roster that it has signed",
            "look at it and sign it first: `he-agg roster verify`, then `he-agg roster sign`",
        )
    sites = members.having(Role.SITE)
    if public.federation != members.federation:
        raise InputError(
            Reason.PLAN_MISMATCH, f"expected a roster of {public.federation}, got one of {members.federation}"
        )
    if not public.min_sites <= len(sites) <= public.max_sites:
        raise InputError(
            Reason.PLAN_MISMATCH,
            f"the plan is for {public.min_sites} to {public.max_sites} sites, and the roster has {len(sites)}",
            "a plan for other numbers is a new federation: `he-agg plan new`",
        )
    if public.splits_keys != (members.holders is not None):
        has = "splits keys, and the roster names no" if public.splits_keys else "shares keys, and the roster names"
        raise InputError(
            Reason.PLAN_MISMATCH,
            f"the plan {has} holders",
            "holders come with `he-agg roster new` or `roster next`, and go with plans made with --keys split only",
        )
    context = {
        "label": _LABEL,
        "federation": members.federation,
        "epoch": key.epoch,
        "plan_id": key.plan_id,
        "key_id": key.key_id,
        "roster": roster.body_digest,
        "dealer": dealer.name,
    }
    content_key = secrets.token_bytes(_CONTENT_KEY_BYTES)
    payload = ChaCha20Poly1305(content_key).encrypt(_NONCE, key.secret_body(), canonical.encode(context))
    sealed = {}
    for name, site in sites.items():
        if site.receiving is None:  # `Roster.check` has seen to it
            raise InputError(Reason.BAD_FIELD, f"site {name} has no key that a group key can be sealed to")
        sealed[name] = seal(site.receiving, content_key, _info(context, name))
    bundle = EpochBundle(
        federation=members.federation,
        epoch=key.epoch,
        plan_id=key.plan_id,
        key_id=key.key_id,
        roster=roster.body_digest,
        roster_version=members.version,
        dealer=dealer.name,
        payload=payload,
        sealed=sealed,
    )
    return Signed.make(bundle, dealer.signing_key)


def open_bundle(
    signed: Signed[EpochBundle],
    roster: Signed[Roster],
    identity: Identity,
    now: float,
    *,
    current: GroupKey | None = None,
    newest_kept: int = 0,
    plan_id: str | None = None,
) -> GroupKey:
    """Check a bundle in every respect, open it, and see that the key in it works. Nothing is written.

    Args:
        current: the group key that it has, if any.
        newest_kept: highest epoch of which it has kept an old keystore; 0 if none.
        plan_id: the plan that it expects; that of `current` if left out.

    Returns:
        The key of the bundle; `current` itself if that is the one.
    """
    bundle = signed.body
    _check_roster(roster, now)
    if (
        current is not None
        and current.facts == public_facts(roster.body.federation, bundle.epoch, bundle.plan_id, bundle.key_id)
        and bundle.federation == roster.body.federation
    ):
        # The roster may have been renewed since: nothing is accepted now that was not accepted then.
        check_self(roster.body, identity, Role.SITE)
        _check_plan(bundle, plan_id)
        return current
    _check_same_roster(bundle, roster)
    signed.check_signed(roster.body.keys_of(Role.COORDINATOR))
    check_self(roster.body, identity, Role.SITE)
    if set(bundle.sealed) != set(roster.body.having(Role.SITE)):
        raise WireError(
            Reason.ROSTER_MISMATCH,
            f"bundle of epoch {bundle.epoch}: it is not sealed to exactly the sites of the roster",
            "ask the dealer for a new one: `he-agg epoch rotate`",
        )
    _check_newer(bundle, current, newest_kept)
    _check_plan(bundle, plan_id or (None if current is None else current.plan_id))
    key = _open(bundle, identity)
    self_test(key)
    return key


def _open(bundle: EpochBundle, identity: Identity) -> GroupKey:
    what = f"bundle of epoch {bundle.epoch}"
    context = {
        "label": _LABEL,
        "federation": bundle.federation,
        "epoch": bundle.epoch,
        "plan_id": bundle.plan_id,
        "key_id": bundle.key_id,
        "roster": bundle.roster,
        "dealer": bundle.dealer,
    }
    content_key = identity.receiving_key.open(bundle.sealed[identity.name], _info(context, identity.name))
    try:
        body = ChaCha20Poly1305(content_key).decrypt(_NONCE, bundle.payload, canonical.encode(context))
    except (InvalidTag, ValueError) as error:
        raise KeystoreError(
            Reason.KEY_MISMATCH, f"{what}: the key in it does not open", "ask the dealer for a new one"
        ) from error
    # Recomputes key id and plan id from the secret, and compares: all sites of one key id hold one key.
    return GroupKey.from_body(public_facts(bundle.federation, bundle.epoch, bundle.plan_id, bundle.key_id), body, what)


def accept(
    signed: Signed[EpochBundle],
    roster: Signed[Roster],
    identity: Identity,
    keystore: Path,
    now: float,
    *,
    plan_id: str | None = None,
    passphrase: Passphrase = None,
    protect: Passphrase = None,
) -> tuple[GroupKey, Signed[Commitment]]:
    """Check and open a bundle, store the key, and make this site's commitment. Again, with the same result, if asked.

    Args:
        keystore: the keystore file; an older one in that place is kept as `<keystore>.epoch-N`.
        plan_id: the plan that this site expects; that of the keystore if left out.
        passphrase: opens the older keystore.
        protect: protects the new one. None: only its permissions do.

    Raises:
        KeystoreError: an older epoch, another plan, a key that does not open or work, or files that cannot be used.
    """
    current = GroupKey.load(keystore, passphrase) if os.path.lexists(keystore) else None
    kept = max(kept_epochs(keystore), default=0)
    key = open_bundle(signed, roster, identity, now, current=current, newest_kept=kept, plan_id=plan_id)
    if key is not current:
        install(key, keystore, current, protect)
    return key, commit(key, identity)


def accept_missed(
    signed: Signed[EpochBundle],
    epoch: int,
    roster: Signed[Roster],
    identity: Identity,
    keystore: Path,
    current: GroupKey,
    protect: Passphrase = None,
) -> GroupKey:
    """Store the key of an epoch that came and went while this site was away, as `<keystore>.epoch-N`: it only opens.

    Args:
        epoch: the one that was missed. A bundle of another must not be stored: what is kept is never entered again.
        roster: the one that the bundle names, which this site trusts. It may have expired since.
        current: the group key that this site has; it expects the same plan.
        protect: protects the file.

    Raises:
        KeystoreError: as `accept`, or this epoch's key is there already.
        WireError: as `accept`, or a bundle of another epoch.
    """
    if signed.body.epoch != epoch:
        raise WireError(
            Reason.BAD_FIELD,
            f"expected the bundle of epoch {epoch}, got that of epoch {signed.body.epoch}; its key was not stored",
            "ask the operator what is wrong with the aggregator",
        )
    key = open_bundle(signed, roster, identity, roster.body.issued_at, plan_id=current.plan_id)
    key.save(kept_path(keystore, key.epoch), protect)
    return key


def install(key: GroupKey, keystore: Path, current: GroupKey | None, protect: Passphrase) -> None:
    """Write the keystore file of a new epoch. The older one stays as `<keystore>.epoch-N`; it opens that epoch's sums.

    Raises:
        KeystoreError: it cannot be written; the older one is where it was.
    """
    if current is None:
        key.save(keystore, protect)
    else:
        kept = kept_path(keystore, current.epoch)
        # A keystore that was restored from its kept copy has one already.
        have = kept.exists() and GroupKey.header(kept) == current.facts
        key.replace(keystore, None if have else kept, protect)


def _check_roster(roster: Signed[Roster], now: float) -> None:
    check_signed(roster)
    roster.body.check_valid(now)


def _check_same_roster(bundle: EpochBundle, roster: Signed[Roster]) -> None:
    have = roster.body
    if bundle.federation != have.federation:
        raise WireError(
            Reason.ROSTER_MISMATCH, f"expected a bundle of federation {have.federation}, got one of {bundle.federation}"
        )
    if (bundle.roster, bundle.roster_version) == (roster.body_digest, have.version):
        return
    message = (
        f"bundle of epoch {bundle.epoch}: it is for version {bundle.roster_version} of the roster, and this site has "
        f"accepted version {have.version}"
    )
    if bundle.roster_version > have.version:
        raise WireError(Reason.ROSTER_MISMATCH, message, "accept the newer roster first: `he-agg roster accept`")
    if bundle.roster_version < have.version:
        raise WireError(Reason.ROSTER_MISMATCH, message, "ask a coordinator to deal a new epoch: `he-agg epoch rotate`")
    raise WireError(
        Reason.ROSTER_MISMATCH,
        f"{message}, but another one: there are two rosters of one version",
        "call the coordinators at once",
    )


def _check_newer(bundle: EpochBundle, current: GroupKey | None, kept: int) -> None:
    have = max(kept, 0 if current is None else current.epoch)
    if bundle.epoch > have:
        return
    if current is not None and bundle.epoch == current.epoch:
        message = f"there is another key of epoch {bundle.epoch} in this site's keystore"
    else:
        message = f"this site has been in epoch {have} already, and epochs only go forward"
    raise KeystoreError(
        Reason.KEY_MISMATCH,
        f"bundle of epoch {bundle.epoch}: {message}",
        "fetch the newest bundle; if this is the newest, ask a coordinator to deal a new epoch",
    )


def _check_plan(bundle: EpochBundle, expected: str | None) -> None:
    if expected is not None and bundle.plan_id != expected:
        raise KeystoreError(
            Reason.PLAN_MISMATCH,
            f"bundle of epoch {bundle.epoch}: expected plan {expected[:12]}, got plan {bundle.plan_id[:12]}",
            "ask the coordinators which plan is agreed on; a new plan is a new federation",
        )


def _info(context: dict[str, canonical.Json], site: str) -> bytes:
    return canonical.encode({**context, "site": site})
