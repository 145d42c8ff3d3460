"""Make a certificate of the aggregator's own, for those who have none: sites get it in the start file, and trust it.

It lies in the data directory and is made once. It is good for long, because it cannot be renewed without the sites'
taking the new one; it is worth as much as the aggregator's key, which lies beside it.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from he_agg.errors import ConfigError, Reason
from he_agg.host.files import create_once

__all__ = ["certificate_of", "own_certificate"]

_DAYS = 3650


def own_certificate(data_dir: Path, url: str) -> tuple[Path, Path]:
    """Return certificate and key of this aggregator, PEM; the first time, make both.

    Args:
        url: where sites reach it; the certificate is for that host.

    Raises:
        ConfigError: there is one for another host, or the files cannot be used.
    """
    host = urlsplit(url).hostname or ""
    path = data_dir / "tls-self-signed.pem"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.lexists(path):
            # Key and certificate in one file: it is there with both, or not at all.
            create_once(path, _made(host))
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(
            Reason.BAD_CONFIG, f"{path}: expected a certificate made by `he-agg serve`, got: {error}"
        ) from error
    if _name_of(host) not in list(names):
        had = ", ".join(str(name.value) for name in names)
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"{path} is a certificate for {had}, and --url says {host}",
            "give the url of before; or move the file away, and have every site replace what it trusts",
        )
    return path, path


def certificate_of(path: Path) -> str:
    """Return the certificate of a file that may hold its key too, PEM."""
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(serialization.Encoding.PEM).decode()


def _made(host: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "he-agg aggregator")])
    now = datetime.datetime.now(datetime.UTC)
    public = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks differ.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([_name_of(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(public, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + private


def _name_of(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode())
