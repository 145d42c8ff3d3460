"""The rosters that a member trusts: the pinned one, those it followed from there, and those it came from.

::

    <roster>                                     the pin: the newest roster that this site trusts
    <roster>.versions/<n>.json                   versions that were the pin before; records still name them

The first pin is trusted because people compared fingerprints. Another one takes its place only if enough coordinators
of the version before have signed it; the file is replaced in one step, so a crash leaves the old one or the new.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client_sdk._disk.files import explained
from he_agg.documents.roster import Role, Roster, check_follows
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, KeystoreError, Reason, WireError
from keys import Identity
from keys.files import replace_file
from keys.pinning import archive_of, keep_old, read_pinned

__all__ = ["Rosters"]


class Rosters:
    """What one member trusts in one federation.

    Args:
        federation: whose roster it must be.
        role: the member's: a site, or a holder that is none.

    Raises:
        ConfigError: the file is missing, not a signed roster of this federation, or writable by everybody.
        KeystoreError: the roster lists another key for this site.
    """

    def __init__(self, path: Path, federation: str, identity: Identity, role: Role = Role.SITE) -> None:
        self._path, self._role = path, role
        self._federation, self._identity = federation, identity
        pinned = _read(path)
        if pinned.body.federation != federation:
            what = "keystore" if role is Role.SITE else "plan"
            raise ConfigError(
                Reason.ROSTER_MISMATCH,
                f"roster {path}: expected that of federation {federation}, which the {what} is for, got that of "
                f"{pinned.body.federation}",
                "a federation has one settings file of its own, with its keystore or plan, and its roster",
            )
        self._known = {signed.body_digest: signed for signed in self._archived()}
        self._newest = pinned
        self._known[pinned.body_digest] = pinned
        self.check_own(pinned)

    def __repr__(self) -> str:
        return f"Rosters({self._federation!r}, version {self._newest.body.version})"

    @property
    def newest(self) -> Signed[Roster]:
        """The pinned roster."""
        return self._newest

    @property
    def oldest(self) -> Signed[Roster]:
        """The oldest roster that it knows: the first that it pinned, if it has kept all since."""
        return min(self._known.values(), key=lambda signed: signed.body.version)

    def named(self, digest: str) -> Roster | None:
        """Find a trusted roster by its digest; None if this site does not know it."""
        signed = self._known.get(digest)
        return None if signed is None else signed.body

    def signed_as(self, digest: str) -> Signed[Roster]:
        """Return a trusted roster with its signatures.

        Raises:
            WireError: this site does not know it.
        """
        signed = self._known.get(digest)
        if signed is None:
            raise WireError(
                Reason.ROSTER_MISMATCH,
                f"roster {digest[:12]}: expected one that this site trusts, it knows none of that digest",
            )
        return signed

    def version(self, number: int) -> Roster | None:
        """Find a trusted roster by its version; None if this site does not know it."""
        return next((signed.body for signed in self._known.values() if signed.body.version == number), None)

    def since(self, version: int) -> list[Signed[Roster]]:
        """Return the trusted rosters from a version on."""
        return [signed for signed in self._known.values() if signed.body.version >= version]

    def listing(self, *documents: Signed[Any]) -> tuple[Signed[Roster], ...]:
        """Return the newest trusted rosters that list an aggregator which has signed each of these documents."""
        newest_first = sorted(self._known.values(), key=lambda signed: -signed.body.version)
        found = {
            next((i for i, r in enumerate(newest_first) if document.signers(r.body.keys_of(Role.AGGREGATOR))), None)
            for document in documents
        }
        return tuple(newest_first[i] for i in sorted(i for i in found if i is not None))

    @property
    def is_complete(self) -> bool:
        """Whether this site knows every version from the first."""
        return any(signed.body.version == 1 for signed in self._known.values())

    def aggregator_keys(self, digest: str) -> list[dict[str, bytes]]:
        """Return who may sign a record that names this roster: its aggregators, or those of a later one.

        An aggregator that has got another key signs with that, whatever roster the round had opened under. A site that
        joined later does not know the rosters before its first pin: any that it trusts will do for their records.
        """
        named = self.named(digest)
        least = 0 if named is None else named.version
        return [signed.body.keys_of(Role.AGGREGATOR) for signed in self.since(least)]

    def check_valid(self, now: float) -> None:
        """Check that the pinned roster has not expired."""
        try:
            self._newest.body.check_valid(now)
        except WireError as error:
            raise ConfigError(
                error.reason,
                f"{error.message}, and the aggregator has no newer one; nothing was encrypted or opened",
                "ask the coordinator to sign a new one: `he-agg roster next`",
            ) from error

    def check_own(self, signed: Signed[Roster]) -> None:
        """Check that a roster has this member in it, with its own key."""
        roster, identity = signed.body, self._identity
        member = roster.members.get(identity.name)
        if member is None or self._role not in member.roles:
            raise self._not_listed(roster)
        if member.public_key != identity.signing_key.public_key:
            raise KeystoreError(
                Reason.KEY_MISMATCH,
                f"{self._role} {identity.name}: version {roster.version} of the roster of {roster.federation} lists "
                f"the key with fingerprint {member.fingerprint}, this identity has {identity.fingerprint}",
                "compare fingerprints with the coordinator: either the identity file or the roster is not yours",
            )

    def _not_listed(self, roster: Roster) -> ConfigError:
        name = self._identity.name
        of = f"version {roster.version} of the roster of {roster.federation}"
        text = f"{self._role} {name} is not among the {self._role}s of {of}"
        last = [r.body.version for r in self._known.values() if name in r.body.having(self._role)]
        if not last:
            return ConfigError(
                Reason.UNKNOWN_SITE, text, "ask the coordinator: it was not added yet, or goes by another name"
            )
        return ConfigError(
            Reason.NO_LONGER_MEMBER,
            f"{text}: version {max(last)} was the last that listed it, and it is no member any more",
            "coordinators have signed that roster: ask one of them; what it has so far stays",
        )

    def follow(self, signed: Signed[Roster]) -> None:
        """Trust the next version from now on, and put it in the place of the pinned file.

        Raises:
            WireError: it does not follow the pinned one, or is not signed by enough coordinators.
        """
        check_follows(signed, self._newest)
        keep_old(self._path, [self._newest])
        replace_file(self._path, signed.encode())
        self._known[signed.body_digest] = signed
        self._newest = signed

    def _archived(self) -> list[Signed[Roster]]:
        archive = archive_of(self._path)
        with explained(archive):
            return [_read(path) for path in sorted(archive.glob("*.json"))]


def _read(path: Path) -> Signed[Roster]:
    """Read a roster file of this site's own: trusted because of where it lies, so nobody else may have put it there."""
    try:
        return read_pinned(path)
    except WireError as error:
        raise ConfigError(error.reason, f"roster {path}: {error.message}", error.hint, error.shell) from error
