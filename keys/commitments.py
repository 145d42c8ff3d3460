"""Say which key a site holds, and see that all sites hold one and the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from he_agg.documents.epoch import Commitment
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.errors import HeAggError, InputError, KeystoreError, Reason, WireError
from keys.group_key import GroupKey
from keys.identity import Identity

__all__ = ["Agreement", "agreement", "commit"]


def commit(key: GroupKey, identity: Identity) -> Signed[Commitment]:
    """Make a site's signed statement that it holds this key."""
    commitment = Commitment(key.plan.public.federation, key.epoch, key.key_id, identity.name)
    return Signed.make(commitment, identity.signing_key)


@dataclass(frozen=True)
class Agreement:
    """Who holds the key of an epoch.

    Attributes:
        sites: whose commitments were seen, sorted.
        missing: sites of the roster without one, sorted.
    """

    epoch: int
    key_id: str
    sites: tuple[str, ...]
    missing: tuple[str, ...]


def agreement(
    commitments: Iterable[Signed[Commitment]], roster: Signed[Roster], epoch: int, key_id: str | None = None
) -> Agreement:
    """Check that all commitments are of sites of the roster, signed by them, and name one and the same key.

    Raises:
        WireError: of somebody else, not signed, or of another federation or epoch.
        KeystoreError: two keys.
    """
    sites = roster.body.keys_of(Role.SITE)
    seen: dict[str, str] = {}
    for signed in commitments:
        commitment = signed.body
        if commitment.site not in sites:
            raise WireError(Reason.UNKNOWN_SITE, f"commitment of {commitment.site}: no such site in the roster")
        signed.check_signed(sites)
        if (commitment.federation, commitment.epoch) != (roster.body.federation, epoch):
            raise WireError(
                Reason.BAD_FIELD,
                f"commitment of {commitment.site}: expected epoch {epoch} of {roster.body.federation}, "
                f"got epoch {commitment.epoch} of {commitment.federation}",
            )
        if seen.setdefault(commitment.site, commitment.key_id) != commitment.key_id:
            raise _two_keys(epoch, {commitment.site: "two different ones"})
    held = set(seen.values()) | ({key_id} if key_id is not None else set())
    if len(held) > 1:
        raise _two_keys(epoch, {site: held_id[:12] for site, held_id in seen.items()})
    if not held:
        raise InputError(Reason.BAD_ARGUMENT, f"epoch {epoch}: expected commitments, got none")
    return Agreement(epoch, held.pop(), tuple(sorted(seen)), tuple(sorted(set(sites) - set(seen))))


def _two_keys(epoch: int, held: dict[str, str]) -> HeAggError:
    sites = ", ".join(f"{site}: {key_id}" for site, key_id in sorted(held.items()))
    return KeystoreError(
        Reason.KEY_MISMATCH,
        f"epoch {epoch}: the sites do not hold one and the same key ({sites})",
        "do not start a round; ask the dealer, and deal a new epoch: `he-agg epoch rotate`",
    )
