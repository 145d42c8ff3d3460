"""Read and write an epoch's documents: the bundle that carries the sealed group key, and each site's word for it.

The aggregator stores and hands out bundles. What it can read of one is below; what it cannot is the key.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from he_agg import canonical
from he_agg.documents.roster import MAX_MEMBERS
from he_agg.errors import Reason, WireError
from he_agg.ids import check_name

__all__ = ["MAX_BUNDLE_BYTES", "MAX_COMMITMENT_BYTES", "Commitment", "EpochBundle"]

MAX_BUNDLE_BYTES = 64 * 2**20
MAX_COMMITMENT_BYTES = 2**14
_MAX_SEALED = 2**14
_MAX_PAYLOAD = 2**24


@dataclass(frozen=True)
class EpochBundle:
    """A group key on its way to the sites.

    Attributes:
        plan_id: the plan that the key is for, 64 hex digits.
        key_id: commitment to the key, 64 hex digits.
        roster: digest of the roster whose sites can open it, 64 hex digits.
        roster_version: its version.
        payload: the key, under a one-time content key.
        sealed: the content key, sealed to each site, by name.
    """

    KIND: ClassVar[str] = "epoch"
    MAX_BYTES: ClassVar[int] = MAX_BUNDLE_BYTES

    federation: str
    epoch: int
    plan_id: str
    key_id: str
    roster: str
    roster_version: int
    dealer: str
    payload: bytes
    sealed: Mapping[str, bytes]

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"bundle of epoch {self.epoch}"

    @property
    def author(self) -> str:
        """Its dealer."""
        return self.dealer

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {
            "v": 1,
            "federation": self.federation,
            "epoch": self.epoch,
            "plan_id": self.plan_id,
            "key_id": self.key_id,
            "roster": self.roster,
            "roster_version": self.roster_version,
            "dealer": self.dealer,
            "payload": base64.b64encode(self.payload).decode(),
            "sealed": {site: base64.b64encode(data).decode() for site, data in self.sealed.items()},
        }

    @classmethod
    def from_json(cls, value: canonical.Json) -> EpochBundle:
        """Read a bundle."""
        fields = canonical.Fields(value, "epoch bundle")
        fields.integer("v", 1, 1)
        sealed = fields.object("sealed")
        if not 1 <= len(sealed) <= MAX_MEMBERS:
            raise WireError(Reason.BAD_FIELD, f"epoch bundle: expected 1 to {MAX_MEMBERS} sites")
        bundle = cls(
            federation=check_name(fields.string("federation"), "epoch bundle.federation"),
            epoch=fields.integer("epoch", 1, 10**9),
            plan_id=fields.hex("plan_id", 32),
            key_id=fields.hex("key_id", 32),
            roster=fields.hex("roster", 32),
            roster_version=fields.integer("roster_version", 1, 10**9),
            dealer=check_name(fields.string("dealer"), "epoch bundle.dealer"),
            payload=_base64(fields.string("payload", _MAX_PAYLOAD), "payload"),
            sealed={check_name(site, "epoch bundle.sealed"): _base64(text, "sealed") for site, text in sealed.items()},
        )
        fields.end()
        return bundle


@dataclass(frozen=True)
class Commitment:
    """A site's word that it holds the key of an epoch. Equal key ids mean equal keys.

    Attributes:
        key_id: commitment to the key that the site holds, 64 hex digits.
    """

    KIND: ClassVar[str] = "commitment"
    MAX_BYTES: ClassVar[int] = MAX_COMMITMENT_BYTES

    federation: str
    epoch: int
    key_id: str
    site: str

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"commitment of site {self.site}"

    @property
    def author(self) -> str:
        """Its site."""
        return self.site

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {"v": 1, "federation": self.federation, "epoch": self.epoch, "key_id": self.key_id, "site": self.site}

    @classmethod
    def from_json(cls, value: canonical.Json) -> Commitment:
        """Read a commitment."""
        fields = canonical.Fields(value, "commitment")
        fields.integer("v", 1, 1)
        commitment = cls(
            check_name(fields.string("federation"), "commitment.federation"),
            fields.integer("epoch", 1, 10**9),
            fields.hex("key_id", 32),
            check_name(fields.string("site"), "commitment.site"),
        )
        fields.end()
        return commitment


def _base64(text: canonical.Json, what: str) -> bytes:
    limit = _MAX_SEALED if what == "sealed" else _MAX_PAYLOAD
    if not isinstance(text, str) or len(text) > limit:
        raise WireError(Reason.BAD_FIELD, f"epoch bundle.{what}: expected at most {limit} characters of Base64")
    return canonical.from_base64(text, f"epoch bundle.{what}")
