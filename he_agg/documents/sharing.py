"""Read and write what holders receive shares with: each one's sharing key of an epoch, and the list that a round has.

A holder makes a sharing key for each epoch, and signs it. Which keys a round goes by is settled when the round opens:
that list is put together from the keys that were there then, and its digest is in every manifest, so all members deal
to the same holders under the same keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from he_agg import canonical
from he_agg.documents.roster import Receiving, Role, Roster
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError
from he_agg.ids import check_name
from he_agg.sharing.dealing import Holders
from he_agg.sharing.thresholds import MAX_HOLDERS, Thresholds

__all__ = ["MAX_HOLDER_LIST_BYTES", "MAX_SHARING_KEY_BYTES", "HolderList", "SharingKey", "key_documents"]

MAX_SHARING_KEY_BYTES = 2**14
MAX_HOLDER_LIST_BYTES = 1024 + MAX_HOLDERS * MAX_SHARING_KEY_BYTES


@dataclass(frozen=True)
class SharingKey:
    """What shares of one epoch are sealed to for one holder.

    Attributes:
        key: suite and public key.
    """

    KIND: ClassVar[str] = "sharing-key"
    MAX_BYTES: ClassVar[int] = MAX_SHARING_KEY_BYTES

    federation: str
    epoch: int
    holder: str
    key: Receiving

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"sharing key of {self.holder} for epoch {self.epoch}"

    @property
    def author(self) -> str:
        """Its holder."""
        return self.holder

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {
            "v": 1,
            "federation": self.federation,
            "epoch": self.epoch,
            "holder": self.holder,
            "key": self.key.to_json(),
        }

    @classmethod
    def from_json(cls, value: canonical.Json) -> SharingKey:
        """Read a sharing key."""
        fields = canonical.Fields(value, "sharing key")
        fields.integer("v", 1, 1)
        federation, epoch = fields.string("federation"), fields.integer("epoch", 1, 10**9)
        holder = check_name(fields.string("holder"), "sharing key.holder")
        key = Receiving.from_json(holder, fields.object("key"))
        fields.end()
        return cls(check_name(federation, "sharing key.federation"), epoch, holder, key)


@dataclass(frozen=True)
class HolderList:
    """Whom the members of a round deal to. Make it with `of` or `parse`, which check all of it.

    Attributes:
        roster: digest of the roster that the round opened under, 64 hex digits.
        names: all holders of that roster, sorted: the first one's point is 1.
        thresholds: how many it takes.
        keys: their signed sharing keys, of those who have one in this epoch.
    """

    federation: str
    epoch: int
    roster: str
    names: tuple[str, ...]
    thresholds: Thresholds
    keys: Mapping[str, Signed[SharingKey]]

    @classmethod
    def of(cls, roster: Signed[Roster], epoch: int, keys: Iterable[Signed[SharingKey]]) -> HolderList:
        """Put the list together that follows from a roster and sharing keys.

        Raises:
            WireError: a roster without holders; a key of another federation or epoch, of no holder, of one twice, or
                not signed by its holder.
        """
        body = roster.body
        if body.holders is None:
            raise WireError(Reason.ROSTER_MISMATCH, f"{body.title}: expected holders, it has none")
        signing = body.keys_of(Role.HOLDER)
        by_name: dict[str, Signed[SharingKey]] = {}
        for signed in keys:
            key = signed.body
            if (key.federation, key.epoch) != (body.federation, epoch):
                raise WireError(
                    Reason.BAD_FIELD,
                    f"{key.title}: expected epoch {epoch} of {body.federation}, got epoch {key.epoch} of "
                    f"{key.federation}",
                )
            if key.holder not in signing or key.holder in by_name:
                raise WireError(
                    Reason.BAD_FIELD, f"{key.title}: expected one of each holder of version {body.version}, at most"
                )
            signed.check_signed(signing)
            by_name[key.holder] = signed
        names = tuple(sorted(signing))
        return cls(body.federation, epoch, roster.body_digest, names, body.holders, dict(sorted(by_name.items())))

    def encode(self) -> bytes:
        """Return what travels: the roster's digest and the signed keys. The rest follows from the roster."""
        keys = b",".join(signed.encode() for signed in self.keys.values())
        return b'{"epoch":%d,"keys":[%b],"roster":"%b","v":1}' % (self.epoch, keys, self.roster.encode())

    @classmethod
    def parse(cls, data: bytes, roster: Signed[Roster], epoch: int) -> HolderList:
        """Read what `encode` wrote, and hold it against the roster and the epoch that it must be of.

        Raises:
            WireError: another roster or epoch, or see `of`.
        """
        fields = canonical.Fields(canonical.parse(data, MAX_HOLDER_LIST_BYTES), "holders")
        fields.integer("v", 1, 1)
        named, of_epoch = fields.hex("roster", 32), fields.integer("epoch", 1, 10**9)
        documents = fields.array("keys", MAX_HOLDERS)
        fields.end()
        if (named, of_epoch) != (roster.body_digest, epoch):
            raise WireError(
                Reason.ROSTER_MISMATCH,
                f"holders: expected those of roster {roster.body_digest[:12]} in epoch {epoch}, got those of "
                f"{named[:12]} in epoch {of_epoch}",
            )
        return cls.of(roster, epoch, [Signed.from_json(SharingKey, document) for document in documents])

    @staticmethod
    def roster_of(data: bytes) -> str:
        """Return the digest of the roster that an encoded list is of. Nothing else is looked at: see `parse`.

        Raises:
            WireError: it names none.
        """
        return canonical.Fields(canonical.parse(data, MAX_HOLDER_LIST_BYTES), "holders").hex("roster", 32)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of who they are, how many it takes, and what is sealed to whom, 64 hex digits."""
        return canonical.digest(
            {
                "v": 1,
                "federation": self.federation,
                "epoch": self.epoch,
                "roster": self.roster,
                "names": list(self.names),
                "quorum": self.thresholds.quorum,
                "threshold": self.thresholds.threshold,
                "keys": {name: signed.body.key.to_json() for name, signed in self.keys.items()},
            }
        )

    @property
    def is_ready(self) -> bool:
        """Tell whether so many holders have a sharing key that a round can end."""
        return len(self.keys) >= self.thresholds.quorum

    @property
    def receiving(self) -> dict[str, Receiving]:
        """What is sealed to whom."""
        return {name: signed.body.key for name, signed in self.keys.items()}

    @cached_property
    def holders(self) -> Holders:
        """The list as the bytes of a dealing follow from it."""
        suites = tuple(self.keys[name].body.key.suite if name in self.keys else None for name in self.names)
        return Holders(self.names, suites, self.thresholds.threshold)


def key_documents(data: bytes) -> list[bytes]:
    """Return the signed sharing keys of a list that was checked before, as documents of their own."""
    found = canonical.parse(data, MAX_HOLDER_LIST_BYTES)["keys"]
    return [canonical.encode(document) for document in found]
