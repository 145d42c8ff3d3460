"""The command about rosters that talks to the aggregator: `he-agg roster publish`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from client_sdk.cli.link import config_option, connect, read_settings
from he_agg.documents.roster import check_signed
from he_agg.host.commands import FILE, answer, json_option
from keys import Identity
from keys.cli.options import PassphraseOptions, passphrase_options
from keys.rosters import read_roster

__all__ = ["roster_publish"]


@click.command("publish")
@click.argument("roster", type=FILE)
@config_option
@passphrase_options
@json_option
def roster_publish(passphrases: PassphraseOptions, roster: Path, config: Path, as_json: bool) -> None:
    """Send a signed ROSTER to the aggregator, as a coordinator: it holds at once, and sites pick it up themselves."""
    signed = read_roster(roster)
    check_signed(signed)
    signed.body.check_valid(time.time())
    settings, passphrase = read_settings(config, passphrases)
    identity = Identity.load(settings.identity, passphrase)
    name, version = signed.body.federation, signed.body.version
    with connect(settings, identity, name) as link:
        new = link.put(f"rosters/{version}", signed.encode())
    answer(
        {"federation": name, "version": version, "digest": signed.body_digest, "new": new},
        as_json,
        lambda: f"version {version} of the roster of {name} {'holds now' if new else 'held already'}",
    )
