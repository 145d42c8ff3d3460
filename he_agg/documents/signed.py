"""Read, write and verify a signed document: a body in canonical JSON, and who signed it.

The signature covers ``"he-agg/<kind>/v1" 0x00 SHA-256(canonical body)``, so a signature on one kind of document is
none on another. A document's digest covers all of it, signatures included: whoever names it names who signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Generic, Protocol, Self, TypeVar

from he_agg import canonical
from he_agg.errors import Reason, WireError
from he_agg.ids import check_name
from he_agg.signing import SIGNATURE_BYTES, SigningKey, verify

__all__ = ["AnyBody", "Body", "Signed"]

_MAX_SIGNATURES = 64


class Body(Protocol):
    """What a kind of document says.

    Attributes:
        KIND: its name, which the signature covers.
        MAX_BYTES: the longest document of this kind, signatures included.
    """

    KIND: ClassVar[str]
    MAX_BYTES: ClassVar[int]

    @property
    def title(self) -> str:
        """What it is called in messages."""

    @property
    def author(self) -> str | None:
        """Whose signature it carries, and no other; None if it may carry several, of whoever has a role."""

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""

    @classmethod
    def from_json(cls, value: canonical.Json) -> Self:
        """Read what `to_json` wrote, and refuse everything else."""


AnyBody = TypeVar("AnyBody", bound=Body)


@dataclass(frozen=True)
class Signed(Generic[AnyBody]):
    """A document and its signatures. Nothing is proven until `check_signed` or `signers` was asked.

    Attributes:
        signatures: 64 bytes by the name of who signed.
    """

    body: AnyBody
    signatures: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def make(cls, body: AnyBody, key: SigningKey, name: str | None = None) -> Signed[AnyBody]:
        """Sign a body."""
        return cls(body).signed_by(name or body.author or "", key)

    def signed_by(self, name: str, key: SigningKey) -> Signed[AnyBody]:
        """Return the same document with one more signature."""
        return replace(self, signatures={**self.signatures, name: key.sign(self._message)})

    def signers(self, keys: Mapping[str, bytes]) -> frozenset[str]:
        """Name those whose keys are given and who have signed this body. Signatures of others count for nothing."""
        return frozenset(
            name for name, signature in self.signatures.items() if name in keys and self._holds(keys[name], signature)
        )

    def _holds(self, key: bytes, signature: bytes) -> bool:
        """Tell whether a signature is that key's. A body never changes, so each is verified once."""
        if (key, signature) not in self._verified:
            self._verified[key, signature] = verify(key, signature, self._message)
        return self._verified[key, signature]

    @cached_property
    def _verified(self) -> dict[tuple[bytes, bytes], bool]:
        return {}

    def check_signed(self, keys: Mapping[str, bytes]) -> None:
        """Check that its author has signed it or, if it has none, somebody who may.

        Args:
            keys: public keys of those who may sign it, by name.

        Raises:
            WireError: not so.
        """
        author, signers = self.body.author, self.signers(keys)
        if not signers or author not in (None, *signers):
            expected = author or " or ".join(sorted(keys))
            raise WireError(
                Reason.BAD_SIGNATURE, f"{self.body.title}: expected the signature of {expected}, got none that holds"
            )

    @cached_property
    def _encoded_body(self) -> bytes:
        return canonical.encode(self.body.to_json())

    @cached_property
    def body_digest(self) -> str:
        """SHA-256 of the body alone, 64 hex digits: the same, whoever signs later."""
        return hashlib.sha256(self._encoded_body).hexdigest()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, 64 hex digits."""
        return hashlib.sha256(self.encode()).hexdigest()

    @cached_property
    def _message(self) -> bytes:
        return f"he-agg/{self.body.KIND}/v1\0".encode() + hashlib.sha256(self._encoded_body).digest()

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        # Names and hex need nothing of an encoder, and every site encodes the documents of all.
        signatures = ",".join(f'"{name}":"{signature.hex()}"' for name, signature in sorted(self.signatures.items()))
        rest = f',"kind":"{self.body.KIND}","signatures":{{{signatures}}},"v":1}}'
        return b'{"body":%b%b' % (self._encoded_body, rest.encode())

    @classmethod
    def parse(cls, kind: type[AnyBody], data: bytes) -> Signed[AnyBody]:
        """Read a document of one kind. No signature is verified.

        Raises:
            WireError: anything but one canonical document of that kind.
        """
        return cls.read(kind, canonical.parse(data, kind.MAX_BYTES)).of_form(data)

    @classmethod
    def from_json(cls, kind: type[AnyBody], value: canonical.Json) -> Signed[AnyBody]:
        """Read a document that is nested in another one. No signature is verified.

        Raises:
            WireError: not a document of that kind, or an author's that has not one signature, the author's.
        """
        return cls.read(kind, value).of_form(canonical.encode(value))

    @classmethod
    def read(cls, kind: type[AnyBody], value: canonical.Json) -> Signed[AnyBody]:
        """Read a document, and leave it to the caller to hold what it was read from to the one form: see `encode`.

        Raises:
            WireError: as `from_json`.
        """
        what = kind.KIND
        fields = canonical.Fields(value, what)
        fields.integer("v", 1, 1)
        got, body, signatures = fields.string("kind", 63), fields.object("body"), fields.object("signatures")
        fields.end()
        if got != what:
            raise WireError(Reason.BAD_FIELD, f"expected a signed {what}, got another kind of document")
        if len(signatures) > _MAX_SIGNATURES:
            raise WireError(Reason.TOO_LARGE, f"{what}: expected at most {_MAX_SIGNATURES} signatures")
        for name, signature in signatures.items():
            check_name(name, f"{what}.signatures")
            canonical.check_hex(signature, SIGNATURE_BYTES, f"{what}.signatures")
        signed = cls(kind.from_json(body), {name: bytes.fromhex(text) for name, text in signatures.items()})
        author = signed.body.author
        if author is not None and list(signatures) != [author]:
            raise WireError(Reason.BAD_SIGNATURE, f"{what}: expected one signature, that of {author}")
        return signed

    def of_form(self, data: bytes) -> Signed[AnyBody]:
        """Check that what it was read from has each value in its one form: no leading zeros within a string, say.

        Raises:
            WireError: not so.
        """
        if self.encode() != data:
            what = self.body.KIND
            raise WireError(Reason.NOT_CANONICAL, f"{what}: expected each value in its one form, got another")
        return self
