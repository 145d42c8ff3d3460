"""`he-agg aggregator show`: the key that a roster has to list."""

from __future__ import annotations

from pathlib import Path

import click

from he_agg.host.commands import answer
from service.core.aggregator_key import AggregatorKey
from service.operator import cli_options as options

__all__ = ["aggregator_show"]


@click.command()
@options.data_dir
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the public file, which the coordinator takes into the roster.",
)
@options.as_json
def aggregator_show(data_dir: Path, out: Path | None, as_json: bool) -> None:
    """Show the fingerprint of the aggregator's key. The key is made the first time.

    Read the fingerprint to the coordinator over the phone before the roster is signed.
    """
    key = AggregatorKey.load_or_create(data_dir)
    if out is not None:
        key.save_public(out)
    shown = {"name": key.name, "fingerprint": key.member.fingerprint, "signing_key": key.member.signing_key}
    written = "" if out is None else f"\npublic file written to {out}"
    answer(shown, as_json, lambda: f"{key.name}  {key.member.fingerprint}{written}")
