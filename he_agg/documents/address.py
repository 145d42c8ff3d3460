"""Read and write an address: where sites reach an aggregator, and which certificate they will find there.

The aggregator signs its own, so whoever has compared its fingerprint knows the certificate too; or a coordinator signs
it, for an aggregator behind somebody else's proxy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from he_agg import canonical
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError

__all__ = ["Address", "check_address"]

_URL = re.compile(r"https?://[^\s?#@\x00-\x1f\x7f]{1,2000}")
_MAX_CERTIFICATE = 2**16


@dataclass(frozen=True)
class Address:
    """Where sites reach an aggregator.

    Attributes:
        url: https://host[:port][/path]; http:// on the very same machine.
        certificate: what sites trust there and nothing else, PEM; empty where the system's authorities vouch for it.
    """

    KIND: ClassVar[str] = "address"
    MAX_BYTES: ClassVar[int] = 2**17

    url: str
    certificate: str = ""

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"address {self.url}"

    @property
    def author(self) -> None:
        """The aggregator or a coordinator."""

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {"v": 1, "url": self.url, "certificate": self.certificate}

    @classmethod
    def from_json(cls, value: canonical.Json) -> Address:
        """Read an address."""
        fields = canonical.Fields(value, "address")
        fields.integer("v", 1, 1)
        address = cls(fields.string("url", 2048), fields.string("certificate", _MAX_CERTIFICATE))
        fields.end()
        if not _URL.fullmatch(address.url):
            raise WireError(Reason.BAD_FIELD, "address.url: expected https://host[:port][/path], got something else")
        return address


def check_address(signed: Signed[Address], roster: Roster) -> None:
    """Check that an aggregator or a coordinator of a roster has signed an address."""
    may: Mapping[str, bytes] = roster.keys_of(Role.AGGREGATOR) | roster.keys_of(Role.COORDINATOR)
    signed.check_signed(may)
