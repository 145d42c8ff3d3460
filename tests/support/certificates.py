"""A certificate authority for tests, and what it issues, as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

__all__ = ["Authority", "Issued"]


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates. Its own is `ca_file`.

    Args:
        directory: where files go; made if missing.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._ca = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca_file)

    def issue(self, name: str, *alternatives: str, passphrase: bytes | None = None) -> Issued:
        """A certificate for a host (its names and addresses), or for a client (none)."""
        # Go's TLS, which Caddy has, refuses an empty list of names: a client is named by an address for mail.
        made = self._ca.issue_cert(*(alternatives or (f"{name}@example.org",)), common_name=name)
        issued = Issued(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        made.cert_chain_pems[0].write_to_path(issued.cert)
        key = made.private_key_pem.bytes()
        if passphrase is not None:
            secret = BestAvailableEncryption(passphrase)
            key = load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
        issued.key.touch(0o600)
        issued.key.write_bytes(key)
        return issued
