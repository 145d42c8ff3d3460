"""The folder of a member that joins: its settings, its pinned roster, the aggregator's certificate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from client_sdk.cli.link import connect, newer_rosters
from client_sdk.config import MemberSettings
from he_agg.documents.address import check_address
from he_agg.documents.start import Start
from he_agg.errors import ConfigError, Reason, WireError
from he_agg.host.files import create, file_trouble
from he_agg.host.shell import quoted
from keys.cli.identity import Own
from keys.cli.roster import accept_rosters
from keys.files import read_document, replace_file
from keys.pinning import archive_of, read_pinned

__all__ = ["CERTIFICATE", "PATIENCE_S", "ROSTER", "check_folder", "check_settings", "follow_from", "write_settings"]

ROSTER, CERTIFICATE = Path("roster.json"), Path("aggregator.pem")
PATIENCE_S = 15.0
"""How long the aggregator may be unreachable for whoever joins: somebody sits and waits for it."""


def follow_from(loaded: MemberSettings, own: Own) -> None:
    """Accept the rosters after the one of the start file, of which one may list this member."""
    pinned = read_pinned(ROSTER)
    with connect(loaded, own.identity, pinned.body.federation) as link:
        newer = link.run(newer_rosters(link, pinned))
    accept_rosters(ROSTER, newer or [pinned], {}, own.identity.member())


def check_folder(start: Start, settings: Path) -> None:
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
            "join each federation in a folder of its own: copy the identity file there",
        )
    accepted = [pinned, *map(read_pinned, sorted(archive_of(ROSTER).glob("*.json")))]
    if start.roster.body_digest not in {roster.body_digest for roster in accepted}:
        raise ConfigError(
            Reason.ROSTER_MISMATCH,
            f"the start file has a roster of {start.federation} that was never accepted in this folder; "
            "nothing was changed",
            "call the coordinators: somebody may have made a start file of their own. Whoever has joined needs no "
            f"other: newer rosters and keys come by `he-agg epoch accept --config {quoted(settings)}`",
        )
    if not settings.exists() or (start.address.body.certificate and not CERTIFICATE.exists()):
        # The address would be taken now, and whoever signed it may have been removed since.
        try:
            check_address(start.address, pinned.body)
        except WireError as error:
            raise ConfigError(
                error.reason,
                f"the address in the start file is signed by nobody whom the accepted roster lists: {error.message}",
                f"ask the coordinator where the aggregator is now, and write it into {settings}",
            ) from error


def check_settings(start: Start, settings: dict[str, Any], path: Path, kind: type[MemberSettings]) -> None:
    """Refuse a start file that says other than what this folder has: another way to the aggregator was not accepted."""
    certificate = start.address.body.certificate
    if path.exists():
        have, wanted = kind.load(path, {}), kind.load(None, settings)
        other = [name for name in settings if getattr(have, name) != getattr(wanted, name)]
        if not certificate and have.ca_file == CERTIFICATE:
            other.append("ca_file")
        if other:
            raise ConfigError(
                Reason.FILE_EXISTS,
                f"{path} exists, with other values of {', '.join(sorted(other))}; it is never overwritten",
                "move it away first, or correct it",
            )
    known = read_document(CERTIFICATE, bytes, "a certificate") if CERTIFICATE.exists() else None
    if certificate and known not in (None, certificate.encode()):
        raise ConfigError(
            Reason.FILE_EXISTS,
            f"{CERTIFICATE} exists, with another certificate than the start file has; it is never overwritten",
            "ask the operator which is the right one; if it is that of the start file, move the other away first",
        )


def write_settings(start: Start, settings: dict[str, Any], path: Path) -> None:
    """Write the settings and the certificate that they name. What is there stays, with all else in it."""
    if start.address.body.certificate and not CERTIFICATE.exists():
        replace_file(CERTIFICATE, start.address.body.certificate.encode())
    if path.exists():
        return
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    try:
        create(path, text.encode(), 0o644)
    except OSError as error:
        raise file_trouble(error, f"{path} cannot be written") from error
