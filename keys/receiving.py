"""Hold the key pair that secrets are sealed to: HPKE, hybrid (ML-KEM-768 with X25519) or X25519 alone.

HPKE in base mode says nothing about who sealed: whatever is sealed here travels in a signed document.

Source: RFC 9180; suites of `cryptography.hazmat.primitives.hpke`: HKDF-SHA256, ChaCha20-Poly1305.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from he_agg.documents.roster import SUITE_BYTES, Receiving
from he_agg.errors import KeystoreError, Reason

__all__ = ["DEFAULT_SUITE", "ReceivingKey", "seal"]

DEFAULT_SUITE = "mlkem768-x25519"
"""Safe as long as one of the two problems is hard: bundles that are kept stay closed to a later quantum computer."""

_KEMS = {"x25519": KEM.X25519, "mlkem768-x25519": KEM.MLKEM768_X25519}
_SEED_BYTES = 64
_MLKEM_BYTES = 1184


@dataclass(frozen=True)
class ReceivingKey:
    """A private key. Make it with `generate` or `from_bytes`.

    Attributes:
        suite: "x25519" or "mlkem768-x25519".
        x25519: the private key. Secret.
        mlkem: the other half of the hybrid. Secret.
    """

    suite: str
    x25519: X25519PrivateKey = field(repr=False)
    mlkem: MLKEM768PrivateKey | None = field(repr=False, default=None)

    @classmethod
    def generate(cls, suite: str = DEFAULT_SUITE) -> ReceivingKey:
        """Make a fresh key from the operating system's randomness."""
        if suite not in SUITE_BYTES:
            raise ValueError(f"expected a suite out of {', '.join(SUITE_BYTES)}")
        return cls(suite, X25519PrivateKey.generate(), MLKEM768PrivateKey.generate() if suite != "x25519" else None)

    @classmethod
    def from_bytes(cls, suite: str, data: bytes) -> ReceivingKey:
        """Read what `to_bytes` wrote."""
        seed_bytes = 0 if suite == "x25519" else _SEED_BYTES
        if suite not in SUITE_BYTES or len(data) != seed_bytes + 32:
            raise ValueError("not a private key of that suite")
        x25519 = X25519PrivateKey.from_private_bytes(data[seed_bytes:])
        return cls(suite, x25519, MLKEM768PrivateKey.from_seed_bytes(data[:seed_bytes]) if seed_bytes else None)

    def to_bytes(self) -> bytes:
        """Return the private key. Secret."""
        seed = b"" if self.mlkem is None else self.mlkem.private_bytes_raw()
        return seed + self.x25519.private_bytes_raw()

    @property
    def public(self) -> Receiving:
        """What others seal to."""
        mlkem = b"" if self.mlkem is None else self.mlkem.public_key().public_bytes_raw()
        return Receiving(self.suite, (mlkem + self.x25519.public_key().public_bytes_raw()).hex())

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Open what `seal` closed.

        Raises:
            KeystoreError: sealed to another key, for another context, or changed.
        """
        private = self.x25519 if self.mlkem is None else MLKEM768X25519PrivateKey(self.mlkem, self.x25519)
        try:
            return _suite(self.suite).decrypt(sealed, private, info=info)
        except (InvalidTag, ValueError) as error:
            raise KeystoreError(
                Reason.KEY_MISMATCH,
                "what was sealed for this site does not open: it is for another key or purpose, or was changed",
                "compare fingerprints with the coordinator, then ask for a new bundle",
            ) from error


def seal(receiving: Receiving, plaintext: bytes, info: bytes) -> bytes:
    """Seal a secret to a public key.

    Args:
        info: the context, bound to it: it opens with the very same one only.
    """
    raw = bytes.fromhex(receiving.key)
    if receiving.suite == "x25519":
        return _suite("x25519").encrypt(plaintext, X25519PublicKey.from_public_bytes(raw), info=info)
    mlkem = MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_BYTES])
    public = MLKEM768X25519PublicKey(mlkem, X25519PublicKey.from_public_bytes(raw[_MLKEM_BYTES:]))
    return _suite(receiving.suite).encrypt(plaintext, public, info=info)


def _suite(name: str) -> Suite:
    return Suite(_KEMS[name], KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
