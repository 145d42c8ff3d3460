"""Connect a command to the aggregator with the files that a member's settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from client_sdk._effects import Flow, Request, Response
from client_sdk._net.server import TlsFiles
from client_sdk._net.signing import Signer
from client_sdk._net.transport import Transport
from client_sdk._protocol.exchange import Retries, exchange
from client_sdk._protocol.rosters import fetch_roster
from client_sdk._protocol.session import retries_of
from client_sdk.config import MemberSettings, Settings
from client_sdk.lines import Lines
from he_agg.documents.roster import Roster, check_follows
from he_agg.documents.signed import Signed
from he_agg.host.commands import FILE
from keys import Identity, read_secret_text
from keys.cli.options import PassphraseOptions
from keys.passphrase import Once

__all__ = ["Link", "config_option", "connect", "newer_rosters", "read_settings"]

_T = TypeVar("_T")

config_option = click.option(
    "--config", type=FILE, required=True, help="The TOML file: url, identity, keystore, roster, passphrase_file."
)


@dataclass(frozen=True)
class Link:
    """A connection to the aggregator for one federation."""

    federation: str
    retries: Retries
    transport: Transport

    def run(self, flow: Flow[_T]) -> _T:
        """Run a flow, and tell of each retry."""
        return self.transport.run(flow, Lines(only_retries=True))

    def get(self, path: str, max_bytes: int) -> Flow[Response]:
        """Get what is at a path below the federation's."""
        request = Request("GET", f"/v1/federations/{self.federation}/{path}", frozenset({200}), max_bytes=max_bytes)
        return (yield from exchange(self.retries, request))

    def put(self, path: str, body: bytes) -> bool:
        """Send it and tell whether it was new there."""
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        request = Request(
            "PUT", f"/v1/federations/{self.federation}/{path}", frozenset({200, 201}), body=body, headers=headers
        )
        return self.run(exchange(self.retries, request)).status == 201


@contextmanager
def connect(settings: MemberSettings, identity: Identity, federation: str) -> Iterator[Link]:
    """Connect to the aggregator that the settings name, as the member that the identity is of."""
    signer = Signer(identity.name, identity.signing_key, federation)
    transport = Transport(settings.url, signer, TlsFiles(settings.ca_file, settings.client_cert, settings.client_key))
    try:
        yield Link(federation, retries_of(settings), transport)
    finally:
        transport.close()


def read_settings(config: Path, passphrases: PassphraseOptions) -> tuple[Settings, Once]:
    """Read a settings file; the passphrase comes from where the options say, or else from where the file says."""
    settings = Settings.load(config, {})
    file = settings.passphrase_file
    if passphrases.given:
        return settings, passphrases.source()
    if file is not None:
        return settings, Once(partial(read_secret_text, file))
    return settings, PassphraseOptions(None, settings.passphrase_keyring).source()


def newer_rosters(link: Link, pinned: Signed[Roster]) -> Flow[list[Signed[Roster]]]:
    """Return all rosters after the pinned one, each following the one before."""
    found = [pinned]
    newest = yield from fetch_roster(link.retries, link.federation, "newest")
    while (version := found[-1].body.version) < newest.body.version:
        signed = yield from fetch_roster(link.retries, link.federation, version + 1)
        check_follows(signed, found[-1])
        found.append(signed)
    return found[1:]
