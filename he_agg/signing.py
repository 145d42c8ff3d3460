"""Ed25519: the one kind of signature there is. No negotiation, no algorithm field that anybody could change."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["PUBLIC_KEY_BYTES", "SIGNATURE_BYTES", "SigningKey", "verify"]

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


@dataclass(frozen=True)
class SigningKey:
    """A private key. Make it with `generate` or `from_bytes`.

    Attributes:
        private: the key. Secret.
    """

    private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a fresh key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, data: bytes) -> SigningKey:
        """Read a private key."""
        return cls(Ed25519PrivateKey.from_private_bytes(data))

    def to_bytes(self) -> bytes:
        """Return the private key. Secret. 32 bytes."""
        return self.private.private_bytes_raw()

    @cached_property
    def public_key(self) -> bytes:
        """The verification key. 32 bytes."""
        return self.private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Sign. 64 bytes."""
        return self.private.sign(message)


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether a signature is that key's over that message. Any bytes whatsoever give an answer."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        _key_of(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=1024)
def _key_of(public_key: bytes) -> Ed25519PublicKey:
    # The same members sign again and again.
    return Ed25519PublicKey.from_public_bytes(public_key)
