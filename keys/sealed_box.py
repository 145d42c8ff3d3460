"""The container of a keystore file: a public header, and a body that a passphrase may protect.

With a passphrase the body is ChaCha20-Poly1305 under an Argon2id key, the header bound as associated data. Without
one the file's permissions are all that protects it, and the header says so.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from he_agg import canonical
from he_agg.errors import KeystoreError, Reason, WireError

__all__ = ["Passphrase", "close_box", "header_of", "open_box"]

Passphrase = str | Callable[[], str | None] | None
"""A passphrase, what asks for it, or none."""

_MAX_BYTES = 64 * 2**20
_ARGON2ID = {"iterations": 3, "lanes": 4, "memory_kib": 64 * 1024}
"""RFC 9106, section 4, second recommended option: t = 3, p = 4, 64 MiB."""


def close_box(header: canonical.Json, body: bytes, passphrase: Passphrase) -> bytes:
    """Put a keystore file together.

    Args:
        header: public facts: kind, names, ids. Bound to the body when there is a passphrase.
        passphrase: None leaves the body readable to whoever can read the file.
    """
    secret = _ask(passphrase)
    if secret is None:
        protection: canonical.Json = {"kind": "none"}
        sealed = body
    else:
        salt, nonce = os.urandom(16), os.urandom(12)
        protection = {"kind": "argon2id-chacha20poly1305", "salt": salt.hex(), "nonce": nonce.hex(), **_ARGON2ID}
        aad = canonical.encode({"header": header, "protection": protection})
        sealed = ChaCha20Poly1305(_derive(secret, salt)).encrypt(nonce, body, aad)
    document = {"header": header, "protection": protection, "body": base64.b64encode(sealed).decode()}
    return canonical.encode(document)


def header_of(data: bytes, what: str) -> canonical.Json:
    """Read the public facts of a keystore file. Nothing is opened, and nothing is proven about them."""
    return _parse(data, what)[0]


def open_box(data: bytes, passphrase: Passphrase, what: str) -> tuple[canonical.Json, bytes]:
    """Take a keystore file apart.

    Args:
        passphrase: asked for only if the file has one.
        what: the file's name in error messages.
    """
    header, protection, sealed = _parse(data, what)
    fields = canonical.Fields(protection, "protection")
    kind = fields.string("kind")
    if kind == "none":
        return header, sealed
    if kind != "argon2id-chacha20poly1305" or any(protection.get(name) != value for name, value in _ARGON2ID.items()):
        raise KeystoreError(Reason.KEYSTORE_CORRUPT, f"{what}: protected in a way this version does not know")
    secret = _ask(passphrase)
    if secret is None:
        raise KeystoreError(
            Reason.WRONG_PASSPHRASE, f"{what} is protected by a passphrase, got none", "give the passphrase"
        )
    try:
        salt, nonce = bytes.fromhex(fields.hex("salt", 16)), bytes.fromhex(fields.hex("nonce", 12))
        aad = canonical.encode({"header": header, "protection": protection})
        return header, ChaCha20Poly1305(_derive(secret, salt)).decrypt(nonce, sealed, aad)
    except WireError as error:
        raise KeystoreError(Reason.KEYSTORE_CORRUPT, f"{what}: {error.message}") from error
    except InvalidTag as error:
        raise KeystoreError(Reason.WRONG_PASSPHRASE, f"{what}: wrong passphrase, or the file was changed") from error


def _parse(data: bytes, what: str) -> tuple[canonical.Json, canonical.Json, bytes]:
    try:
        fields = canonical.Fields(canonical.parse(data, _MAX_BYTES), "keystore")
        header, protection = fields.object("header"), fields.object("protection")
        sealed = base64.b64decode(fields.string("body", _MAX_BYTES), validate=True)
        fields.end()
    except (WireError, binascii.Error) as error:
        raise KeystoreError(
            Reason.KEYSTORE_CORRUPT, f"{what} is not a keystore file, or is damaged", "restore it from your backup"
        ) from error
    return header, protection, sealed


def _derive(secret: str, salt: bytes) -> bytes:
    derivation = Argon2id(
        salt=salt,
        length=32,
        iterations=_ARGON2ID["iterations"],
        lanes=_ARGON2ID["lanes"],
        memory_cost=_ARGON2ID["memory_kib"],
    )
    return derivation.derive(secret.encode())


def _ask(passphrase: Passphrase) -> str | None:
    return passphrase() if callable(passphrase) else passphrase
