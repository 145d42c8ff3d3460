"""`he-agg operator link`: how whoever runs the aggregator gets to its page."""

from __future__ import annotations

from pathlib import Path

import click

from he_agg.errors import ConfigError, Reason
from he_agg.host.commands import answer
from service.monitor.dashboard.access import LINK_S, Access
from service.operator import cli_options as options

__all__ = ["operator_link"]


@click.command()
@options.data_dir
@click.option(
    "--url",
    envvar="HE_AGG_OPERATOR_URL",
    default="http://127.0.0.1:8471",
    show_default=True,
    help="Address of the operators' page as the browser reaches it.",
)
@options.as_json
def operator_link(data_dir: Path, url: str, as_json: bool) -> None:
    """Make a link that logs a browser in to the operators' page, once and within ten minutes.

    From another machine: `ssh -L 8471:127.0.0.1:8471 aggregator.example`, then open the link there.
    """
    if not data_dir.is_dir():
        raise ConfigError(Reason.FILE_MISSING, f"there is no data directory {data_dir}", "name the right --data-dir")
    link = f"{url.rstrip('/')}/#{Access.load_or_create(data_dir).new_link()}"
    answer({"link": link, "valid_s": LINK_S}, as_json, lambda: link)
