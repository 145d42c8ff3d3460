"""A hospital's one command: `he-agg join`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from client_sdk.cli.epoch import accept_bundle, accept_newest, accepted_facts
from client_sdk.cli.folder import (
    CERTIFICATE,
    PATIENCE_S,
    ROSTER,
    check_folder,
    check_settings,
    follow_from,
    write_settings,
)
from client_sdk.cli.rounds import status_of
from client_sdk.config import Settings
from he_agg.documents.roster import Role
from he_agg.documents.start import Start
from he_agg.errors import ConfigError, HeAggError, InputError, ProtocolError, Reason, TransportError
from he_agg.host.commands import FILE, answer, json_option, messages
from he_agg.host.comparing import fingerprint_option, heard_of
from he_agg.host.shell import quoted
from keys.cli.identity import Own, own_identity
from keys.cli.options import PassphraseOptions, new_passphrase_options
from keys.cli.roster import accept_rosters
from keys.files import read_document
from keys.pinning import check_self

__all__ = ["join"]

SETTINGS = Path("site.toml")


@click.command("join")
@click.argument("start_file", metavar="START", type=FILE)
@click.option("--name", help="This site. [default: that of the one identity file here; one is made if there is none]")
@fingerprint_option
@click.option("--url", help="Another way to the aggregator than the start file says, such as a proxy of this house.")
@new_passphrase_options
@json_option
def join(
    passphrases: PassphraseOptions,
    start_file: Path,
    name: str | None,
    fingerprints: tuple[str, ...],
    url: str | None,
    protect: bool | None,
    as_json: bool,
) -> None:
    """Join the federation of a START file, from its coordinator. Running it again is fine.

    Compares the coordinators' fingerprints, accepts the roster, writes site.toml, takes the group key, tells the
    aggregator, and shows where the federation stands. Everything is kept in this folder: one for each federation.
    """
    start = read_document(start_file, Start.parse, "a usable start file")
    heard = heard_of(fingerprints)
    check_folder(start, SETTINGS)
    own = own_identity(name, protect, passphrases)
    settings = _settings(start, own, url)
    try:
        listed = _check_listed(start, own)
        check_settings(start, settings, SETTINGS, Settings)
    except HeAggError:
        if own.is_new:
            own.path.unlink()
            Path(f"{own.identity.name}.public.json").unlink()
        raise
    accept_rosters(
        ROSTER, [start.roster] if not ROSTER.exists() else [], heard, own.identity.member() if listed else None
    )
    write_settings(start, settings, SETTINGS)
    messages.print(f"roster of {start.federation} accepted: {ROSTER}; settings: {SETTINGS}", markup=False)
    loaded = dataclasses.replace(Settings.load(SETTINGS, {}), patience_s=PATIENCE_S)
    if listed and not loaded.keystore.exists():
        accept_bundle(start.bundle, loaded.identity, loaded.roster, loaded.keystore, own.passphrase)
        messages.print(f"group key, secret: {loaded.keystore}", markup=False)
    try:
        if not listed:
            follow_from(loaded, own)
        accepted = accept_newest(loaded, own.passphrase, None)
    except (ProtocolError, TransportError, InputError, ConfigError) as error:
        raise _not_there_yet(error, own, start_file, listed) from error
    facts, text = status_of(SETTINGS, own.passphrase)
    facts |= accepted_facts(accepted.key, accepted.commitment, loaded.keystore) | accepted.facts
    answer(facts | {"config": str(SETTINGS)}, as_json, lambda: text)


def _check_listed(start: Start, own: Own) -> bool:
    """Tell whether the start file lists this site.

    Raises:
        InputError: with another key.
    """
    if own.identity.name not in start.roster.body.members:
        return False
    roles = start.roster.body.members[own.identity.name].roles
    if Role.HOLDER in roles and Role.SITE not in roles:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"{own.identity.name} is a trustee of {start.federation}, and no site",
            f"a trustee joins with `he-agg holder join {quoted(start.federation)}.start.json`",
        )
    check_self(start.roster.body, own.identity, Role.SITE)
    return True


def _settings(start: Start, own: Own, url: str | None) -> dict[str, Any]:
    where = {"ca_file": str(CERTIFICATE)} if start.address.body.certificate else {}
    return {
        "url": url or start.address.body.url,
        "identity": str(own.path),
        "keystore": f"{start.federation}.keystore",
        "roster": str(ROSTER),
        **where,
    }


def _not_there_yet(error: HeAggError, own: Own, start_file: Path, listed: bool) -> HeAggError:
    """Say what is done already, and what to do when the aggregator does not know this site or is not there."""
    again = f"then type the same again: `he-agg join {quoted(start_file)}`"
    if not listed and error.reason in (Reason.UNAUTHENTICATED, Reason.UNKNOWN_SITE, Reason.FORBIDDEN):
        text = (
            f"{own.identity.name} is not in the roster of the federation yet: send {own.identity.name}.public.json to "
            f"the coordinator, who takes it in (`he-agg roster next`) and calls you for {own.identity.fingerprint}; "
            + again
        )
    elif error.reason in (Reason.UNKNOWN_FEDERATION, Reason.UNAUTHENTICATED):
        text = f"has the operator taken the federation in? `he-agg federation take {quoted(start_file)}`; {again}"
    elif isinstance(error, TransportError):
        text = f"all that needs no aggregator is done. See that {SETTINGS} has the right url and that it runs; {again}"
    else:
        return error
    return type(error)(error.reason, error.message, text)
