"""Commands about the aggregator itself: `he-agg aggregator show` and `forget-key`, and `he-agg operator link`."""

from __future__ import annotations

from pathlib import Path

import click

from he_agg.errors import ConfigError, Reason
from he_agg.host.commands import FILE, answer, json_option
from service.audit_events.event import make_event
from service.core.aggregator_key import AggregatorKey
from service.monitor.audit_log.wiring import command_events
from service.monitor.dashboard.access import LINK_S, Access
from service.operator.options import data_dir as data_dir_option
from service.operator.options import where
from service.settings import load_settings
from service.store.lock import forget_key
from service.store.sql import open_store

__all__ = ["aggregator_forget_key", "aggregator_show", "operator_link"]


@click.command()
@data_dir_option
@click.option("--out", type=FILE, help="Also write the public file, which the coordinator takes into the roster.")
@json_option
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


@click.command()
@where
def aggregator_forget_key(data_dir: Path, database_url: str | None) -> None:
    """Forget which key replicas have to sign with, after it was lost: the next one that starts brings the new one.

    Every federation needs a roster that lists the new key.
    """
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    store = open_store(settings, create=False)
    try:
        with command_events(settings) as tell:
            forgotten = forget_key(store)
            if forgotten:
                tell(make_event("aggregator.key-forgotten"))
    finally:
        store.close()
    click.echo("forgotten" if forgotten else "no replica has started yet: there is nothing to forget")


@click.command()
@data_dir_option
@click.option(
    "--url",
    envvar="HE_AGG_OPERATOR_URL",
    default="http://127.0.0.1:8471",
    show_default=True,
    help="Address of the operators' page as the browser reaches it.",
)
@json_option
def operator_link(data_dir: Path, url: str, as_json: bool) -> None:
    """Make a link that logs a browser in to the operators' page, once and within ten minutes.

    From another machine: `ssh -L 8471:127.0.0.1:8471 aggregator.example`, then open the link there.
    """
    if not data_dir.is_dir():
        raise ConfigError(Reason.FILE_MISSING, f"there is no data directory {data_dir}", "name the right --data-dir")
    settings = load_settings(data_dir=data_dir)
    if settings.oidc_issuer is not None:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"people sign in to the operators' page by {settings.oidc_issuer}, and links are not taken there",
            "open the page and sign in; `he-agg watch` shows the same on this machine",
        )
    with command_events(settings) as tell:
        link = f"{url.rstrip('/')}/#{Access.load_or_create(data_dir).new_link()}"
        tell(make_event("operator.link-made"))
    answer({"link": link, "valid_s": LINK_S}, as_json, lambda: link)
