"""`he-agg demo`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from examples.demo.run import run
from he_agg import DecryptionError, Reason
from he_agg.plan.plan import KEYS, SHARED
from he_agg.plan.schemes import DEFAULT_CODEC, SCHEMES

__all__ = ["demo"]


@click.command("demo")
@click.option("--codec", type=click.Choice(sorted(SCHEMES)), default=DEFAULT_CODEC, show_default=True)
@click.option(
    "--keys",
    type=click.Choice(KEYS),
    default=SHARED,
    show_default=True,
    help="split: a trustee holds shares, too; a hospital is killed, the trustee goes; and somebody tries to read.",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-report"),
    show_default=True,
    help="Folder for summary.json and the picture.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout, the rest on stderr.")
def demo(codec: str, keys: str, folder: Path, as_json: bool) -> None:
    """Run four hospitals and an aggregator as processes on this machine; they average a model of real patients."""
    summary = run(codec, folder, Console(stderr=as_json), keys)
    if as_json:
        print(json.dumps(summary, indent=2))
    if summary["encrypted_vs_fixed_point_max_abs_diff"] != 0:
        raise DecryptionError(Reason.INTERNAL, "the encrypted average differs from the plaintext fixed-point average")
