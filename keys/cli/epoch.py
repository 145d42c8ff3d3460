"""Commands of dealers: `he-agg epoch new|rotate`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from he_agg.documents.epoch import EpochBundle
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.host.commands import FILE, Whole, answer, json_option
from he_agg.host.shell import quoted
from keys.ceremony import deal, install
from keys.cli.identity import refuse_existing
from keys.cli.options import PassphraseOptions, passphrase_options
from keys.commitments import commit
from keys.files import read_plan, replace_file, write_new
from keys.group_key import GroupKey
from keys.identity import Identity
from keys.passphrase import Once
from keys.rosters import read_roster

__all__ = ["epoch_new", "epoch_rotate"]

_roster = click.option(
    "--roster", "roster_file", type=FILE, required=True, help="The newest roster, signed by this coordinator too."
)
_identity = click.option(
    "--identity", "identity_file", type=FILE, required=True, help="Identity file of this coordinator."
)
_out = click.option("--out", type=FILE, help="Bundle to write. [default: FEDERATION.epoch-N.bundle.json]")


@click.command("new")
@click.option("--plan", "plan_file", type=FILE, required=True, help="Plan file of the federation.")
@_roster
@_identity
@click.option("--epoch", type=Whole(1, 10**9), default=1, show_default=True, help="Number of the epoch.")
@_out
@click.option("--keystore", type=FILE, help="Keystore file to write, secret. [default: FEDERATION.keystore]")
@click.option("--public", type=FILE, help="Document for the operator to write. [default: FEDERATION.federation.json]")
@passphrase_options
@json_option
def epoch_new(
    passphrases: PassphraseOptions,
    plan_file: Path,
    roster_file: Path,
    identity_file: Path,
    epoch: int,
    out: Path | None,
    keystore: Path | None,
    public: Path | None,
    as_json: bool,
) -> None:
    """Make the group key of the first epoch, sealed to every site of the roster.

    Run it at a coordinating hospital, never on the aggregator's machine. The keystore gets the passphrase that the
    identity has.
    """
    plan, roster = read_plan(plan_file), read_roster(roster_file)
    name = plan.public.federation
    paths = _Paths.of(name, epoch, keystore or Path(f"{name}.keystore"), out)
    document = public or Path(f"{name}.federation.json")
    refuse_existing(paths.keystore, paths.bundle, document, paths.commitment(identity_file))
    passphrase = passphrases.source()
    identity = Identity.load(identity_file, passphrase)
    key = GroupKey.create(plan, epoch)
    bundle = deal(key, roster, identity, time.time())
    _store(paths, bundle, key, None, passphrase)
    write_new(document, key.federation_document.encode())
    _dealt(key, paths, roster, identity, as_json, document)


@click.command("rotate")
@click.option("--keystore", type=FILE, required=True, help="Keystore of the current epoch; gets the new key.")
@_roster
@_identity
@_out
@passphrase_options
@json_option
def epoch_rotate(
    passphrases: PassphraseOptions,
    keystore: Path,
    roster_file: Path,
    identity_file: Path,
    out: Path | None,
    as_json: bool,
) -> None:
    """Make the group key of the next epoch, for the same plan, sealed to every site of the roster.

    The old keystore stays as KEYSTORE.epoch-N.
    """
    roster, passphrase = read_roster(roster_file), passphrases.source()
    identity, current = Identity.load(identity_file, passphrase), GroupKey.load(keystore, passphrase)
    key = GroupKey.create(current.plan, current.epoch + 1)
    paths = _Paths.of(current.plan.public.federation, key.epoch, keystore, out)
    refuse_existing(paths.bundle, paths.commitment(identity_file))
    bundle = deal(key, roster, identity, time.time())
    _store(paths, bundle, key, current, passphrase)
    _dealt(key, paths, roster, identity, as_json)


@dataclass(frozen=True)
class _Paths:
    """Where a dealer's files go."""

    epoch: int
    bundle: Path
    keystore: Path

    @classmethod
    def of(cls, federation: str, epoch: int, keystore: Path, out: Path | None) -> _Paths:
        return cls(epoch, out or Path(f"{federation}.epoch-{epoch}.bundle.json"), keystore)

    def commitment(self, identity_file: Path) -> Path:
        name = Identity.public_half(identity_file).name
        return self.keystore.with_name(f"{name}.epoch-{self.epoch}.commitment.json")


def _store(
    paths: _Paths, bundle: Signed[EpochBundle], key: GroupKey, current: GroupKey | None, passphrase: Once
) -> None:
    """Write bundle and keystore, or neither.

    In this order: a bundle without a keystore is thrown away, a key without a bundle would be an epoch that nobody else
    can enter.
    """
    write_new(paths.bundle, bundle.encode())
    try:
        install(key, paths.keystore, current, passphrase.answer)
    except BaseException:
        paths.bundle.unlink(missing_ok=True)
        raise


def _dealt(
    key: GroupKey,
    paths: _Paths,
    roster: Signed[Roster],
    identity: Identity,
    as_json: bool,
    document: Path | None = None,
) -> None:
    sites = sorted(roster.body.having(Role.SITE))
    facts: dict[str, Any] = {
        "bundle": str(paths.bundle),
        "keystore": str(paths.keystore),
        "key_id": key.key_id,
        "plan_id": key.plan_id,
        "epoch": key.epoch,
        "sites": sites,
    }
    rows = [
        f"group key of epoch {key.epoch}, secret: {paths.keystore}",
        f"bundle for {', '.join(sites)}, sealed: {paths.bundle}",
        f"key id: {key.key_id}",
    ]
    if document is not None:
        facts["federation_document"] = str(document)
        rows.append(f"document for the operator, not secret: {document}")
    if identity.name in sites:
        path = paths.keystore.with_name(f"{identity.name}.epoch-{key.epoch}.commitment.json")
        replace_file(path, commit(key, identity).encode())
        facts["commitment"] = str(path)
        rows.append(f"commitment of {identity.name} for the other sites, not secret: {path}")
    rows.append(f"next: `he-agg epoch publish {quoted(paths.bundle)} --config ...`, or send the file to every site")
    answer(facts, as_json, lambda: "\n".join(rows))
