"""Read and write the public file of a member, `NAME.public.json`: its name and public keys. It goes to the coordinator.

Nothing in it is secret, and nothing proves whose it is: that is what comparing the fingerprint is for.
"""

from __future__ import annotations

from dataclasses import dataclass

from he_agg import canonical
from he_agg.documents.address import Address
from he_agg.documents.roster import Member
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError

__all__ = ["PublicFile"]

_MAX_BYTES = 2**18


@dataclass(frozen=True)
class PublicFile:
    """What a public file says.

    Attributes:
        member: without roles; they are the roster's to give.
        address: where it is, of an aggregator that says so; signed with its key.
    """

    member: Member
    address: Signed[Address] | None = None

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        public = Member(self.member.name, self.member.signing_key, frozenset(), self.member.receiving)
        document: dict[str, canonical.Json] = {"v": 1, "name": self.member.name, "public": public.to_json()}
        if self.address is not None:
            document["address"] = canonical.parse(self.address.encode(), Address.MAX_BYTES)
        return canonical.encode(document)

    @classmethod
    def parse(cls, data: bytes) -> PublicFile:
        """Read a public file.

        Raises:
            WireError: another file, or an address that the member has not signed.
        """
        value = canonical.parse(data.strip(), _MAX_BYTES)
        fields = canonical.Fields(value, "public file")
        fields.integer("v", 1, 1)
        name, public = fields.string("name"), fields.object("public")
        address = Signed.from_json(Address, fields.object("address")) if "address" in value else None
        fields.end()
        member = Member.from_json(name, public)
        if member.roles:
            raise WireError(Reason.BAD_FIELD, "public file: expected no roles, the roster gives them")
        if address is not None:
            address.check_signed({name: member.public_key})
        return cls(member, address)
