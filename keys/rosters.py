"""Make and sign rosters, as coordinators do. A roster's own rules are in `he_agg.documents.roster`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from he_agg.documents.roster import Member, Role, Roster, majority, require_claim
from he_agg.documents.signed import Signed
from he_agg.errors import InputError, PlanError, Reason, WireError, counted
from he_agg.sharing.thresholds import Thresholds
from keys.files import read_document
from keys.identity import Identity

__all__ = ["new_roster", "next_roster", "read_roster", "sign_roster"]

DAY_S = 86400


def read_roster(path: Path) -> Signed[Roster]:
    """Read a roster file. No signature is looked at."""
    return read_document(path, lambda data: Signed.parse(Roster, data.strip()), "a roster")


def new_roster(
    federation: str,
    members: Mapping[Role, Sequence[Member]],
    *,
    threshold: int | None = None,
    answers: int | None = None,
    min_sites: int | None = None,
    small_groups: bool = False,
    days: int = 365,
    now: int,
) -> Signed[Roster]:
    """Make the first version of a roster. Nobody has signed it yet.

    Args:
        members: who has which role; the same member may come under several.
        threshold: how many coordinators have to sign; more than half of them if left out.
        answers: how many holders have to answer for a sum, if there are holders; see `Thresholds.choose`.
        min_sites: fewest sites whose sum any site opens; more than half of them, and at least 3, if left out.
        small_groups: whether `min_sites` may be fewer than that.
    """
    merged: dict[str, Member] = {}
    for role, having in members.items():
        for member in having:
            _put(merged, member, role)
    coordinators = len(members.get(Role.COORDINATOR, ()))
    threshold, min_sites = threshold or coordinators // 2 + 1, min_sites or majority(_sites(merged))
    roster = Roster(federation, 1, now, now + days * DAY_S, threshold, min_sites, dict(merged))
    return _made(replace(roster, holders=_thresholds(roster, None, answers)), small_groups)


def next_roster(
    previous: Signed[Roster],
    *,
    add: Iterable[tuple[Role, Member]] = (),
    remove: Iterable[str] = (),
    threshold: int | None = None,
    answers: int | None = None,
    min_sites: int | None = None,
    small_groups: bool = False,
    days: int = 365,
    now: int,
) -> Signed[Roster]:
    """Make the next version of a roster. Nobody has signed it yet.

    Args:
        add: new members, or further roles of present ones. Removed and added, a member has new keys.
        remove: names that are no members any more.
        threshold: as before if left out.
        answers: as before if left out, unless there are more or fewer holders now.
        min_sites: as before if left out, or as many as there must be now without `small_groups`.
        small_groups: whether `min_sites` may be fewer than half of the sites, or fewer than 3; said in every version.

    Raises:
        InputError: no such member, or too few of a role are left.
        WireError: it does not make sense in itself, or nobody could sign it so that it follows.
    """
    before = previous.body
    members = dict(before.members)
    for name in remove:
        if members.pop(name, None) is None:
            raise InputError(
                Reason.UNKNOWN_SITE,
                f"version {before.version} of the roster of {before.federation} has no member {name}",
                f"its members: {', '.join(sorted(before.members))}",
            )
    for role, member in add:
        _put(members, member, role)
    if min_sites is None:
        min_sites = before.min_sites if small_groups else max(before.min_sites, majority(_sites(members)))
    roster = Roster(
        before.federation,
        before.version + 1,
        now,
        now + days * DAY_S,
        before.threshold if threshold is None else threshold,
        min_sites,
        members,
    )
    roster = replace(roster, holders=_thresholds(roster, before.holders, answers))
    # A document has one signature per name, so a coordinator with new keys cannot sign for the old ones too.
    able = [name for name, key in before.keys_of(Role.COORDINATOR).items() if _same_key(members.get(name), key)]
    if len(able) < before.threshold:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"{counted(before.threshold, 'coordinator')} of version {before.version} must sign, and only {len(able)} "
            "could",
            "give a coordinator with new keys a new name",
        )
    return _made(roster, small_groups)


def sign_roster(roster: Signed[Roster], identity: Identity, previous: Signed[Roster] | None = None) -> Signed[Roster]:
    """Add a coordinator's signature.

    Args:
        identity: who signs: a coordinator of it, or of the version before.

    Raises:
        InputError: not a coordinator, or one with another key.
        WireError: the version before is not its previous one.
    """
    now, before = roster.body, None if previous is None else previous.body
    if before is not None and (before.federation, before.version + 1) != (now.federation, now.version):
        raise WireError(
            Reason.ROSTER_MISMATCH,
            f"expected version {now.version - 1} of the roster of {now.federation} as the one before, "
            f"got version {before.version} of {before.federation}",
        )
    coordinators = now.keys_of(Role.COORDINATOR)
    if before is not None:
        coordinators = before.keys_of(Role.COORDINATOR) | coordinators
    if identity.name not in coordinators:
        raise InputError(
            Reason.FORBIDDEN,
            f"{identity.name} is not a coordinator of this roster, and only coordinators sign it",
            "a coordinator of the version before signs with --previous OLD",
        )
    if coordinators[identity.name] != identity.signing_key.public_key:
        raise InputError(
            Reason.KEY_MISMATCH,
            f"the roster lists another key as {identity.name}: expected the one with fingerprint "
            f"{identity.fingerprint}",
            "do not have it signed by anybody; ask who made it for one with the right public file",
        )
    return roster.signed_by(identity.name, identity.signing_key)


def _put(members: dict[str, Member], member: Member, role: Role) -> None:
    known = members.get(member.name)
    if known is not None and (known.signing_key, known.receiving) != (member.signing_key, member.receiving):
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"{member.name} comes twice, with different keys",
            "give one public file per member; for new keys of a present member, remove it as well",
        )
    if role != Role.AGGREGATOR and known is not None and Role.AGGREGATOR in known.roles:
        raise InputError(Reason.BAD_ARGUMENT, f"{member.name} is the aggregator and can have no other role")
    if role == Role.AGGREGATOR and known is not None and known.roles - {Role.AGGREGATOR}:
        raise InputError(Reason.BAD_ARGUMENT, f"{member.name} has other roles and cannot be the aggregator too")
    roles = (frozenset() if known is None else known.roles) | {role}
    members[member.name] = replace(member, roles=roles)


def _same_key(member: Member | None, key: bytes) -> bool:
    """Tell whether a signer of before still counts: gone from the roster, or there with the same key."""
    return member is None or member.public_key == key


def _sites(members: Mapping[str, Member]) -> int:
    return sum(Role.SITE in member.roles for member in members.values())


def _thresholds(roster: Roster, before: Thresholds | None, answers: int | None) -> Thresholds | None:
    """Return how many holders it takes, if there are any: as before, unless there are others or it is said."""
    holders = len(roster.having(Role.HOLDER))
    if not holders and answers is None:
        return None
    if before is not None and before.holders == holders and answers in (None, before.threshold):
        return before
    try:
        return Thresholds.choose(holders, answers)
    except PlanError as error:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"of {counted(holders, 'holder')} no {answers or 'number'} can be asked to answer: {error.message}",
            "leave --answers out for what is usual, and name holders: --holder FILE, or --add holder=FILE",
        ) from error


def _made(roster: Roster, small_groups: bool) -> Signed[Roster]:
    sites = _sites(roster.members)
    least = majority(sites)
    if not roster.having(Role.AGGREGATOR):
        raise InputError(
            Reason.BAD_ARGUMENT,
            "the roster has no aggregator",
            "the operator makes its public file: `he-agg aggregator show --data-dir DIR --out aggregator.public.json`",
        )
    if roster.min_sites < least and not small_groups:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"min_sites: expected at least {least}, more than half of {sites} sites and never fewer than 3, got "
            f"{roster.min_sites}",
            "the aggregator could keep smaller groups apart unnoticed, and of two sites each reads the other's update "
            "by subtraction; if all sites agree to that, say so: --allow-small-groups",
        )
    if sites < 2:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"expected a roster of at least 3 sites, got one of {counted(sites, 'site')}",
            "give --site once for each hospital to `he-agg roster new`; 2 are enough with --allow-small-groups only, "
            "which every site sees",
        )
    if not 2 <= roster.min_sites <= sites:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"min_sites: expected 2 to {sites}, the number of sites, got {roster.min_sites}",
            "give --min-sites to `he-agg roster new` or `he-agg roster next`"
            + ("" if sites >= 3 else "; fewer than 3 sites also need --allow-small-groups, which every site sees"),
        )
    if roster.holders is not None:
        try:
            require_claim(roster.holders, roster.min_sites)
        except WireError as error:
            raise InputError(
                Reason.BAD_ARGUMENT,
                error.message,
                "ask a trustee, such as a data protection office, to be a holder too, who types `he-agg holder join`; "
                "and open no sum of fewer than 3 sites",
            ) from error
    roster = replace(roster, small_groups=roster.min_sites < least)
    # Parsed again: what comes out is what everybody else will be able to read.
    return Signed.parse(Roster, Signed(roster).encode())
