"""Have a person compare fingerprints: with what was read on the phone and given as an option, or on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import click

from he_agg.documents.roster import Roster, check_fingerprints
from he_agg.errors import InputError, Reason
from he_agg.host.commands import messages

__all__ = ["compare", "fingerprint_option", "heard_of"]

fingerprint_option = click.option(
    "--fingerprint",
    "fingerprints",
    multiple=True,
    metavar='NAME="xxxx xxxx ..."',
    help="A fingerprint that was read over the phone. May be given several times.",
)


def heard_of(fingerprints: Sequence[str]) -> dict[str, str]:
    """Read the values of `--fingerprint`."""
    heard: dict[str, str] = {}
    for text in fingerprints:
        name, equals, value = text.partition("=")
        if not equals or name in heard:
            raise InputError(Reason.BAD_ARGUMENT, '--fingerprint: expected NAME="xxxx xxxx ...", one for each name', "")
        heard[name] = value
    return heard


def compare(roster: Roster, names: Iterable[str], heard: dict[str, str], why: str) -> dict[str, str]:
    """Compare members' fingerprints with what was heard, or ask for it on the terminal.

    Args:
        names: whose fingerprints have to be compared.
        heard: what was heard so far, by name; if there is any, nothing is asked.
        why: what it is for, such as "before the roster is signed", in the error for a place without a terminal.

    Returns:
        What was heard, all of which the roster has.

    Raises:
        WireError: the roster has other fingerprints.
        InputError: there is nothing to compare with, and no terminal.
        Abort: the person says that they differ.
    """
    check_fingerprints(roster, heard)
    names = [name for name in names if name not in heard]
    if heard or not names:
        return heard
    if not sys.stdin.isatty():
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"expected the fingerprint of {', '.join(names)}, {why}, and there is no terminal to ask on",
            'call them on numbers that you know, and give what they read: --fingerprint NAME="xxxx xxxx ..."',
        )
    messages.print("Call them on numbers that you know, and have them read their fingerprints:")
    for name in names:
        messages.print(f"  {name:<24} {roster.members[name].fingerprint}", markup=False, soft_wrap=True)
    click.confirm("Did each of them read exactly this?", abort=True, err=True)
    return {name: roster.members[name].fingerprint for name in names}
