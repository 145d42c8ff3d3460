"""Commands about the keys of one member: `he-agg site init` and `he-agg keys show|check-commitments`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from he_agg.documents.epoch import Commitment
from he_agg.documents.roster import SUITE_BYTES, Member, check_signed
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, HeAggError, InputError, Reason
from he_agg.host.commands import FILE, answer, json_option
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
from keys.public_file import encode_public, read_public
from keys.receiving import DEFAULT_SUITE
from keys.rosters import read_roster
from keys.secret_file import read_secret

__all__ = ["ask_passphrase", "keys_check_commitments", "keys_show", "site_init"]


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
    identity = Identity.create(name, suite)
    path, public_path = out or Path(f"{name}.identity"), public or Path(f"{name}.public.json")
    refuse_existing(path, public_path)
    identity.save(path, new_passphrase(protect, passphrases))
    write_new(public_path, encode_public(identity.member()))
    answer(
        {
            "name": name,
            "file": str(path),
            "public_file": str(public_path),
            "fingerprint": identity.fingerprint,
            "suite": suite,
        },
        as_json,
        lambda: (
            f"identity of {name}, secret: {path}\n"
            f"public file for the coordinator, not secret: {public_path}\n"
            f"fingerprint, to read to the coordinator over the phone: {identity.fingerprint}"
        ),
    )


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
        if path.exists() or path.is_symlink():
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
