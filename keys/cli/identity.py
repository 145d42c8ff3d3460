"""Commands about the keys of one member: `he-agg site init` and `he-agg keys show|check-commitments`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from he_agg.documents.epoch import Commitment
from he_agg.documents.public_file import PublicFile
from he_agg.documents.roster import SUITE_BYTES, Member, check_signed
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, HeAggError, InputError, Reason
from he_agg.host.commands import FILE, answer, json_option
from he_agg.ids import check_name
from keys.cli.options import (
    PassphraseOptions,
    ask_passphrase,
    new_passphrase,
    new_passphrase_options,
    passphrase_options,
)
from keys.commitments import agreement
from keys.files import read_document, write_new
from keys.group_key import GroupKey
from keys.identity import Identity
from keys.passphrase import Once
from keys.public_file import read_public
from keys.receiving import DEFAULT_SUITE
from keys.rosters import read_roster
from keys.secret_file import read_secret

__all__ = ["Own", "ask_passphrase", "keys_check_commitments", "keys_show", "own_identity", "site_init"]


@click.command("init")
@click.argument("name")
@click.option(
    "--suite",
    type=click.Choice(sorted(SUITE_BYTES)),
    default=DEFAULT_SUITE,
    show_default=True,
    help="What group keys are sealed with.",
)
@click.option("--out", type=FILE, help="Identity file to write, secret. [default: NAME.identity]")
@click.option("--public", type=FILE, help="Public file to write, not secret. [default: NAME.public.json]")
@new_passphrase_options
@json_option
def site_init(
    passphrases: PassphraseOptions,
    name: str,
    suite: str,
    out: Path | None,
    public: Path | None,
    protect: bool | None,
    as_json: bool,
) -> None:
    """Make the identity of NAME: a site, a coordinator or an auditor; the roster says which.

    Run it on the member's own machine: the identity file never leaves it.
    """
    path, public_path = out or Path(f"{name}.identity"), public or Path(f"{name}.public.json")
    own = make_identity(name, path, public_path, partial(new_passphrase, protect, passphrases), suite)
    answer(
        {
            "name": name,
            "file": str(path),
            "public_file": str(public_path),
            "fingerprint": own.identity.fingerprint,
            "suite": suite,
        },
        as_json,
        lambda: (
            f"identity of {name}, secret: {path}\n"
            f"public file for the coordinator, not secret: {public_path}\n"
            f"fingerprint, to read to the coordinator over the phone: {own.identity.fingerprint}"
        ),
    )


@dataclass(frozen=True)
class Own:
    """The identity of the member at whose machine a command is typed.

    Attributes:
        passphrase: what opens it; nothing to it if it has none.
        is_new: whether the command has made it.
    """

    identity: Identity
    path: Path
    passphrase: Once
    is_new: bool


def make_identity(
    name: str, path: Path, public_path: Path, passphrase: Callable[[], str | None], suite: str = DEFAULT_SUITE
) -> Own:
    """Make an identity, and write its two files.

    Args:
        passphrase: gets the passphrase of the new file, or None.
    """
    identity = Identity.create(name, suite)
    refuse_existing(path, public_path)
    secret = passphrase()
    identity.save(path, secret)
    write_new(public_path, PublicFile(identity.member()).encode())
    once = Once(lambda: secret or ask_passphrase())
    if secret is not None:
        once()
    return Own(identity, path, once, True)


def own_identity(name: str | None, protect: bool | None, passphrases: PassphraseOptions) -> Own:
    """Load the identity in this folder, or make one if there is none of that name.

    Args:
        name: whose; None: of the one identity file that is here.
    """
    if name is None:
        here = sorted(Path().glob("*.identity"))
        if len(here) > 1:
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"expected one identity in this folder, got {len(here)}: {', '.join(map(str, here))}",
                "say which with --name",
            )
        name = here[0].stem if here else _ask_name()
    path = Path(f"{check_name(name, 'site')}.identity")
    if not os.path.lexists(path):
        return make_identity(name, path, Path(f"{name}.public.json"), partial(new_passphrase, protect, passphrases))
    passphrase = passphrases.source()
    return Own(Identity.load(path, passphrase), path, passphrase, False)


def _ask_name() -> str:
    if not sys.stdin.isatty():
        raise ConfigError(Reason.FILE_MISSING, "expected an identity in this folder, got none", "give --name NAME")
    name: str = click.prompt("Name of this hospital, such as hospital-a", err=True)
    return name


@click.command("show")
@click.argument("file", type=FILE)
@passphrase_options
@json_option
def keys_show(passphrases: PassphraseOptions, file: Path, as_json: bool) -> None:
    """Show the public facts of a keystore, an identity or a public FILE.

    A keystore is opened, to see that the key in it is the one that its facts name.
    """
    facts = _facts(file, passphrases)
    answer(facts, as_json, lambda: "\n".join(f"{name}: {value}" for name, value in facts.items()))


@click.command("check-commitments")
@click.argument("commitments", metavar="COMMITMENT...", nargs=-1, required=True, type=FILE)
@click.option("--roster", "roster_file", type=FILE, required=True, help="Roster that the epoch was dealt to.")
@click.option("--keystore", type=FILE, required=True, help="Your own keystore, of the same epoch.")
@passphrase_options
@json_option
def keys_check_commitments(
    passphrases: PassphraseOptions,
    commitments: tuple[Path, ...],
    roster_file: Path,
    keystore: Path,
    as_json: bool,
) -> None:
    """Check that all sites of the roster hold the same key as your keystore."""
    roster = read_roster(roster_file)
    check_signed(roster)
    signed = [read_document(path, lambda data: Signed.parse(Commitment, data), "a commitment") for path in commitments]
    key = GroupKey.load(keystore, passphrases.source())
    found = agreement(signed, roster, key.epoch, key.key_id)
    if found.missing:
        raise InputError(
            Reason.INCOMPLETE,
            f"epoch {found.epoch}: no commitment of {', '.join(found.missing)} yet; the others agree",
            "they accept the bundle and send theirs: `he-agg epoch accept`",
        )
    answer(
        {"epoch": found.epoch, "key_id": found.key_id, "sites": list(found.sites)},
        as_json,
        lambda: f"epoch {found.epoch}: all {len(found.sites)} sites hold key {found.key_id[:12]}",
    )


def refuse_existing(*paths: Path) -> None:
    """Refuse before anything is written, so that a refused command leaves nothing behind."""
    for path in paths:
        if os.path.lexists(path):
            raise ConfigError(
                Reason.FILE_EXISTS,
                f"{path} exists; it is never overwritten",
                "move it away first, or give another name",
            )
    if len(set(paths)) != len(paths):
        raise ConfigError(Reason.BAD_CONFIG, f"expected different files to write, got {paths[0]} twice")


def _facts(file: Path, passphrases: PassphraseOptions) -> dict[str, Any]:
    if file.name.endswith(".public.json"):
        return {"kind": "public file", **_member_facts(read_public(file))}
    read_secret(file)  # permissions first: the same answer whatever it is
    try:
        member = Identity.public_half(file)
    except HeAggError:
        key = GroupKey.load(file, passphrases.source())
        return {
            "kind": "keystore",
            "federation": key.plan.public.federation,
            "epoch": key.epoch,
            "key_id": key.key_id,
            "plan_id": key.plan_id,
        }
    return {"kind": "identity", **_member_facts(member)}


def _member_facts(member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "fingerprint": member.fingerprint,
        "signing_key": member.signing_key,
        "suite": None if member.receiving is None else member.receiving.suite,
    }
