"""A hospital's one command: `he-agg join`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from client_sdk.cli.epoch import accept_bundle, accept_newest, accepted_facts
from client_sdk.cli.link import connect, newer_rosters
from client_sdk.cli.rounds import status_of
from client_sdk.config import Settings
from he_agg.documents.address import check_address
from he_agg.documents.roster import Role
from he_agg.documents.start import Start
from he_agg.errors import ConfigError, HeAggError, InputError, ProtocolError, Reason, TransportError, WireError
from he_agg.host.commands import FILE, answer, json_option, messages
from he_agg.host.comparing import fingerprint_option, heard_of
from he_agg.host.files import create, file_trouble
from he_agg.host.shell import quoted
from keys.cli.identity import Own, own_identity
from keys.cli.options import PassphraseOptions, new_passphrase_options
from keys.cli.roster import accept_rosters
from keys.files import read_document, replace_file
from keys.pinning import archive_of, check_self, read_pinned

__all__ = ["join"]

SETTINGS, ROSTER, CERTIFICATE = Path("site.toml"), Path("roster.json"), Path("aggregator.pem")
_PATIENCE_S = 15.0
"""Somebody sits and waits for it."""


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
    _check_folder(start)
    own = own_identity(name, protect, passphrases)
    settings = _settings(start, own, url)
    try:
        listed = _check_listed(start, own)
        _check_settings(start, settings)
    except HeAggError:
        if own.is_new:
            own.path.unlink()
            Path(f"{own.identity.name}.public.json").unlink()
        raise
    accept_rosters(
        ROSTER, [start.roster] if not ROSTER.exists() else [], heard, own.identity.member() if listed else None
    )
    _write(start, settings)
    messages.print(f"roster of {start.federation} accepted: {ROSTER}; settings: {SETTINGS}", markup=False)
    loaded = dataclasses.replace(Settings.load(SETTINGS, {}), patience_s=_PATIENCE_S)
    if listed and not loaded.keystore.exists():
        accept_bundle(start.bundle, loaded.identity, loaded.roster, loaded.keystore, own.passphrase)
        messages.print(f"group key, secret: {loaded.keystore}", markup=False)
    try:
        if not listed:
            _follow(loaded, own)
        accepted = accept_newest(loaded, own.passphrase, None)
    except (ProtocolError, TransportError, InputError, ConfigError) as error:
        raise _not_there_yet(error, own, start_file, listed) from error
    facts, text = status_of(SETTINGS, own.passphrase)
    facts |= accepted_facts(accepted.key, accepted.commitment, loaded.keystore) | accepted.facts
    answer(facts | {"config": str(SETTINGS)}, as_json, lambda: text)


def _follow(loaded: Settings, own: Own) -> None:
    """Accept the rosters after the one of the start file, of which one may list this site."""
    pinned = read_pinned(ROSTER)
    with connect(loaded, own.identity, pinned.body.federation) as link:
        newer = link.run(newer_rosters(link, pinned))
    accept_rosters(ROSTER, newer or [pinned], {}, own.identity.member())


def _check_folder(start: Start) -> None:
    """Refuse a folder that is another federation's, and a start file of people whose fingerprints nobody compared.

    The roster that was accepted here vouches for the rest of a start file; one that it came from does, too.
    """
    if not ROSTER.exists():
        return
    pinned = read_pinned(ROSTER)
    have = pinned.body.federation
    if have != start.federation:
        raise ConfigError(
            Reason.FILE_EXISTS,
            f"this folder is of federation {have}: {ROSTER}; the start file is of {start.federation}",
            "join each federation in a folder of its own: copy this site's identity file there",
        )
    accepted = [pinned, *map(read_pinned, sorted(archive_of(ROSTER).glob("*.json")))]
    if start.roster.body_digest not in {roster.body_digest for roster in accepted}:
        raise ConfigError(
            Reason.ROSTER_MISMATCH,
            f"the start file has a roster of {start.federation} that was never accepted in this folder; "
            "nothing was changed",
            "call the coordinators: somebody may have made a start file of their own. Whoever has joined needs no "
            f"other: newer rosters and keys come by `he-agg epoch accept --config {quoted(SETTINGS)}`",
        )
    if not SETTINGS.exists() or (start.address.body.certificate and not CERTIFICATE.exists()):
        # The address would be taken now, and whoever signed it may have been removed since.
        try:
            check_address(start.address, pinned.body)
        except WireError as error:
            raise ConfigError(
                error.reason,
                f"the address in the start file is signed by nobody whom the accepted roster lists: {error.message}",
                f"ask the coordinator where the aggregator is now, and write it into {SETTINGS}",
            ) from error


def _check_listed(start: Start, own: Own) -> bool:
    """Tell whether the start file lists this site.

    Raises:
        InputError: with another key.
    """
    if own.identity.name not in start.roster.body.members:
        return False
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


def _check_settings(start: Start, settings: dict[str, Any]) -> None:
    """Refuse a start file that says other than what this folder has: another way to the aggregator was not accepted."""
    certificate = start.address.body.certificate
    if SETTINGS.exists():
        have, wanted = Settings.load(SETTINGS, {}), Settings.load(None, settings)
        other = [name for name in settings if getattr(have, name) != getattr(wanted, name)]
        if not certificate and have.ca_file == CERTIFICATE:
            other.append("ca_file")
        if other:
            raise ConfigError(
                Reason.FILE_EXISTS,
                f"{SETTINGS} exists, with other values of {', '.join(sorted(other))}; it is never overwritten",
                "move it away first, or correct it",
            )
    known = read_document(CERTIFICATE, bytes, "a certificate") if CERTIFICATE.exists() else None
    if certificate and known not in (None, certificate.encode()):
        raise ConfigError(
            Reason.FILE_EXISTS,
            f"{CERTIFICATE} exists, with another certificate than the start file has; it is never overwritten",
            "ask the operator which is the right one; if it is that of the start file, move the other away first",
        )


def _write(start: Start, settings: dict[str, Any]) -> None:
    """Write the settings and the certificate that they name. What is there stays, with all else in it."""
    if start.address.body.certificate and not CERTIFICATE.exists():
        replace_file(CERTIFICATE, start.address.body.certificate.encode())
    if SETTINGS.exists():
        return
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    try:
        create(SETTINGS, text.encode(), 0o644)
    except OSError as error:
        raise file_trouble(error, f"{SETTINGS} cannot be written") from error


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
