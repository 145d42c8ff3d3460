"""Commands about rosters: `he-agg roster new|next|sign|verify|accept` and `he-agg site revoke`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from he_agg.documents.roster import Member, Role, Roster, check_follows, check_signed
from he_agg.documents.signed import Signed
from he_agg.errors import HeAggError, InputError, Reason, counted
from he_agg.host.commands import FILE, Whole, answer, json_option, messages
from he_agg.host.comparing import check_fingerprints, compare, fingerprint_option, first_roster, heard_of
from he_agg.host.roster_view import day_of, roster_facts, roster_table, signers_of
from he_agg.host.shell import quoted
from he_agg.ids import check_name
from keys.cli.options import PassphraseOptions, passphrase_options
from keys.files import replace_file, write_new
from keys.identity import Identity
from keys.pinning import follow, keep_old, read_pinned
from keys.public_file import read_public
from keys.rosters import new_roster, next_roster, read_roster, sign_roster

__all__ = [
    "accept_rosters",
    "answers_option",
    "days_option",
    "min_sites_option",
    "roster_accept",
    "roster_new",
    "roster_next",
    "roster_sign",
    "roster_verify",
    "site_revoke",
    "small_groups_option",
]

F = TypeVar("F", bound=Callable[..., Any])

_out = click.option("--out", type=FILE, help="Roster file to write. [default: FEDERATION.roster-VERSION.json]")
days_option = click.option(
    "--days", type=Whole(1, 400), default=365, show_default=True, help="How long it is good for."
)
_threshold = click.option("--threshold", type=Whole(1), help="How many coordinators have to sign.")
min_sites_option = click.option(
    "--min-sites",
    type=Whole(2),
    help="Sites open no sum of fewer sites. [default: more than half of them, at least 3; `next`: as before or more]",
)
answers_option = click.option(
    "--answers",
    type=Whole(1),
    help="How many holders have to answer for a sum: more keep more from the aggregator, fewer may be away. [default: "
    "of 4 holders 2, of 5 3, of 10 4]",
)
small_groups_option = click.option(
    "--allow-small-groups",
    "small_groups",
    is_flag=True,
    help="Let --min-sites be fewer than that. The aggregator can then keep groups apart unnoticed, and in a pair each "
    "site reads the other's update by subtraction: all sites have to agree, and see it.",
)


def _files(option: str, what: str, required: bool = False) -> Callable[[F], F]:
    return click.option(
        f"--{option}", f"{option}s", type=FILE, multiple=True, required=required, metavar="FILE", help=what
    )


@click.command("new")
@click.argument("federation")
@_files("site", "Public file of a site. Once for each.", required=True)
@_files("coordinator", "Public file of a coordinator. It may be a site, too.", required=True)
@_files("aggregator", "Public file of the aggregator, from its operator.", required=True)
@_files("auditor", "Public file of an auditor.")
@_files("operator", "Public file of an operator.")
@_files("holder", "Public file of a holder, where keys are split. It may be a site, too, or a trustee.")
@_threshold
@answers_option
@min_sites_option
@small_groups_option
@days_option
@_out
@json_option
def roster_new(
    federation: str,
    threshold: int | None,
    answers: int | None,
    min_sites: int | None,
    small_groups: bool,
    days: int,
    out: Path | None,
    as_json: bool,
    **files: tuple[Path, ...],
) -> None:
    """Make the first roster of FEDERATION. It counts once enough coordinators have signed it.

    Compare the fingerprint of every member with what that member reads over the phone before anybody signs.
    """
    check_name(federation, "federation")
    members = {role: [read_public(path) for path in files[f"{role}s"]] for role in Role}
    roster = new_roster(
        federation,
        members,
        threshold=threshold,
        answers=answers,
        min_sites=min_sites,
        small_groups=small_groups,
        days=days,
        now=int(time.time()),
    )
    _written(roster, out, as_json)


@click.command("next")
@click.argument("old", type=FILE)
@click.option(
    "--add",
    "added",
    multiple=True,
    metavar="ROLE=FILE",
    help="Add a member by its public file, such as site=hospital-e.public.json; once for each role.",
)
@click.option("--remove", "removed", multiple=True, metavar="NAME", help="Remove a member. With --add: new keys.")
@_threshold
@answers_option
@min_sites_option
@small_groups_option
@days_option
@_out
@json_option
def roster_next(
    old: Path,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    threshold: int | None,
    answers: int | None,
    min_sites: int | None,
    small_groups: bool,
    days: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Make the version after the roster OLD: members added, removed, or just good for longer."""
    previous = _signed(old)
    roster = next_roster(
        previous,
        add=[_addition(text) for text in added],
        remove=removed,
        threshold=threshold,
        answers=answers,
        min_sites=min_sites,
        small_groups=small_groups,
        days=days,
        now=int(time.time()),
    )
    _written(roster, out, as_json, previous)


@click.command("revoke")
@click.argument("old", metavar="ROSTER", type=FILE)
@click.argument("site")
@days_option
@_out
@json_option
def site_revoke(old: Path, site: str, days: int, out: Path | None, as_json: bool) -> None:
    """Make the version after ROSTER without SITE, and say what must follow: alone it changes nothing."""
    previous = _signed(old)
    roster = next_roster(previous, remove=[site], days=days, now=int(time.time()))
    path = _write(roster, out)
    before = previous.body
    steps = [
        f"signatures of {counted(before.threshold, 'coordinator')}: "
        f"`he-agg roster sign {quoted(path)} --previous {quoted(old)} --identity ...`",
        f"publish it: `he-agg roster publish {quoted(path)} --config ...` (or hand the file to the operator and to all "
        f"sites); from then on the aggregator refuses {site}",
        "deal a new group key that it does not have: `he-agg epoch rotate --keystore ... "
        f"--roster {quoted(path)} --identity ...`, then `he-agg epoch publish`",
        "every other site accepts both: `he-agg roster accept`, `he-agg epoch accept`",
        f"what {site} keeps: the group keys of the epochs so far, and whatever those open",
    ]
    answer(
        {"file": str(path), "version": roster.body.version, "removed": site, "steps": steps},
        as_json,
        lambda: (
            f"version {roster.body.version} of the roster, without {site}, not signed yet: {path}\n"
            "What must follow:\n" + "\n".join(f"  {number}. {step}" for number, step in enumerate(steps, 1))
        ),
    )


@click.command("sign")
@click.argument("file", type=FILE)
@click.option("--identity", "identity_file", type=FILE, required=True, help="Identity file of a coordinator.")
@click.option("--previous", type=FILE, help="The version before; its coordinators sign too.")
@click.option("--out", type=FILE, help="Where to write the signed roster. [default: FILE itself]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@passphrase_options
@json_option
def roster_sign(
    passphrases: PassphraseOptions,
    file: Path,
    identity_file: Path,
    previous: Path | None,
    out: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Sign a roster FILE as one of its coordinators. Coordinators sign one after the other, each the same file."""
    roster, before = read_roster(file), None if previous is None else _signed(previous)
    if not yes and sys.stdin.isatty():
        messages.print(roster_table(roster, before), markup=False, soft_wrap=True)
        click.confirm("Did you compare every fingerprint with its member, and do you sign?", abort=True, err=True)
    identity = Identity.load(identity_file, passphrases.source())
    signed = sign_roster(roster, identity, before)
    path = out or file
    replace_file(path, signed.encode())
    have, need = len(signers_of(signed)), signed.body.threshold
    answer(
        {"file": str(path), "signed_by": signers_of(signed), "threshold": need, "digest": signed.body_digest},
        as_json,
        lambda: f"signed by {identity.name}: {path} ({have} of {need} signatures of its coordinators)",
    )


@click.command("verify")
@click.argument("file", type=FILE)
@click.option("--previous", type=FILE, help="The version before, which you trust: check that FILE follows it.")
@fingerprint_option
@json_option
def roster_verify(file: Path, previous: Path | None, fingerprints: tuple[str, ...], as_json: bool) -> None:
    """Show all members of a roster FILE with roles and fingerprints, who signed it, and whether it is valid."""
    roster, before = read_roster(file), None if previous is None else read_roster(previous)
    problem: HeAggError | None = None
    try:
        check_fingerprints(roster.body, heard_of(fingerprints))
        if before is None:
            check_signed(roster)
        else:
            check_signed(before)
            check_follows(roster, before)
        roster.body.check_valid(time.time())
    except HeAggError as error:
        problem = error
    facts = roster_facts(roster) | {"valid": problem is None, "problem": None if problem is None else problem.message}
    note = "" if before is not None or roster.body.version == 1 else "\nwhether it follows version "
    note += f"{roster.body.version - 1} was not looked at: give that one with --previous" if note else ""
    verdict = "" if problem is not None else f"\nvalid until {day_of(roster.body.expires_at)}{note}"
    answer(facts, as_json, lambda: roster_table(roster, before) + verdict)
    if problem is not None:
        raise problem


@click.command("accept")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option("--out", type=FILE, required=True, help="Where this site keeps the roster that it has accepted.")
@click.option(
    "--identity",
    "identity_file",
    type=FILE,
    help="Identity file of this site: its own line of the roster is compared with that, not over the phone.",
)
@fingerprint_option
@json_option
def roster_accept(
    files: tuple[Path, ...], out: Path, identity_file: Path | None, fingerprints: tuple[str, ...], as_json: bool
) -> None:
    """Accept a roster for this site: the first by comparing fingerprints, later ones by their signatures.

    Several versions may be given at once; each must follow the one before.
    """
    own = None if identity_file is None else Identity.public_half(identity_file)
    accepted, changed = accept_rosters(out, [read_roster(path) for path in files], heard_of(fingerprints), own)
    answer(
        roster_facts(accepted) | {"file": str(out), "changed": changed},
        as_json,
        lambda: (
            f"version {accepted.body.version} of the roster of {accepted.body.federation} is "
            f"{'accepted' if changed else 'the accepted one already'}: {out}\n{accepted.body.smallest_group}"
        ),
    )


def accept_rosters(
    out: Path, offered: list[Signed[Roster]], heard: dict[str, str], own: Member | None = None
) -> tuple[Signed[Roster], bool]:
    """Accept rosters for this site: the first after fingerprints were compared, later ones by their signatures.

    Args:
        out: the pin.
        offered: one version, or several that follow each other.
        heard: fingerprints that were read on the phone, by name; nothing is asked if there are any.
        own: this member, whose line of the roster is compared here, so that it need not call itself.

    Returns:
        The roster that is pinned now, and whether it was not before.
    """
    now, mine = time.time(), {} if own is None else {own.name: own.fingerprint}
    pinned = read_pinned(out) if os.path.lexists(out) else None
    if pinned is not None:
        accepted = follow(pinned, offered, now)
        check_fingerprints(accepted.body, heard | mine)
        changed = accepted.body_digest != pinned.body_digest
    else:
        first = min(offered, key=lambda roster: roster.body.version)
        later = [roster for roster in offered if roster is not first]
        # The newest must be valid; one that others follow may have expired.
        valid_at = first.body.issued_at if later else now
        check_fingerprints(first.body, mine)
        first_roster(first, _compare(first, heard, valid_at, own), valid_at)
        accepted, changed = follow(first, later, now), True
    if changed:
        older = [pinned, *offered] if pinned is not None else offered
        keep_old(out, [signed for signed in older if signed.body.version < accepted.body.version])
        replace_file(out, accepted.encode())
    return accepted, changed


def _compare(roster: Signed[Roster], heard: dict[str, str], now: float, own: Member | None) -> dict[str, str]:
    """Have a person compare the fingerprints of the coordinators who signed, but for this member's own."""
    roster.body.check_valid(now)
    check_signed(roster)
    signers = signers_of(roster)
    known = {own.name: own.fingerprint} if own is not None and own.name in signers else {}
    others = [name for name in signers if name not in known]
    if not heard and others and sys.stdin.isatty():
        messages.print(roster_table(roster), markup=False, soft_wrap=True)
    return known | compare(roster.body, others, heard, "who signed the roster")


def _signed(path: Path) -> Signed[Roster]:
    """A roster to build on: one that counts, expired or not."""
    roster = read_roster(path)
    check_signed(roster)
    return roster


def _addition(text: str) -> tuple[Role, Member]:
    role, _, file = text.partition("=")
    if role not in set(Role) or not file:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"--add: expected ROLE=FILE with a role out of {', '.join(Role)}, got {text!r}",
            "such as: --add site=hospital-e.public.json",
        )
    return Role(role), read_public(Path(file))


def _written(roster: Signed[Roster], out: Path | None, as_json: bool, before: Signed[Roster] | None = None) -> None:
    path = _write(roster, out)
    signer = "" if before is None else " --previous OLD"
    answer(
        roster_facts(roster) | {"file": str(path)},
        as_json,
        lambda: (
            f"{roster_table(roster, before)}\nnot signed yet: {path}\n"
            "next: compare every fingerprint with its member by phone, then "
            f"`he-agg roster sign {quoted(path)}{signer} --identity ...`"
        ),
    )


def _write(roster: Signed[Roster], out: Path | None) -> Path:
    path = out or Path(f"{roster.body.federation}.roster-{roster.body.version}.json")
    write_new(path, roster.encode())
    return path
