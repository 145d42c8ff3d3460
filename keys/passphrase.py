"""Get passphrases without asking anybody: from an open file descriptor or the operating system's keyring.

Never from an argument or an environment variable: other users and core dumps can see both.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from he_agg.errors import ConfigError, KeystoreError, Reason

__all__ = ["Once", "from_descriptor", "from_keyring"]

KEYRING_SERVICE = "he-agg"
_MAX_BYTES = 1024


class Once:
    """A passphrase that is asked for when it is first needed, and then no more."""

    def __init__(self, source: Callable[[], str | None]) -> None:
        self._source = source
        self._answer: str | None = None

    def __call__(self) -> str | None:
        """Return the passphrase."""
        if self._answer is None:
            self._answer = self._source()
        return self._answer

    @property
    def answer(self) -> str | None:
        """The passphrase if it was needed so far, else None."""
        return self._answer

    def __repr__(self) -> str:
        return "Once(<passphrase>)"


def from_descriptor(descriptor: int) -> str:
    """Read a passphrase from an open file descriptor: its first line."""
    data = b""
    try:
        while b"\n" not in data and len(data) <= _MAX_BYTES and (chunk := os.read(descriptor, _MAX_BYTES)):
            data += chunk
    except OSError as error:
        raise KeystoreError(
            Reason.WRONG_PASSPHRASE,
            f"file descriptor {descriptor} cannot be read: {error.strerror}",
            "open it for the command: he-agg ... --passphrase-fd 3 3<FILE",
        ) from error
    line = data.split(b"\n")[0].rstrip(b"\r")
    try:
        passphrase = line.decode()
    except UnicodeDecodeError:
        # Without the cause: it would show what was read.
        raise KeystoreError(
            Reason.WRONG_PASSPHRASE, f"file descriptor {descriptor}: expected a line of UTF-8 text"
        ) from None
    if not passphrase or len(line) > _MAX_BYTES:
        raise KeystoreError(
            Reason.WRONG_PASSPHRASE, f"file descriptor {descriptor}: expected a passphrase of 1 to {_MAX_BYTES} bytes"
        )
    return passphrase


def from_keyring(name: str) -> str:
    """Ask the operating system's keyring for an entry of the service `he-agg`."""
    try:
        import keyring
    except ModuleNotFoundError as error:
        raise ConfigError(
            Reason.BAD_CONFIG,
            "the operating system's keyring needs the module 'keyring', which is not installed",
            "install it with: pip install 'he-agg[keyring]'",
        ) from error
    store = f"store it with: keyring set {KEYRING_SERVICE} {name}"
    try:
        passphrase = keyring.get_password(KEYRING_SERVICE, name)
    except Exception as error:  # every backend has errors of its own
        raise KeystoreError(
            Reason.WRONG_PASSPHRASE, f"the operating system's keyring cannot be used: {type(error).__name__}", store
        ) from None
    if not passphrase:
        raise KeystoreError(
            Reason.WRONG_PASSPHRASE, f"the keyring has no entry {name!r} of service {KEYRING_SERVICE}", store
        )
    return str(passphrase)
