"""Where passphrases come from: the terminal, an open file descriptor, or the keyring of the operating system.

Never from an argument or an environment variable: other users and core dumps can see both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from he_agg.commands import messages
from he_agg.errors import ConfigError, KeystoreError, Reason

__all__ = [
    "Once",
    "ask_passphrase",
    "from_descriptor",
    "from_keyring",
    "new_passphrase",
    "new_passphrase_options",
    "passphrase_options",
    "passphrase_source",
]

F = TypeVar("F", bound=Callable[..., Any])

KEYRING_SERVICE = "he-agg"
_MAX_BYTES = 1024


def ask_passphrase() -> str:
    """Ask on the terminal, without echo, once."""
    if not sys.stdin.isatty():
        raise KeystoreError(
            Reason.WRONG_PASSPHRASE,
            "a passphrase is needed, and there is no terminal to ask for it on",
            "a site's settings can name a passphrase_file; commands take --passphrase-fd and --keyring",
        )
    passphrase: str = click.prompt("Passphrase", hide_input=True, err=True)
    return passphrase


class Once:
    """A passphrase that is asked for when it is first needed, and then no more.

    Args:
        source: asks for it.
    """

    def __init__(self, source: Callable[[], str]) -> None:
        self._source = source
        self._answer: str | None = None

    def __call__(self) -> str:
        """The passphrase."""
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
    """Read a passphrase from an open file descriptor: its first line.

    Raises:
        KeystoreError: nothing to read there.
    """
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
    """Ask the operating system's keyring for an entry of the service `he-agg`.

    Raises:
        ConfigError: the extra `keyring` is not installed.
        KeystoreError: no such entry, or no keyring.
    """
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


def passphrase_options(command: F) -> F:
    """Options that say where the passphrase of existing files comes from; `passphrase_source` reads them."""
    for option in (
        click.option("--keyring", metavar="NAME", help="Take the passphrase from entry NAME of the system's keyring."),
        click.option("--passphrase-fd", type=int, metavar="N", help="Take the passphrase from open file descriptor N."),
    ):
        command = option(command)
    return command


def new_passphrase_options(command: F) -> F:
    """The same for new files, and whether they get one at all; `new_passphrase` reads them."""
    protect = click.option(
        "--passphrase/--no-passphrase",
        "protect",
        default=None,
        help="Protect the file by a passphrase, or by its permissions alone. [default: ask, if there is a terminal]",
    )
    return passphrase_options(protect(command))


def passphrase_source(passphrase_fd: int | None, keyring: str | None) -> Once:
    """Where the passphrase comes from, if one is needed.

    Raises:
        ConfigError: two places at once.
    """
    _one_place(passphrase_fd, keyring)
    if passphrase_fd is not None:
        return Once(lambda: from_descriptor(passphrase_fd))
    if keyring is not None:
        return Once(lambda: from_keyring(keyring))
    return Once(ask_passphrase)


def new_passphrase(protect: bool | None, passphrase_fd: int | None, keyring: str | None) -> str | None:
    """The passphrase of a new file; None for no passphrase. See docs/decisions/0013.

    Raises:
        ConfigError: contradicting options.
        KeystoreError: nothing where the passphrase should be.
    """
    _one_place(passphrase_fd, keyring)
    given = passphrase_fd is not None or keyring is not None
    if given and protect is False:
        raise ConfigError(Reason.BAD_CONFIG, "expected either --no-passphrase or a place to take one from, got both")
    if given:
        return passphrase_source(passphrase_fd, keyring)()
    if protect is None and not sys.stdin.isatty():
        messages.print("no passphrase: whoever can read the file can use it (--passphrase to set one)", markup=False)
    if protect is False or (protect is None and not sys.stdin.isatty()):
        return None
    if protect:
        passphrase: str = click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True)
    else:
        passphrase = click.prompt(
            "New passphrase (empty for none)",
            default="",
            show_default=False,
            hide_input=True,
            confirmation_prompt=True,
            err=True,
        )
    return passphrase or None


def _one_place(passphrase_fd: int | None, keyring: str | None) -> None:
    if passphrase_fd is not None and keyring is not None:
        raise ConfigError(Reason.BAD_CONFIG, "expected --passphrase-fd or --keyring, got both")
