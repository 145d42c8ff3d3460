"""`he-agg serve`: run the aggregator."""

from __future__ import annotations

from pathlib import Path

import click

from service.cli_options import where
from service.settings import Settings, load_settings

__all__ = ["serve"]

_DEFAULTS = Settings.model_fields


@click.command()
@click.option("--host", help=f"Address to listen on.  [default: {_DEFAULTS['host'].default}, or HE_AGG_HOST]")
@click.option(
    "--port",
    type=int,
    help=f"Port to listen on; 0 takes a free one.  [default: {_DEFAULTS['port'].default}, or HE_AGG_PORT]",
)
@where
def serve(host: str | None, port: int | None, data_dir: Path, database_url: str | None) -> None:
    """Run the aggregator until SIGTERM or Ctrl-C.

    The first line on stdout is `listening on http://HOST:PORT`; the log goes to stderr, one JSON object per line.
    """
    # Only this command needs the web framework.
    from service.server import run

    run(load_settings(data_dir=data_dir, database_url=database_url, host=host, port=port))
