"""Passphrases for commands: the terminal, and the options that name another place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from he_agg.errors import ConfigError, KeystoreError, Reason
from he_agg.host.commands import messages
from keys.passphrase import Once, from_descriptor, from_keyring

__all__ = [
    "ask_passphrase",
    "new_passphrase",
    "new_passphrase_options",
    "passphrase_options",
    "passphrase_source",
]

F = TypeVar("F", bound=Callable[..., Any])


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


def passphrase_options(command: F) -> F:
    """Add options that say where the passphrase of existing files comes from; `passphrase_source` reads them."""
    for option in (
        click.option("--keyring", metavar="NAME", help="Take the passphrase from entry NAME of the system's keyring."),
        click.option("--passphrase-fd", type=int, metavar="N", help="Take the passphrase from open file descriptor N."),
    ):
        command = option(command)
    return command


def new_passphrase_options(command: F) -> F:
    """Add options for the passphrase of new files, or none at all; `new_passphrase` reads them."""
    protect = click.option(
        "--passphrase/--no-passphrase",
        "protect",
        default=None,
        help="Protect the file by a passphrase, or by its permissions alone. [default: ask, if there is a terminal]",
    )
    return passphrase_options(protect(command))


def passphrase_source(passphrase_fd: int | None, keyring: str | None) -> Once:
    """Find out where the passphrase comes from, if one is needed."""
    _one_place(passphrase_fd, keyring)
    if passphrase_fd is not None:
        return Once(lambda: from_descriptor(passphrase_fd))
    if keyring is not None:
        return Once(lambda: from_keyring(keyring))
    return Once(ask_passphrase)


def new_passphrase(protect: bool | None, passphrase_fd: int | None, keyring: str | None) -> str | None:
    """Get the passphrase of a new file; None for no passphrase. See docs/decisions/0013."""
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
