"""Commands that carry the ceremony's documents to and from the aggregator.

They are `he-agg epoch accept|publish|commitments` and `he-agg roster publish`. What is in the documents is decided in
`keys`; here they only travel.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from client_sdk._disk.rosters import Rosters
from client_sdk._disk.security_log import SecurityLog
from client_sdk._net.signing import Signer
from client_sdk._net.transport import TlsFiles, Transport
from client_sdk._protocol.effects import Flow, Request, Response, compute
from client_sdk._protocol.exchange import Retries, exchange
from client_sdk._protocol.retry import RetryPolicy
from client_sdk.config import Settings
from client_sdk.progress import Event, Retrying
from he_agg import canonical
from he_agg.documents.epoch import MAX_BUNDLE_BYTES, MAX_COMMITMENT_BYTES, SignedBundle, SignedCommitment
from he_agg.documents.roster import MAX_MEMBERS, MAX_ROSTER_BYTES, SignedRoster
from he_agg.documents.signed import Signed
from he_agg.errors import HeAggError, InputError, KeystoreError, ProtocolError, Reason, WireError
from he_agg.host.commands import answer, messages
from keys import Identity, read_secret_text
from keys.ceremony import Agreement, agreement
from keys.cli.epoch import accept_files, accepted_facts, accepted_text, read_bundle
from keys.cli.options import passphrase_options, passphrase_source
from keys.files import read_plan, replace_file
from keys.hardening import harden_command
from keys.passphrase import Once
from keys.rosters import read_pinned, read_roster

__all__ = ["epoch_accept", "epoch_commitments", "epoch_publish", "roster_publish"]

_T = TypeVar("_T")

_path = click.Path(path_type=Path, dir_okay=False)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
_config = click.option(
    "--config", type=_path, required=True, help="The TOML file: url, identity, keystore, roster, passphrase_file."
)


@click.command("accept")
@click.argument("bundle", type=_path, required=False)
@click.option("--config", type=_path, help="The site's TOML file. Without BUNDLE: fetch it, and send the commitment.")
@click.option("--identity", "identity_file", type=_path, help="Identity file of this site.")
@click.option("--roster", "roster_file", type=_path, help="The roster that this site has accepted.")
@click.option("--keystore", type=_path, help="Keystore file to write; an older one is kept as KEYSTORE.epoch-N.")
@click.option("--plan", "plan_file", type=_path, help="The plan that was agreed on, to compare.")
@click.option("--commitment", type=_path, help="Commitment to write. [default: SITE.epoch-N.commitment.json]")
@passphrase_options
@_json
def epoch_accept(
    bundle: Path | None,
    config: Path | None,
    identity_file: Path | None,
    roster_file: Path | None,
    keystore: Path | None,
    plan_file: Path | None,
    commitment: Path | None,
    passphrase_fd: int | None,
    keyring: str | None,
    as_json: bool,
) -> None:
    """Check a bundle, test the group key in it, and store it. Running it again is fine.

    With BUNDLE, --identity, --roster and --keystore it works on files alone, and writes the commitment to a file. With
    --config alone it fetches newer rosters and the newest bundle from the aggregator, and sends the commitment there.
    """
    harden_command()
    plan_id = None if plan_file is None else read_plan(plan_file).plan_id
    files = (identity_file, roster_file, keystore)
    if config is not None and files == (None, None, None):
        settings, passphrase = _settings(config, passphrase_fd, keyring)
        if bundle is None:
            _accept_online(settings, passphrase, plan_id, as_json)
            return
        identity_file, roster_file, keystore = settings.identity, settings.roster, settings.keystore
    elif config is None:
        passphrase = passphrase_source(passphrase_fd, keyring)
    else:
        raise click.UsageError("expected --config or --identity, --roster and --keystore, got both")
    if bundle is None or identity_file is None or roster_file is None or keystore is None:
        raise click.UsageError("expected --config, or BUNDLE with --identity, --roster and --keystore")
    key, signed = accept_files(read_bundle(bundle), identity_file, roster_file, keystore, passphrase, plan_id)
    path = commitment or keystore.with_name(f"{signed.commitment.site}.epoch-{key.epoch}.commitment.json")
    replace_file(path, signed.encode())
    facts = accepted_facts(key, signed, keystore) | {"commitment": str(path)}
    answer(facts, as_json, lambda: accepted_text(key, keystore, path))


@click.command("publish")
@click.argument("bundle", type=_path)
@_config
@passphrase_options
@_json
def epoch_publish(bundle: Path, config: Path, passphrase_fd: int | None, keyring: str | None, as_json: bool) -> None:
    """Send a BUNDLE to the aggregator, as the coordinator that dealt it: its epoch begins."""
    harden_command()
    dealt, data = read_bundle(bundle).bundle, bundle.read_bytes()
    settings, passphrase = _settings(config, passphrase_fd, keyring)
    identity = Identity.load(settings.identity, passphrase)
    with _link(settings, identity, dealt.federation) as link:
        new = link.put(f"epochs/{dealt.epoch}", data)
    answer(
        {"federation": dealt.federation, "epoch": dealt.epoch, "key_id": dealt.key_id, "new": new},
        as_json,
        lambda: (
            f"epoch {dealt.epoch} of {dealt.federation} {'has begun' if new else 'had begun already'}\n"
            "next, at every site, this one too: `he-agg epoch accept --config ...`"
        ),
    )


@click.command("publish")
@click.argument("roster", type=_path)
@_config
@passphrase_options
@_json
def roster_publish(roster: Path, config: Path, passphrase_fd: int | None, keyring: str | None, as_json: bool) -> None:
    """Send a signed ROSTER to the aggregator, as a coordinator: it holds at once, and sites pick it up themselves."""
    harden_command()
    signed = read_roster(roster)
    signed.check_signed()
    signed.check_valid(time.time())
    settings, passphrase = _settings(config, passphrase_fd, keyring)
    identity = Identity.load(settings.identity, passphrase)
    name, version = signed.roster.federation, signed.roster.version
    with _link(settings, identity, name) as link:
        new = link.put(f"rosters/{version}", signed.encode())
    answer(
        {"federation": name, "version": version, "digest": signed.digest, "new": new},
        as_json,
        lambda: f"version {version} of the roster of {name} {'holds now' if new else 'held already'}",
    )


@click.command("commitments")
@_config
@click.option("--epoch", type=click.IntRange(1, 10**9), help="Which epoch. [default: the newest]")
@passphrase_options
@_json
def epoch_commitments(
    config: Path, epoch: int | None, passphrase_fd: int | None, keyring: str | None, as_json: bool
) -> None:
    """Check which sites hold the key of an epoch, and that all hold the same one. For coordinators and auditors."""
    harden_command()
    settings, passphrase = _settings(config, passphrase_fd, keyring)
    identity, pinned = Identity.load(settings.identity, passphrase), read_pinned(settings.roster)
    with _link(settings, identity, pinned.roster.federation) as link:
        newest = [pinned, *link.run(_newer(link, pinned))][-1]
        found = link.run(_commitments(link, newest, epoch))
    answer(
        {"epoch": found.epoch, "key_id": found.key_id, "sites": list(found.sites), "missing": list(found.missing)},
        as_json,
        lambda: (
            f"epoch {found.epoch}, key {found.key_id[:12]}: {', '.join(found.sites) or 'no site'}\n"
            f"missing: {', '.join(found.missing) or 'none'}"
        ),
    )


@dataclass(frozen=True)
class _Link:
    """A connection to the aggregator for one federation."""

    federation: str
    retries: Retries
    transport: Transport

    def run(self, flow: Flow[_T]) -> _T:
        return self.transport.run(flow, _listen)

    def get(self, path: str, max_bytes: int, expect: frozenset[int] = frozenset({200})) -> Flow[Response]:
        request = Request("GET", f"/v1/federations/{self.federation}/{path}", expect, max_bytes=max_bytes)
        return (yield from exchange(self.retries, request))

    def put(self, path: str, body: bytes) -> bool:
        """Send it and tell whether it was new there."""
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        request = Request(
            "PUT", f"/v1/federations/{self.federation}/{path}", frozenset({200, 201}), body=body, headers=headers
        )
        return self.run(exchange(self.retries, request)).status == 201


@contextmanager
def _link(settings: Settings, identity: Identity, federation: str) -> Iterator[_Link]:
    signer = Signer(identity.name, identity.signing_key, federation)
    transport = Transport(settings.url, signer, TlsFiles(settings.ca_file, settings.client_cert, settings.client_key))
    try:
        # Jitter only spreads load: it needs no secrecy.
        yield _Link(federation, Retries(RetryPolicy(patience_s=settings.patience_s), random.random), transport)
    finally:
        transport.close()


def _settings(config: Path, passphrase_fd: int | None, keyring: str | None) -> tuple[Settings, Once]:
    settings = Settings.load(config, {})
    file = settings.passphrase_file
    if file is not None and passphrase_fd is None and keyring is None:
        return settings, Once(partial(read_secret_text, file))
    if passphrase_fd is None:
        keyring = keyring or settings.passphrase_keyring
    return settings, passphrase_source(passphrase_fd, keyring)


def _accept_online(settings: Settings, passphrase: Once, plan_id: str | None, as_json: bool) -> None:
    pinned, identity = read_pinned(settings.roster), Identity.load(settings.identity, passphrase)
    federation = pinned.roster.federation
    log = SecurityLog(settings.security_log, time.time)
    with _link(settings, identity, federation) as link:
        rosters = Rosters(settings.roster, federation, identity)
        with _noting(log, "roster-rejected", identity, federation):
            for newer in link.run(_newer(link, pinned)):
                rosters.follow(newer)
        rosters.check_own(rosters.newest)
        try:
            body = link.run(link.get("epochs/newest", MAX_BUNDLE_BYTES)).body
        except ProtocolError as error:
            if error.reason != Reason.UNKNOWN_EPOCH:
                raise
            raise ProtocolError(
                error.reason, error.message, "a coordinator sends it there: `he-agg epoch publish BUNDLE --config ...`"
            ) from error
        with _noting(log, "bundle-rejected", identity, federation):
            key, signed = accept_files(
                SignedBundle.parse(body), settings.identity, settings.roster, settings.keystore, passphrase, plan_id
            )
        link.put(f"epochs/{key.epoch}/commitments/{identity.name}", signed.encode())
    facts = accepted_facts(key, signed, settings.keystore) | {"roster_version": rosters.newest.roster.version}
    answer(
        facts,
        as_json,
        lambda: accepted_text(key, settings.keystore, None) + "\nthe aggregator has this site's commitment",
    )


def _newer(link: _Link, pinned: SignedRoster) -> Flow[list[SignedRoster]]:
    """Return all rosters after the pinned one, each following the one before."""
    found = [pinned]
    while True:
        wanted = found[-1].roster.version + 1
        response = yield from link.get(f"rosters/{wanted}", MAX_ROSTER_BYTES, frozenset({200, 404}))
        if response.status == 404:
            return found[1:]
        signed = yield from compute(partial(SignedRoster.parse, response.body))
        signed.check_follows(found[-1])
        found.append(signed)


def _commitments(link: _Link, roster: SignedRoster, epoch: int | None) -> Flow[Agreement]:
    if epoch is None:
        response = yield from link.get("epochs/newest", MAX_BUNDLE_BYTES)
        epoch = SignedBundle.parse(response.body).bundle.epoch
    response = yield from link.get(
        f"epochs/{epoch}/commitments", MAX_COMMITMENT_BYTES * (len(roster.roster.members) + 1)
    )
    fields = canonical.Fields(canonical.parse(response.body, MAX_COMMITMENT_BYTES * MAX_MEMBERS), "commitments")
    fields.integer("v", 1, 1)
    values = fields.array("commitments", MAX_MEMBERS)
    fields.end()
    if not values:
        raise InputError(
            Reason.INCOMPLETE,
            f"epoch {epoch}: no site has accepted it yet",
            "at each: `he-agg epoch accept --config ...`",
        )
    signed = [SignedCommitment.from_document(Signed.from_json(value, "commitment")) for value in values]
    return agreement(signed, roster, epoch)


@contextmanager
def _noting(log: SecurityLog, event: str, identity: Identity, federation: str) -> Iterator[None]:
    """Note in the security log what the aggregator gave and this site refuses."""
    try:
        yield
    except (WireError, KeystoreError, InputError) as error:
        _note(log, event, identity, federation, error)
        raise


def _note(log: SecurityLog, event: str, identity: Identity, federation: str, error: HeAggError) -> None:
    log.note(event, federation=federation, site=identity.name, reason=str(error.reason), what=error.message)


def _listen(event: Event) -> None:
    if isinstance(event, Retrying):
        messages.print(f"{event.why}; trying again in {event.wait_s:.1f} s", markup=False)
