"""Signed documents: a body in canonical JSON, what kind of document it is, and who signed it.

The signature covers ``"he-agg/<kind>/v1" 0x00 SHA-256(canonical body)``, so a signature on one kind of document is
none on another. A document's id is the SHA-256 of all of it, signatures included: whoever names an id names who
signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from he_agg import canonical
from he_agg.errors import Reason, WireError
from he_agg.ids import check_name
from he_agg.signing import SIGNATURE_BYTES, SigningKey, verify

__all__ = ["Signed"]

_MAX_SIGNATURES = 64


@dataclass(frozen=True)
class Signed:
    """A document and its signatures. Nothing is proven until `signers` was asked.

    Attributes:
        kind: what the body is: "roster", "manifest", "record", "receipt", "epoch", "commitment".
        body: the canonical bytes of the body.
        signatures: 64 bytes by the name of who signed.
    """

    kind: str
    body: bytes
    signatures: Mapping[str, bytes]

    @classmethod
    def make(cls, kind: str, body: bytes, name: str, key: SigningKey) -> Signed:
        """Sign a body.

        Args:
            body: canonical bytes.
        """
        return cls(kind, body, {}).signed_by(name, key)

    def signed_by(self, name: str, key: SigningKey) -> Signed:
        """Return the same document with one more signature."""
        return replace(self, signatures={**self.signatures, name: key.sign(self._message)})

    def signers(self, keys: Mapping[str, bytes]) -> frozenset[str]:
        """Name those of the given members whose key has signed this body; other signatures count for nothing."""
        return frozenset(
            name
            for name, signature in self.signatures.items()
            if name in keys and verify(keys[name], signature, self._message)
        )

    @cached_property
    def _message(self) -> bytes:
        return f"he-agg/{self.kind}/v1\0".encode() + hashlib.sha256(self.body).digest()

    def to_json(self) -> canonical.Json:
        """Return the document as a JSON value, for nesting."""
        return {
            "v": 1,
            "kind": self.kind,
            "body": canonical.parse(self.body, len(self.body)),
            "signatures": {name: signature.hex() for name, signature in self.signatures.items()},
        }

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.encode(self.to_json())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, 64 hex digits."""
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def parse(cls, data: bytes, kind: str, max_bytes: int) -> Signed:
        """Read a document of one kind. No signature is looked at.

        Raises:
            WireError: anything but one canonical document of that kind.
        """
        return cls.from_json(canonical.parse(data, max_bytes), kind)

    @classmethod
    def from_json(cls, value: canonical.Json, kind: str) -> Signed:
        """Read a document that is nested in another one.

        Raises:
            WireError: not a document of that kind.
        """
        fields = canonical.Fields(value, kind)
        fields.integer("v", 1, 1)
        got = fields.string("kind", 63)
        body, signatures = fields.object("body"), fields.object("signatures")
        fields.end()
        if got != kind:
            raise WireError(Reason.BAD_FIELD, f"expected a signed {kind}, got another kind of document")
        if len(signatures) > _MAX_SIGNATURES:
            raise WireError(Reason.TOO_LARGE, f"{kind}: expected at most {_MAX_SIGNATURES} signatures")
        for name, signature in signatures.items():
            check_name(name, f"{kind}.signatures")
            canonical.check_hex(signature, SIGNATURE_BYTES, f"{kind}.signatures")
        return cls(kind, canonical.encode(body), {name: bytes.fromhex(text) for name, text in signatures.items()})
