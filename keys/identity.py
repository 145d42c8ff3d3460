"""A site's identity: an Ed25519 key pair that is the site's alone and never leaves it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from he_agg import canonical
from he_agg.errors import KeystoreError, Reason, WireError
from he_agg.ids import check_name
from keys.sealed_box import Passphrase, close_box, open_box
from keys.secret_file import read_secret, write_secret

__all__ = ["SiteIdentity"]

KIND = "he-agg-identity"
VERSION = 1


@dataclass(frozen=True)
class SiteIdentity:
    """Name and signing key of one site.

    Attributes:
        site: its name.
        signing_key: Ed25519. Secret.
    """

    site: str
    signing_key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def create(cls, site: str) -> SiteIdentity:
        """Make a fresh identity.

        Raises:
            WireError: not a site name.
        """
        return cls(check_name(site, "site"), Ed25519PrivateKey.generate())

    @property
    def public_key(self) -> bytes:
        """The verification key. 32 bytes."""
        return self.signing_key.public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> str:
        """What two people compare over the phone: 32 hex digits in groups of four."""
        digest = hashlib.sha256(b"he-agg/site/v1\0" + self.site.encode() + b"\0" + self.public_key).hexdigest()
        return " ".join(digest[i : i + 4] for i in range(0, 32, 4))

    def save(self, path: str | Path, passphrase: Passphrase = None) -> None:
        """Write the identity file: mode 0600, atomic, never over an existing one.

        Raises:
            KeystoreError: the file exists, or cannot be written.
        """
        write_secret(Path(path), close_box(self._header(), self.signing_key.private_bytes_raw(), passphrase))

    @classmethod
    def load(cls, path: str | Path, passphrase: Passphrase = None) -> SiteIdentity:
        """Read an identity file.

        Raises:
            KeystoreError: permissions, damage, wrong passphrase, or contents that do not fit the header.
        """
        what = str(path)
        header, body = open_box(read_secret(Path(path)), passphrase, what)
        if header.get("kind") != KIND or header.get("v") != VERSION:
            raise KeystoreError(
                Reason.KEYSTORE_CORRUPT, f"{what}: expected an identity of format version {VERSION}, got another file"
            )
        try:
            identity = cls(check_name(header.get("site"), "site"), Ed25519PrivateKey.from_private_bytes(body))
        except (WireError, ValueError) as error:
            raise KeystoreError(Reason.KEYSTORE_CORRUPT, f"{what}: the identity in it is damaged") from error
        if header != identity._header():
            raise KeystoreError(Reason.KEY_MISMATCH, f"{what}: its key is not the one its header names")
        return identity

    def _header(self) -> canonical.Json:
        return {"kind": KIND, "v": VERSION, "site": self.site, "public_key": self.public_key.hex()}
