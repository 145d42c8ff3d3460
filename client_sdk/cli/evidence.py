"""The command about broken promises: `he-agg evidence export`."""

from __future__ import annotations

from pathlib import Path

import click

from client_sdk._disk.npz import check_free
from client_sdk.cli.link import config_option
from client_sdk.site import Site
from he_agg.audit.evidence import encode_evidence
from he_agg.host.commands import FILE, answer, json_option
from he_agg.host.files import replace
from keys.cli.identity import ask_passphrase
from keys.hardening import harden_command

__all__ = ["evidence_export"]


@click.command("export")
@config_option
@click.option("--out", type=FILE, required=True, help="File to write, for the coordinator and the auditors.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@json_option
def evidence_export(config: Path, out: Path, force: bool, as_json: bool) -> None:
    """Write what this site has kept of receipts that the aggregator broke: each with the record that breaks it.

    All of it is signed by the aggregator, and none of it is secret.
    """
    harden_command()
    check_free(out, force)
    with Site.open(config, passphrase=ask_passphrase) as site:
        kept = site.evidence()
    broken = {one.receipt.body.round_id: one.check() for one in kept}
    replace(out, encode_evidence(kept), 0o644)
    lines = [f"{len(broken)} broken receipts: {out}"]
    lines += [f"round {round_id}: its record {how}" for round_id, how in broken.items()]
    answer({"file": str(out), "broken": broken}, as_json, lambda: "\n".join(lines))
