"""Read and write a roster: who belongs to a federation, with which keys, in which role.

Its coordinators sign it, never the aggregator.

Versions are numbered from 1. The first is trusted because people compared its coordinators' fingerprints over the
phone; every later one because enough coordinators of the version before signed it. It expires, so that a forgotten
one does not stay good for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from he_agg import canonical
from he_agg.documents.signed import Signed
from he_agg.errors import PlanError, Reason, WireError, counted
from he_agg.ids import check_name
from he_agg.sharing.thresholds import MAX_HOLDERS, Thresholds
from he_agg.signing import PUBLIC_KEY_BYTES

__all__ = [
    "MAX_ROSTER_BYTES",
    "Member",
    "Receiving",
    "Role",
    "Roster",
    "check_follows",
    "check_signed",
    "fingerprint",
    "majority",
]

MAX_ROSTER_BYTES = 32 * 2**20
MAX_MEMBERS = 10_000
MAX_VALID_S = 400 * 86400
"""A roster is good for a year and a bit at most. Units: seconds."""

_MAX_TIME = 2**40


class Role(StrEnum):
    """What a member may do."""

    SITE = "site"  # submits, and gets sums
    COORDINATOR = "coordinator"  # signs rosters, deals group keys
    OPERATOR = "operator"  # reads how the aggregator is doing
    AUDITOR = "auditor"  # reads records and manifests
    AGGREGATOR = "aggregator"  # signs receipts and records
    HOLDER = "holder"  # holds shares of one-time keys, where a plan splits them


@dataclass(frozen=True)
class Receiving:
    """What secrets are sealed to.

    Attributes:
        suite: "x25519", or "mlkem768-x25519".
        key: the public key, in hex. For the hybrid: ML-KEM-768 first, then X25519.
    """

    suite: str
    key: str

    def to_json(self) -> canonical.Json:
        """Return the canonical document."""
        return {"suite": self.suite, "key": self.key}

    @classmethod
    def from_json(cls, name: str, value: canonical.Json) -> Receiving:
        """Read what a member has under "receiving"."""
        fields = canonical.Fields(value, f"member {name}.receiving")
        suite = fields.string("suite", 63)
        if suite not in SUITE_BYTES:
            raise WireError(Reason.BAD_FIELD, f"member {name}: expected a suite out of {', '.join(SUITE_BYTES)}")
        receiving = cls(suite, fields.hex("key", SUITE_BYTES[suite]))
        fields.end()
        return receiving


SUITE_BYTES = {"x25519": 32, "mlkem768-x25519": 1184 + 32}
"""Length of the public key of each suite."""


@dataclass(frozen=True)
class Member:
    """One member, as everybody may know it.

    Attributes:
        signing_key: Ed25519, 32 bytes in hex.
        receiving: what secrets are sealed to; None for a member that gets none.
    """

    name: str
    signing_key: str
    roles: frozenset[Role] = frozenset()
    receiving: Receiving | None = None

    @property
    def public_key(self) -> bytes:
        """The verification key. 32 bytes."""
        return bytes.fromhex(self.signing_key)

    @property
    def fingerprint(self) -> str:
        """What two people compare over the phone."""
        return fingerprint(self)

    def to_json(self) -> canonical.Json:
        """Return the canonical document, without the name."""
        receiving = None if self.receiving is None else self.receiving.to_json()
        return {"signing_key": self.signing_key, "receiving": receiving, "roles": sorted(self.roles)}

    @classmethod
    def from_json(cls, name: str, value: canonical.Json) -> Member:
        """Read what `to_json` wrote."""
        check_name(name, "member")
        fields = canonical.Fields(value, f"member {name}")
        signing_key = fields.hex("signing_key", PUBLIC_KEY_BYTES)
        roles = fields.array("roles", len(Role))
        if roles != sorted(set(map(str, roles))) or not set(roles) <= set(Role):
            raise WireError(Reason.BAD_FIELD, f"member {name}: expected roles out of {', '.join(Role)}, sorted")
        receiving = fields.maybe("receiving", lambda member: Receiving.from_json(name, fields.object(member)))
        fields.end()
        return cls(name, signing_key, frozenset(map(Role, roles)), receiving)


def fingerprint(member: Member) -> str:
    """Return 32 hex digits in groups of four, over name and all public keys of a member but not its roles."""
    receiving = "" if member.receiving is None else f"{member.receiving.suite}:{member.receiving.key}"
    digest = hashlib.sha256(f"he-agg/member/v1\0{member.name}\0{member.signing_key}\0{receiving}".encode()).hexdigest()
    return " ".join(digest[i : i + 4] for i in range(0, 32, 4))


def majority(sites: int) -> int:
    """Return the fewest of so many sites that any sum may be of, unless their roster allows small groups.

    Two such groups have a site in common, and a site goes by one history: nobody can keep groups apart unnoticed. And
    out of a sum of three or more nobody reads a single update by subtracting his own.
    """
    return max(3, sites // 2 + 1)


@dataclass(frozen=True)
class Roster:
    """Who belongs to a federation.

    Attributes:
        version: from 1, one more each time.
        issued_at: Units: seconds since 1970, UTC.
        expires_at: Units: seconds since 1970, UTC.
        threshold: how many coordinators have to sign.
        min_sites: fewest sites whose sum any site opens.
        members: by name.
        small_groups: whether all agree that `min_sites` is below the `majority`; true exactly when it is.
        holders: how many of the members with that role it takes; None where sites share one key.
    """

    KIND: ClassVar[str] = "roster"
    MAX_BYTES: ClassVar[int] = MAX_ROSTER_BYTES

    federation: str
    version: int
    issued_at: int
    expires_at: int
    threshold: int
    min_sites: int
    members: Mapping[str, Member]
    small_groups: bool = False
    holders: Thresholds | None = None

    def having(self, role: Role) -> dict[str, Member]:
        """Return the members with a role, by name."""
        return {name: member for name, member in sorted(self.members.items()) if role in member.roles}

    def keys_of(self, role: Role) -> dict[str, bytes]:
        """Verification keys of the members with a role, by name."""
        return {name: member.public_key for name, member in self.having(role).items()}

    def has_holders_of(self, other: Roster) -> bool:
        """Tell whether shares go to the very same holders by another version of it, and it takes as many of them.

        A holder with another signing key is another one: it knows nothing of what the first has promised.
        """
        return (self.holders, self.keys_of(Role.HOLDER)) == (other.holders, other.keys_of(Role.HOLDER))

    def quorums_meet(self, other: Roster) -> bool:
        """Tell whether a quorum of holders by this version, and one by another, have an honest holder in common.

        That one goes by one history: what a quorum has answered by the one version, no other history of it is answered
        by the other version. So many holders may be corrupt as both versions are made for.
        """
        if self.holders is None or other.holders is None:
            return False
        either = self.keys_of(Role.HOLDER).items() | other.keys_of(Role.HOLDER).items()
        common = self.holders.quorum + other.holders.quorum - len(either)
        return common > min(roster.claim(roster.holders + 2) for roster in (self.holders, other.holders))

    @property
    def smallest_group(self) -> str:
        """Say how few sites a sum may be of, and what it means if these are few."""
        told = f"no site opens a sum of fewer than {self.min_sites} of the {len(self.having(Role.SITE))} sites"
        if self.small_groups:
            told += (
                "\nSMALL GROUPS ARE ALLOWED: the aggregator alone can split the sites into groups that do not know of "
                "each other, and nobody notices"
            )
        if self.min_sites == 2:
            told += "; in a group of two each site computes the other's update and weight by subtraction"
        return told

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"version {self.version} of the roster of {self.federation}"

    @property
    def author(self) -> None:
        """As many coordinators as have to."""

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {
            "v": 1,
            "federation": self.federation,
            "version": self.version,
            "issued_at": self.issued_at,
            "expires_at": self.expires_at,
            "threshold": self.threshold,
            "min_sites": self.min_sites,
            "small_groups": self.small_groups,
            "holders": None
            if self.holders is None
            else {"quorum": self.holders.quorum, "threshold": self.holders.threshold},
            "members": {name: member.to_json() for name, member in self.members.items()},
        }

    @classmethod
    def from_json(cls, value: canonical.Json) -> Roster:
        """Read a roster, and see that it makes sense in itself."""
        fields = canonical.Fields(value, "roster")
        fields.integer("v", 1, 1)
        roster = cls(
            federation=check_name(fields.string("federation"), "roster.federation"),
            version=fields.integer("version", 1, 10**9),
            issued_at=fields.integer("issued_at", 0, _MAX_TIME),
            expires_at=fields.integer("expires_at", 0, _MAX_TIME),
            threshold=fields.integer("threshold", 1, MAX_MEMBERS),
            min_sites=fields.integer("min_sites", 2, MAX_MEMBERS),
            small_groups=fields.boolean("small_groups"),
            members={name: Member.from_json(name, value) for name, value in fields.object("members").items()},
        )
        stated = fields.maybe("holders", lambda name: _thresholds(fields.object(name)))
        fields.end()
        if stated is not None:
            roster = replace(roster, holders=thresholds_of(len(roster.having(Role.HOLDER)), *stated))
        roster.check()
        return roster

    def check_valid(self, now: float) -> None:
        """Check that it has not expired."""
        if now >= self.expires_at:
            raise WireError(
                Reason.ROSTER_EXPIRED,
                f"{self.title} has expired",
                "ask the coordinator for a new one: `he-agg roster next`",
            )

    def check(self) -> None:
        """Check that the roster makes sense in itself.

        Raises:
            WireError: too many members, a key twice, fewer coordinators than have to sign, a site that nothing can be
                sealed to, small groups that it does not allow, or validity for too long.
        """
        keys = [member.signing_key for member in self.members.values()]
        if len(keys) > MAX_MEMBERS or len(set(keys)) != len(keys):
            raise WireError(Reason.BAD_FIELD, f"roster: expected at most {MAX_MEMBERS} members, each with its own key")
        if len(self.having(Role.COORDINATOR)) < self.threshold:
            raise WireError(
                Reason.BAD_FIELD,
                f"roster: its threshold is {self.threshold}, and it has "
                f"{counted(len(self.having(Role.COORDINATOR)), 'coordinator')}",
            )
        for name, member in self.having(Role.SITE).items():
            if member.receiving is None:
                raise WireError(Reason.BAD_FIELD, f"roster: site {name} has no key that a group key can be sealed to")
        if (self.holders is None) != (not self.having(Role.HOLDER)):
            raise WireError(
                Reason.BAD_FIELD,
                "roster.holders: expected how many holders it takes where members hold shares, and null otherwise",
            )
        if self.holders is not None:
            require_claim(self.holders, self.min_sites)
        least = majority(len(self.having(Role.SITE)))
        if self.small_groups != (self.min_sites < least):
            raise WireError(
                Reason.BAD_FIELD,
                f"roster: expected small_groups to say whether min_sites is below {least}, got min_sites "
                f"{self.min_sites} and small_groups {str(self.small_groups).lower()}",
                "smaller groups need everybody's consent: a roster made with --allow-small-groups",
            )
        if not 0 < self.expires_at - self.issued_at <= MAX_VALID_S:
            raise WireError(Reason.BAD_FIELD, f"roster: expected it to be good for at most {MAX_VALID_S // 86400} days")


def thresholds_of(holders: int, quorum: int, threshold: int) -> Thresholds:
    """Return thresholds that a list of holders can have.

    Raises:
        WireError: it cannot have these.
    """
    try:
        return Thresholds(holders, quorum, threshold)
    except PlanError as error:
        raise WireError(Reason.BAD_FIELD, f"roster.holders: {error.message}", error.hint) from error


def require_claim(thresholds: Thresholds, min_sites: int) -> int:
    """Return how many holders the aggregator may have on its side: at least one.

    Raises:
        WireError: it and one of them could read an update.
    """
    try:
        return thresholds.require_claim(min_sites)
    except PlanError as error:
        raise WireError(Reason.BAD_FIELD, f"roster.holders: {error.message}", error.hint) from error


def _thresholds(value: canonical.Json) -> tuple[int, int]:
    fields = canonical.Fields(value, "roster.holders")
    quorum, threshold = fields.integer("quorum", 1, MAX_HOLDERS), fields.integer("threshold", 1, MAX_HOLDERS)
    fields.end()
    return quorum, threshold


def check_signed(signed: Signed[Roster], by: Roster | None = None) -> None:
    """Check that enough coordinators have signed a roster: its own, or those of another one."""
    by = by or signed.body
    signers = signed.signers(by.keys_of(Role.COORDINATOR))
    if len(signers) < by.threshold:
        raise WireError(
            Reason.BAD_SIGNATURE,
            f"{signed.body.title}: expected the signatures of {counted(by.threshold, 'coordinator')} of version "
            f"{by.version}, "
            f"got {len(signers)}",
            "a coordinator signs with `he-agg roster sign`",
        )


def check_follows(signed: Signed[Roster], previous: Signed[Roster]) -> None:
    """Check that a roster is the next version of one that is trusted.

    Raises:
        WireError: another federation or version, or too few signatures of the coordinators before or now.
    """
    before, now = previous.body, signed.body
    if (now.federation, now.version) != (before.federation, before.version + 1):
        raise WireError(
            Reason.ROSTER_MISMATCH,
            f"expected version {before.version + 1} of the roster of {before.federation}, "
            f"got version {now.version} of {now.federation}",
        )
    check_signed(signed, before)
    check_signed(signed)
