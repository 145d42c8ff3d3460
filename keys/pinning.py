"""Accept rosters, as a site does, and check its members against one.

A site pins one roster: it accepts the first after comparing fingerprints, and each later one only if enough
coordinators of the one before have signed it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from he_agg.documents.roster import Role, Roster, check_follows, check_signed
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, InputError, Reason, WireError
from he_agg.host.private import changed_by_others, followed
from he_agg.host.shell import quoted
from keys.files import replace_file
from keys.identity import Identity
from keys.rosters import read_roster

__all__ = [
    "archive_of",
    "check_self",
    "follow",
    "keep_old",
    "read_pinned",
]


def read_pinned(path: Path) -> Signed[Roster]:
    """Read the roster that this site has accepted.

    Raises:
        ConfigError: it cannot be read, or others may change it; only this user and root may own it.
        WireError: not a roster, or not signed by its own coordinators.
    """
    try:
        target = followed(path)
        state = target.stat()
    except OSError as error:
        raise ConfigError(
            Reason.FILE_MISSING,
            f"{path}: expected the accepted roster, got none",
            f"accept one first: `he-agg roster accept FILE --out {quoted(path)}`",
        ) from error
    if others := changed_by_others(target, state):
        raise ConfigError(
            Reason.UNSAFE_PERMISSIONS,
            f"{path}: expected an accepted roster that only this user and root may change, got {others.what}",
            f"see with `he-agg roster verify {quoted(path)}` that it is still the right one, then: {others.remedy}",
        )
    roster = read_roster(path)
    check_signed(roster)
    return roster


def archive_of(pin: Path) -> Path:
    """Return where a site keeps its older pins, which rounds under way and records still name."""
    return pin.with_name(f"{pin.name}.versions")


def keep_old(pin: Path, rosters: Iterable[Signed[Roster]]) -> None:
    """Put versions into the archive of a pin, before a newer one takes its place."""
    archive, rosters = archive_of(pin), list(rosters)
    if not rosters:
        return
    try:
        archive.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(Reason.BAD_CONFIG, f"{archive} cannot be made: {error.strerror}") from error
    for signed in rosters:
        replace_file(archive / f"{signed.body.version}.json", signed.encode())


def follow(pinned: Signed[Roster], offered: Iterable[Signed[Roster]], now: float) -> Signed[Roster]:
    """Go from the pinned roster to the newest one offered, version by version.

    Args:
        pinned: what the site trusts; it may have expired.
        offered: newer versions, without gaps, in any order.

    Raises:
        WireError: an older version, another roster of the same version, a gap, too few signatures, or expired.
    """
    for roster in sorted(offered, key=lambda candidate: candidate.body.version):
        before, after = pinned.body, roster.body
        if (
            after.federation == before.federation
            and after.version == before.version
            and roster.body_digest == pinned.body_digest
        ):
            continue
        if after.federation == before.federation and after.version <= before.version:
            what = "older than" if after.version < before.version else "another one than"
            raise WireError(
                Reason.ROSTER_MISMATCH,
                f"version {after.version} of the roster of {after.federation} is {what} "
                f"version {before.version}, which this site has accepted; the accepted one stays",
                "ask the coordinators which roster is the right one"
                if after.version < before.version
                else "there are two rosters of one version: call the coordinators at once",
            )
        if after.federation == before.federation and after.version > before.version + 1:
            raise WireError(
                Reason.ROSTER_MISMATCH,
                f"this site has accepted version {before.version}; version {after.version} follows only with those "
                "between",
                f"give all files from version {before.version + 1} on: `he-agg roster accept FILE FILE --out ROSTER`",
            )
        check_follows(roster, pinned)
        pinned = roster
    pinned.body.check_valid(now)
    return pinned


def check_self(roster: Roster, identity: Identity, role: Role) -> None:
    """Check that a roster lists this very identity in a role."""
    member = roster.members.get(identity.name)
    if member is None or role not in member.roles:
        raise InputError(
            Reason.FORBIDDEN,
            f"{identity.name} has no role {role} in version {roster.version} of the roster of {roster.federation}",
            "ask a coordinator for a roster that has you: `he-agg roster next`",
        )
    if replace(member, roles=frozenset()) != identity.member():
        raise InputError(
            Reason.KEY_MISMATCH,
            f"the roster has other keys for {identity.name}: fingerprint {member.fingerprint}, this identity has "
            f"{identity.fingerprint}",
            "read your fingerprint to the coordinator over the phone; one of the two files is not yours",
        )
