"""Passphrases for commands: the terminal, and the options that name another place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import click

from he_agg.errors import ConfigError, KeystoreError, Reason
from he_agg.host.commands import messages
from keys.hardening import harden_command
from keys.passphrase import Once, from_descriptor, from_keyring

__all__ = [
    "PassphraseOptions",
    "ask_passphrase",
    "new_passphrase",
    "new_passphrase_options",
    "passphrase_options",
]


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


@dataclass(frozen=True)
class PassphraseOptions:
    """Where the passphrase comes from: at most one of two places, else the terminal."""

    fd: int | None
    keyring: str | None

    @property
    def given(self) -> bool:
        """Whether a place is named."""
        if self.fd is not None and self.keyring is not None:
            raise ConfigError(Reason.BAD_CONFIG, "expected --passphrase-fd or --keyring, got both")
        return self.fd is not None or self.keyring is not None

    def source(self) -> Once:
        """Return what gets the passphrase of existing files, if one is needed."""
        if not self.given:
            return Once(ask_passphrase)
        if self.fd is not None:
            return Once(partial(from_descriptor, self.fd))
        return Once(partial(from_keyring, self.keyring or ""))


def passphrase_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Make a command handle secrets: harden its process, and put the options that name a passphrase in front."""

    @click.option("--keyring", metavar="NAME", help="Take the passphrase from entry NAME of the system's keyring.")
    @click.option("--passphrase-fd", type=int, metavar="N", help="Take the passphrase from open file descriptor N.")
    @wraps(command)
    def hardened(*, passphrase_fd: int | None, keyring: str | None, **given: Any) -> Any:
        harden_command()
        return command(PassphraseOptions(passphrase_fd, keyring), **given)

    return hardened


def new_passphrase_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add options for the passphrase of new files, or none at all; `new_passphrase` reads them."""
    protect = click.option(
        "--passphrase/--no-passphrase",
        "protect",
        default=None,
        help="Protect the file by a passphrase, or by its permissions alone. [default: ask, if there is a terminal]",
    )
    return passphrase_options(protect(command))


def new_passphrase(protect: bool | None, options: PassphraseOptions) -> str | None:
    """Get the passphrase of a new file; None for no passphrase. See docs/decisions/0013."""
    given = options.given
    if given and protect is False:
        raise ConfigError(Reason.BAD_CONFIG, "expected either --no-passphrase or a place to take one from, got both")
    if given:
        return options.source()()
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
