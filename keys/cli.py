"""Commands of coordinators and sites that touch keys: `he-agg keys|site init`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from he_agg.commands import answer
from he_agg.errors import ConfigError, InputError, KeystoreError, Reason
from keys.files import read_plan, write_new
from keys.group_key import GroupKey
from keys.identity import Identity

__all__ = ["keys_new", "keys_show", "site_init"]

_path = click.Path(path_type=Path, dir_okay=False)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
_protect = click.option("--passphrase", "protect", is_flag=True, help="Ask for a passphrase that protects the file.")


def ask_passphrase() -> str:
    """Ask on the terminal, without echo, once."""
    if not sys.stdin.isatty():
        raise KeystoreError(
            Reason.WRONG_PASSPHRASE, "a passphrase is needed, and there is no terminal to ask for it on"
        )
    passphrase: str = click.prompt("Passphrase", hide_input=True, err=True)
    return passphrase


def _new_passphrase(protect: bool) -> str | None:
    if not protect:
        return None
    passphrase: str = click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True)
    return passphrase


@click.command("init")
@click.argument("site")
@click.option("--out", type=_path, help="Identity file to write. [default: SITE.identity]")
@_protect
@_json
def site_init(site: str, out: Path | None, protect: bool, as_json: bool) -> None:
    """Make the identity of SITE. Run it at the site: the file never leaves it."""
    identity = Identity.create(site)
    path = out or Path(f"{site}.identity")
    identity.save(path, _new_passphrase(protect))
    answer(
        {
            "site": site,
            "file": str(path),
            "fingerprint": identity.fingerprint,
            "public_key": identity.signing_key.public_key.hex(),
        },
        as_json,
        lambda: f"identity of {site}: {path}\nfingerprint: {identity.fingerprint}",
    )


@click.command("new")
@click.option("--plan", "plan_file", type=_path, required=True, help="Plan file of the federation.")
@click.option("--epoch", type=int, default=1, show_default=True, help="Number of the epoch.")
@click.option("--out", type=_path, help="Keystore file to write, secret. [default: FEDERATION.keystore]")
@click.option("--public", type=_path, help="Document for the operator to write. [default: FEDERATION.federation.json]")
@_protect
@_json
def keys_new(plan_file: Path, epoch: int, out: Path | None, public: Path | None, protect: bool, as_json: bool) -> None:
    """Make a group key. Run it at the coordinating hospital, never on the aggregator's machine."""
    plan = read_plan(plan_file)
    if not 1 <= epoch <= 10**9:
        raise InputError(Reason.BAD_ARGUMENT, f"epoch: expected 1 to {10**9}, got {epoch}")
    name = plan.public.federation
    key = GroupKey.create(plan, epoch)
    path, document = out or Path(f"{name}.keystore"), public or Path(f"{name}.federation.json")
    if document.exists():
        raise ConfigError(Reason.FILE_EXISTS, f"{document} exists; it is never overwritten", "move it away first")
    key.save(path, _new_passphrase(protect))
    write_new(document, key.federation_document.encode())
    answer(
        {"keystore": str(path), "federation_document": str(document), "key_id": key.key_id, "epoch": epoch},
        as_json,
        lambda: (
            f"group key for the sites, secret: {path}\n"
            f"document for the operator, not secret: {document}\n"
            f"key id: {key.key_id}"
        ),
    )


@click.command("show")
@click.argument("file", type=_path)
@_json
def keys_show(file: Path, as_json: bool) -> None:
    """Show the public facts of a keystore FILE, after seeing that the key in it is the one they name."""
    key = GroupKey.load(file, ask_passphrase)
    facts = {
        "federation": key.plan.public.federation,
        "epoch": key.epoch,
        "key_id": key.key_id,
        "plan_id": key.plan_id,
    }
    answer(facts, as_json, lambda: "\n".join(f"{name}: {value}" for name, value in facts.items()))
