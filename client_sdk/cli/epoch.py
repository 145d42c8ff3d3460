"""Commands about epochs that talk to the aggregator: `he-agg epoch accept|publish|commitments`.

What is in a bundle or a commitment is decided in `keys`; here they only travel.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from client_sdk._disk.rosters import Rosters
from client_sdk._disk.security_log import SecurityLog
from client_sdk._effects import Flow
from client_sdk.cli.link import Link, config_option, connect, newer_rosters, read_settings
from client_sdk.config import Settings
from he_agg import canonical
from he_agg.documents.epoch import MAX_BUNDLE_BYTES, MAX_COMMITMENT_BYTES, Commitment, EpochBundle
from he_agg.documents.roster import MAX_MEMBERS, Roster
from he_agg.documents.signed import Signed
from he_agg.errors import HeAggError, InputError, KeystoreError, ProtocolError, Reason, WireError
from he_agg.host.commands import FILE, Whole, answer, json_option, messages
from keys import Identity
from keys.ceremony import accept, accept_missed
from keys.cli.options import PassphraseOptions, passphrase_options
from keys.commitments import Agreement, agreement
from keys.files import read_document, read_plan, replace_file
from keys.group_key import GroupKey
from keys.keystores import kept_epochs, kept_path
from keys.passphrase import Once
from keys.pinning import read_pinned

__all__ = [
    "Accepted",
    "accept_bundle",
    "accept_newest",
    "accepted_facts",
    "epoch_accept",
    "epoch_commitments",
    "epoch_publish",
]


@click.command("accept")
@click.argument("bundle", type=FILE, required=False)
@click.option("--config", type=FILE, help="The site's TOML file. Without BUNDLE: fetch it, and send the commitment.")
@click.option("--identity", "identity_file", type=FILE, help="Identity file of this site.")
@click.option("--roster", "roster_file", type=FILE, help="The roster that this site has accepted.")
@click.option("--keystore", type=FILE, help="Keystore file to write; an older one is kept as KEYSTORE.epoch-N.")
@click.option("--plan", "plan_file", type=FILE, help="The plan that was agreed on, to compare.")
@click.option("--commitment", type=FILE, help="Commitment to write. [default: SITE.epoch-N.commitment.json]")
@passphrase_options
@json_option
def epoch_accept(
    passphrases: PassphraseOptions,
    bundle: Path | None,
    config: Path | None,
    identity_file: Path | None,
    roster_file: Path | None,
    keystore: Path | None,
    plan_file: Path | None,
    commitment: Path | None,
    as_json: bool,
) -> None:
    """Check a bundle, test the group key in it, and store it. Running it again is fine.

    With BUNDLE, --identity, --roster and --keystore it works on files alone, and writes the commitment to a file. With
    --config alone it fetches newer rosters and the newest bundle from the aggregator, and sends the commitment there.
    """
    plan_id = None if plan_file is None else read_plan(plan_file).plan_id
    files = (identity_file, roster_file, keystore)
    if config is not None and files == (None, None, None):
        settings, passphrase = read_settings(config, passphrases)
        if bundle is None:
            _accept_online(settings, passphrase, plan_id, as_json)
            return
        identity_file, roster_file, keystore = settings.identity, settings.roster, settings.keystore
    elif config is None:
        passphrase = passphrases.source()
    else:
        raise click.UsageError("expected --config or --identity, --roster and --keystore, got both")
    if bundle is None or identity_file is None or roster_file is None or keystore is None:
        raise click.UsageError("expected --config, or BUNDLE with --identity, --roster and --keystore")
    key, signed = accept_bundle(_read_bundle(bundle), identity_file, roster_file, keystore, passphrase, plan_id)
    path = commitment or keystore.with_name(f"{signed.body.site}.epoch-{key.epoch}.commitment.json")
    replace_file(path, signed.encode())
    facts = accepted_facts(key, signed, keystore) | {"commitment": str(path)}
    answer(facts, as_json, lambda: _accepted_text(key, keystore, path))


@click.command("publish")
@click.argument("bundle", type=FILE)
@config_option
@passphrase_options
@json_option
def epoch_publish(passphrases: PassphraseOptions, bundle: Path, config: Path, as_json: bool) -> None:
    """Send a BUNDLE to the aggregator, as the coordinator that dealt it: its epoch begins."""
    dealt, data = _read_bundle(bundle).body, bundle.read_bytes()
    settings, passphrase = read_settings(config, passphrases)
    identity = Identity.load(settings.identity, passphrase)
    with connect(settings, identity, dealt.federation) as link:
        new = link.put(f"epochs/{dealt.epoch}", data)
    answer(
        {"federation": dealt.federation, "epoch": dealt.epoch, "key_id": dealt.key_id, "new": new},
        as_json,
        lambda: (
            f"epoch {dealt.epoch} of {dealt.federation} {'has begun' if new else 'had begun already'}\n"
            "next, at every site, this one too: `he-agg epoch accept --config ...`"
        ),
    )


@click.command("commitments")
@config_option
@click.option("--epoch", type=Whole(1, 10**9), help="Which epoch. [default: the newest]")
@passphrase_options
@json_option
def epoch_commitments(passphrases: PassphraseOptions, config: Path, epoch: int | None, as_json: bool) -> None:
    """Check which sites hold the key of an epoch, and that all hold the same one. For coordinators and auditors."""
    settings, passphrase = read_settings(config, passphrases)
    identity, pinned = Identity.load(settings.identity, passphrase), read_pinned(settings.roster)
    with connect(settings, identity, pinned.body.federation) as link:
        newest = [pinned, *link.run(newer_rosters(link, pinned))][-1]
        found = link.run(_commitments(link, newest, epoch))
    answer(
        {"epoch": found.epoch, "key_id": found.key_id, "sites": list(found.sites), "missing": list(found.missing)},
        as_json,
        lambda: (
            f"epoch {found.epoch}, key {found.key_id[:12]}: {', '.join(found.sites) or 'no site'}\n"
            f"missing: {', '.join(found.missing) or 'none'}"
        ),
    )


def _read_bundle(path: Path) -> Signed[EpochBundle]:
    return read_document(path, lambda data: Signed.parse(EpochBundle, data), "the bundle of an epoch")


def accept_bundle(
    bundle: Signed[EpochBundle],
    identity_file: Path,
    roster_file: Path,
    keystore: Path,
    passphrase: Once,
    plan_id: str | None = None,
) -> tuple[GroupKey, Signed[Commitment]]:
    """Accept a bundle. The keystore gets the passphrase that identity and older keystore have, if they have one."""
    roster, identity = read_pinned(roster_file), Identity.load(identity_file, passphrase)
    now, protect = time.time(), lambda: passphrase.answer
    return accept(bundle, roster, identity, keystore, now, plan_id=plan_id, passphrase=passphrase, protect=protect)


def accepted_facts(key: GroupKey, signed: Signed[Commitment], keystore: Path) -> dict[str, Any]:
    """Return what was accepted, for scripts."""
    return {
        "federation": key.plan.public.federation,
        "site": signed.body.site,
        "epoch": key.epoch,
        "key_id": key.key_id,
        "plan_id": key.plan_id,
        "keystore": str(keystore),
    }


def _accepted_text(key: GroupKey, keystore: Path, commitment: Path | None) -> str:
    public = key.plan.public
    rows = [
        f"epoch {key.epoch} of {public.federation}: the key works and is stored, secret: {keystore}",
        f"key {key.key_id[:12]}, plan {key.plan_id[:12]}: {len(key.plan.layout.tensors)} tensors, "
        f"{public.min_sites} to {public.max_sites} sites, {public.codec}",
    ]
    if commitment is not None:
        rows.append(f"commitment for the other sites, not secret: {commitment}")
    return "\n".join(rows)


def _accept_online(settings: Settings, passphrase: Once, plan_id: str | None, as_json: bool) -> None:
    accepted = accept_newest(settings, passphrase, plan_id)
    kept = "".join(
        f"\nepoch {n}, missed: its key is stored too, {kept_path(settings.keystore, n)}" for n in accepted.missed
    )
    answer(
        accepted_facts(accepted.key, accepted.commitment, settings.keystore) | accepted.facts,
        as_json,
        lambda: (
            _accepted_text(accepted.key, settings.keystore, None) + kept + "\nthe aggregator has this site's commitment"
        ),
    )


@dataclass(frozen=True)
class Accepted:
    """What a site has taken from the aggregator.

    Attributes:
        key: the group key of the newest epoch.
        commitment: this site's word for it, which the aggregator has.
        roster: the newest.
        missed: epochs that came and went meanwhile, and whose keys are stored too.
    """

    key: GroupKey
    commitment: Signed[Commitment]
    roster: Signed[Roster]
    missed: list[int]

    @property
    def facts(self) -> dict[str, Any]:
        """What is said for scripts beside the key."""
        return {"roster_version": self.roster.body.version, "missed": self.missed}


def accept_newest(settings: Settings, passphrase: Once, plan_id: str | None) -> Accepted:
    """Follow newer rosters, accept the newest bundle, and send the commitment, all through the aggregator."""
    pinned, identity = read_pinned(settings.roster), Identity.load(settings.identity, passphrase)
    federation = pinned.body.federation
    log = SecurityLog(settings.security_log, time.time)
    with connect(settings, identity, federation) as link:
        rosters = Rosters(settings.roster, federation, identity)
        with _noting(log, "roster-rejected", identity, federation):
            for newer in link.run(newer_rosters(link, pinned)):
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
            key, signed = accept_bundle(
                Signed.parse(EpochBundle, body),
                settings.identity,
                settings.roster,
                settings.keystore,
                passphrase,
                plan_id,
            )
        link.put(f"epochs/{key.epoch}/commitments/{identity.name}", signed.encode())
        missed = _accept_missed(link, settings, identity, rosters, passphrase, key)
    return Accepted(key, signed, rosters.newest, missed)


def _accept_missed(
    link: Link, settings: Settings, identity: Identity, rosters: Rosters, passphrase: Once, newest: GroupKey
) -> list[int]:
    """Get the keys of epochs that came and went while this site was away, so that it can open their sums.

    They are those that have no file, from the oldest that has one on. One that cannot be had is told of, and asked for
    again the next time.
    """
    missed: list[int] = []
    kept = kept_epochs(settings.keystore)
    for epoch in sorted(set(range(min(kept, default=newest.epoch), newest.epoch)) - kept):
        try:
            signed = Signed.parse(EpochBundle, link.run(link.get(f"epochs/{epoch}", MAX_BUNDLE_BYTES)).body)
            if identity.name in signed.body.sealed:
                roster = rosters.signed_as(signed.body.roster)
                accept_missed(signed, epoch, roster, identity, settings.keystore, newest, passphrase.answer)
                missed.append(epoch)
        except (WireError, KeystoreError, InputError, ProtocolError) as error:
            messages.print(f"epoch {epoch}, missed: {error.message} [{error.reason}]", markup=False, soft_wrap=True)
    return missed


def _commitments(link: Link, roster: Signed[Roster], epoch: int | None) -> Flow[Agreement]:
    if epoch is None:
        response = yield from link.get("epochs/newest", MAX_BUNDLE_BYTES)
        epoch = Signed.parse(EpochBundle, response.body).body.epoch
    response = yield from link.get(f"epochs/{epoch}/commitments", MAX_COMMITMENT_BYTES * (len(roster.body.members) + 1))
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
    signed = [Signed.from_json(Commitment, value) for value in values]
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
