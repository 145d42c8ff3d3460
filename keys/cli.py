"""Commands of coordinators and sites that touch keys: `he-agg plan|keys|site init`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from he_agg.commands import answer
from he_agg.errors import ConfigError, HeAggError, InputError, KeystoreError, Reason
from he_agg.layout import Layout
from he_agg.plan import CODECS, DEFAULT_CODEC, Plan
from keys.group_key import GroupKey
from keys.identity import SiteIdentity

__all__ = ["keys_new", "keys_show", "plan_new", "plan_show", "site_init"]

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
    identity = SiteIdentity.create(site)
    path = out or Path(f"{site}.identity")
    identity.save(path, _new_passphrase(protect))
    answer(
        {"site": site, "file": str(path), "fingerprint": identity.fingerprint, "public_key": identity.public_key.hex()},
        as_json,
        lambda: f"identity of {site}: {path}\nfingerprint: {identity.fingerprint}",
    )


@click.command("new")
@click.argument("federation")
@click.option(
    "--model", type=_path, required=True, help="NPZ file whose arrays have the names and shapes of an update."
)
@click.option("--clip", type=float, required=True, help="Bound on the absolute value of every element of an update.")
@click.option("--weight-cap", type=int, required=True, help="Largest sample count a site may give. Do not overdo it.")
@click.option("--max-sites", type=int, required=True, help="Most sites that ever take part.")
@click.option("--min-sites", type=int, default=2, show_default=True, help="Fewest sites whose sum may be published.")
@click.option("--bits", "value_bits", type=int, default=16, show_default=True, help="Bits of one value, 2 to 24.")
@click.option("--codec", type=click.Choice(sorted(CODECS)), default=DEFAULT_CODEC, show_default=True)
@click.option("--rounds", type=int, default=100, show_default=True, help="Rounds at most.")
@click.option("--deadline", "deadline_s", type=int, default=3600, show_default=True, help="Seconds a round stays open.")
@click.option("--out", type=_path, help="Plan file to write. [default: FEDERATION.plan]")
@_json
def plan_new(
    federation: str, model: Path, clip: float, weight_cap: int, out: Path | None, as_json: bool, **numbers: Any
) -> None:
    """Found a plan: the smallest parameters that are secure and exact for these sites and values."""
    layout = Layout.of(read_npz(model), clip=clip, weight_cap=weight_cap)
    plan = Plan.create(federation, layout, **numbers)
    path = out or Path(f"{federation}.plan")
    _write_new(path, plan.encode())
    answer({"file": str(path), **plan.explain()}, as_json, lambda: f"plan: {path}\n{_explain(plan)}")


@click.command("show")
@click.argument("file", type=_path)
@_json
def plan_show(file: Path, as_json: bool) -> None:
    """Show what a plan FILE agrees on, and what it costs."""
    plan = _read_plan(file)
    tensors = [{"name": s.name, "shape": list(s.shape), "dtype": s.dtype, "clip": s.clip} for s in plan.layout.tensors]
    answer(
        {**plan.explain(), "layout": tensors},
        as_json,
        lambda: "\n".join([_explain(plan), "tensors:", *(f"  {spec}" for spec in plan.layout.tensors)]),
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
    plan = _read_plan(plan_file)
    if not 1 <= epoch <= 10**9:
        raise InputError(Reason.BAD_ARGUMENT, f"epoch: expected 1 to {10**9}, got {epoch}")
    name = plan.public.federation
    key = GroupKey.create(plan, epoch)
    path, document = out or Path(f"{name}.keystore"), public or Path(f"{name}.federation.json")
    if document.exists():
        raise ConfigError(Reason.FILE_EXISTS, f"{document} exists; it is never overwritten", "move it away first")
    key.save(path, _new_passphrase(protect))
    _write_new(document, key.federation_document.encode())
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


def read_npz(path: Path) -> dict[str, Any]:
    """Read the arrays of an NPZ file, never a pickle.

    Raises:
        InputError: missing, or not an NPZ file of plain arrays.
    """
    try:
        # Opened here: numpy leaves its own file open when the archive in it is broken.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise InputError(Reason.FILE_MISSING, f"{path}: expected an NPZ file, got none") from error
    except Exception as error:  # numpy and zipfile raise half a dozen types for a broken archive
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"{path}: expected an NPZ file of plain arrays, got something else",
            "write it with numpy.savez(path, **tensors)",
        ) from error


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.parse(path.read_bytes())
    except OSError as error:
        raise ConfigError(Reason.FILE_MISSING, f"{path} cannot be read: {error.strerror}") from error
    except HeAggError as error:
        raise ConfigError(
            error.reason,
            f"{path} is not a usable plan file: {error.message}",
            error.hint or "make one: he-agg plan new",
        ) from error


def _write_new(path: Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError as error:
        raise ConfigError(
            Reason.FILE_EXISTS, f"{path} exists; it is never overwritten", "move it away first, or give --out"
        ) from error
    except OSError as error:
        raise ConfigError(Reason.FILE_MISSING, f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _explain(plan: Plan) -> str:
    facts = plan.explain()
    facts["parameters"] = json.dumps(facts["parameters"])
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())
