"""Have a person compare fingerprints: with what was read on the phone and given as an option, or on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

import click

from he_agg.documents.roster import Role, Roster, check_signed
from he_agg.documents.signed import Signed
from he_agg.errors import InputError, Reason, WireError, counted
from he_agg.host.commands import messages

__all__ = ["check_fingerprints", "compare", "fingerprint_option", "first_roster", "heard_of"]

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


def check_fingerprints(roster: Roster, fingerprints: Mapping[str, str]) -> None:
    """Check that members have the fingerprints that were heard over the phone.

    Args:
        fingerprints: by name; spaces, colons and capitals do not matter.
    """
    for name, text in fingerprints.items():
        heard = text.replace(" ", "").replace(":", "").replace("-", "").lower()
        if len(heard) != 32 or not set(heard) <= set("0123456789abcdef"):
            raise InputError(Reason.BAD_ARGUMENT, f"fingerprint of {name}: expected 32 hex digits")
        if name not in roster.members:
            raise InputError(
                Reason.UNKNOWN_SITE, f"the roster has no member {name}", f"it has {', '.join(sorted(roster.members))}"
            )
        shown = roster.members[name].fingerprint
        if shown.replace(" ", "") != heard:
            raise WireError(
                Reason.BAD_SIGNATURE,
                f"fingerprint of {name}: the roster has {shown}, which is not what was given",
                "do not use this roster: somebody may have put a key of their own into it; call the coordinator",
            )


def first_roster(roster: Signed[Roster], fingerprints: Mapping[str, str], now: float) -> None:
    """Check whether a site may pin this roster as its first.

    Whose fingerprint was compared must also have signed: a roster that merely lists somebody is not that person's
    word. Given fingerprints of two, two must have signed, whatever threshold the roster itself claims.

    Args:
        now: Units: seconds since 1970, UTC.
    """
    roster.body.check_valid(now)
    check_signed(roster)
    check_fingerprints(roster.body, fingerprints)
    coordinators = roster.body.keys_of(Role.COORDINATOR)
    compared = [name for name in fingerprints if name in coordinators]
    unsigned = sorted(set(compared) - roster.signers(coordinators))
    if unsigned:
        raise WireError(
            Reason.BAD_SIGNATURE,
            f"the fingerprint of {', '.join(unsigned)} was compared, but {', '.join(unsigned)} has not signed",
            "wait for that signature, or compare the fingerprints of those who signed: `he-agg roster verify`",
        )
    if len(compared) < roster.body.threshold:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"expected fingerprints of {counted(roster.body.threshold, 'coordinator')}, got {len(compared)}",
            "call the coordinators on numbers that you know, and give what they read: "
            '--fingerprint NAME="xxxx xxxx ..."',
        )
