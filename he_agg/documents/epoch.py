"""An epoch's documents: the bundle that carries the sealed group key, and each site's word that it has it.

The aggregator stores and hands out bundles. What it can read of one is below; what it cannot is the key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from he_agg import canonical
from he_agg.documents.roster import MAX_MEMBERS
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError
from he_agg.ids import check_name
from he_agg.signing import SigningKey

__all__ = ["MAX_BUNDLE_BYTES", "MAX_COMMITMENT_BYTES", "Commitment", "EpochBundle", "SignedBundle", "SignedCommitment"]

MAX_BUNDLE_BYTES = 64 * 2**20
MAX_COMMITMENT_BYTES = 2**14
_MAX_SEALED = 2**14
_MAX_PAYLOAD = 2**24


@dataclass(frozen=True)
class EpochBundle:
    """A group key on its way to the sites.

    Attributes:
        federation: its name.
        epoch: number of the epoch, from 1.
        plan_id: the plan that the key is for, 64 hex digits.
        key_id: commitment to the key, 64 hex digits.
        roster: digest of the roster whose sites can open it, 64 hex digits.
        roster_version: its version.
        dealer: the coordinator that made the key.
        payload: the key, under a one-time content key.
        sealed: the content key, sealed to each site, by name.
    """

    federation: str
    epoch: int
    plan_id: str
    key_id: str
    roster: str
    roster_version: int
    dealer: str
    payload: bytes
    sealed: Mapping[str, bytes]

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.encode(
            {
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
        )

    @classmethod
    def parse(cls, body: bytes) -> EpochBundle:
        """Read a bundle.

        Raises:
            WireError: not one.
        """
        fields = canonical.Fields(canonical.parse(body, MAX_BUNDLE_BYTES), "epoch bundle")
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
class SignedBundle:
    """A bundle and the document that it came in, signed by its dealer."""

    bundle: EpochBundle
    document: Signed

    @classmethod
    def make(cls, bundle: EpochBundle, key: SigningKey) -> SignedBundle:
        """Sign a bundle with the key of its dealer."""
        return cls(bundle, Signed.make("epoch", bundle.encode(), bundle.dealer, key))

    @classmethod
    def parse(cls, data: bytes) -> SignedBundle:
        """Read a signed bundle. The signature is not looked at: ask `check_signed`.

        Raises:
            WireError: not one.
        """
        document = Signed.parse(data, "epoch", MAX_BUNDLE_BYTES)
        return cls(EpochBundle.parse(document.body), document)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return self.document.encode()

    def check_signed(self, coordinators: Mapping[str, bytes]) -> None:
        """Check that its dealer is a coordinator and has signed it.

        Raises:
            WireError: not so.
        """
        if self.bundle.dealer not in self.document.signers(coordinators):
            raise WireError(
                Reason.BAD_SIGNATURE, f"epoch bundle: no coordinator {self.bundle.dealer} of the roster has signed it"
            )


@dataclass(frozen=True)
class Commitment:
    """A site's word that it holds the key of an epoch. Equal key ids mean equal keys.

    Attributes:
        federation: its name.
        epoch: number of the epoch.
        key_id: commitment to the key that the site holds, 64 hex digits.
        site: whose word it is.
    """

    federation: str
    epoch: int
    key_id: str
    site: str

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.encode(
            {"v": 1, "federation": self.federation, "epoch": self.epoch, "key_id": self.key_id, "site": self.site}
        )

    @classmethod
    def parse(cls, body: bytes) -> Commitment:
        """Read a commitment.

        Raises:
            WireError: not one.
        """
        fields = canonical.Fields(canonical.parse(body, MAX_COMMITMENT_BYTES), "commitment")
        fields.integer("v", 1, 1)
        commitment = cls(
            check_name(fields.string("federation"), "commitment.federation"),
            fields.integer("epoch", 1, 10**9),
            fields.hex("key_id", 32),
            check_name(fields.string("site"), "commitment.site"),
        )
        fields.end()
        return commitment


@dataclass(frozen=True)
class SignedCommitment:
    """A commitment and the document that it came in, signed by its site."""

    commitment: Commitment
    document: Signed

    @classmethod
    def make(cls, commitment: Commitment, key: SigningKey) -> SignedCommitment:
        """Sign a commitment with the key of its site."""
        return cls(commitment, Signed.make("commitment", commitment.encode(), commitment.site, key))

    @classmethod
    def parse(cls, data: bytes) -> SignedCommitment:
        """Read a signed commitment. The signature is not looked at: ask `check_signed`.

        Raises:
            WireError: not one.
        """
        return cls.from_document(Signed.parse(data, "commitment", MAX_COMMITMENT_BYTES))

    @classmethod
    def from_document(cls, document: Signed) -> SignedCommitment:
        """Read the body of a signed document; see `parse`."""
        return cls(Commitment.parse(document.body), document)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return self.document.encode()

    def check_signed(self, public_key: bytes) -> None:
        """Check that the site has signed it.

        Raises:
            WireError: it has not.
        """
        if not self.document.signers({self.commitment.site: public_key}):
            raise WireError(
                Reason.BAD_SIGNATURE, f"commitment: the signature is not that of site {self.commitment.site}"
            )


def _base64(text: canonical.Json, what: str) -> bytes:
    limit = _MAX_SEALED if what == "sealed" else _MAX_PAYLOAD
    if not isinstance(text, str) or len(text) > limit:
        raise WireError(Reason.BAD_FIELD, f"epoch bundle.{what}: expected at most {limit} characters of Base64")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError(Reason.BAD_FIELD, f"epoch bundle.{what}: expected Base64") from error
    if base64.b64encode(data).decode() != text:  # the last character has bits that say nothing
        raise WireError(Reason.NOT_CANONICAL, f"epoch bundle.{what}: expected Base64 with its unused bits zero")
    return data
