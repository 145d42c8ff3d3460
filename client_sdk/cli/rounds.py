"""Commands of a site: `he-agg submit|fetch|status`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import click

from client_sdk._disk.npz import check_free, write_npz
from client_sdk._protocol.session import Passphrase
from client_sdk.config import Settings
from client_sdk.lines import Lines, somebody_watches
from client_sdk.site import Round, Site
from he_agg.errors import ProtocolError, Reason
from he_agg.host.commands import FILE, answer, json_option
from he_agg.host.roster_view import day_of
from he_agg.host.shell import quoted
from he_agg.ids import RoundId
from keys.cli.identity import ask_passphrase
from keys.files import read_npz
from keys.hardening import harden_command

__all__ = ["fetch", "status", "status_of", "submit"]

_STATUS_PATIENCE_S = 10.0
"""Somebody sits and waits for it."""

_config = click.option(
    "--config", type=FILE, required=True, help="The site's TOML file: url, identity, keystore, roster, spool."
)


@click.command("submit")
@click.argument("update", metavar="FILE.npz", type=FILE)
@click.option(
    "--weight", type=int, required=True, help="Sample count behind the update. It is encrypted like the rest."
)
@_config
@click.option("--wait", is_flag=True, help="Wait for a round to open if none is open now.")
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "stochastic"]),
    default="nearest",
    show_default=True,
    help="How values meet the grid; stochastic is unbiased.",
)
@click.option("--clip", "clip", is_flag=True, help="Clip values beyond the plan's bound instead of refusing them.")
@click.option(
    "--may-repeat",
    is_flag=True,
    help="Submit an update that is in an earlier sum already; two such sums differ by the other sites' updates alone.",
)
@json_option
def submit(
    update: Path, weight: int, config: Path, wait: bool, rounding: str, clip: bool, may_repeat: bool, as_json: bool
) -> None:
    """Encrypt the arrays of FILE.npz and upload them to the open round.

    If it was interrupted, run it again: it continues with the bytes it has stored.
    """
    harden_command()
    tensors = read_npz(update)
    with Site.open(config, passphrase=ask_passphrase, progress=_listener()) as site:
        round = _open_round(site, wait)
        receipt = round.submit(
            tensors,
            weight,
            rounding="stochastic" if rounding == "stochastic" else "nearest",
            on_overflow="clip" if clip else "error",
            may_repeat=may_repeat,
        )
        facts = {
            "round_id": round.id,
            "site": site.name,
            "submission_id": receipt.id,
            "accepted_at": receipt.accepted_at,
            "bytes_up": round.bytes_up,
            "seconds": dict(round.seconds),
        }
    answer(
        facts,
        as_json,
        lambda: (
            f"round {facts['round_id']}: submission {receipt.id[:12]} is complete\n"
            f"the mean: `he-agg fetch --config {quoted(config)} --round {facts['round_id']} --out mean.npz`"
        ),
    )


@click.command("fetch")
@_config
@click.option("--out", type=FILE, required=True, help="NPZ file to write.")
@click.option("--round", "round_id", help="Id of the round. [default: the one submitted last, else the newest mean]")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@json_option
def fetch(config: Path, out: Path, round_id: str | None, force: bool, as_json: bool) -> None:
    """Wait for the mean of a round, download and decrypt it, and write it to a file."""
    harden_command()
    check_free(out, force)
    if round_id is not None:
        RoundId.parse(round_id)  # before a passphrase is asked for
    with Site.open(config, passphrase=ask_passphrase, progress=_listener()) as site:
        pending = site.pending()
        chosen = round_id or (pending[-1] if pending else None) or _newest(site)
        mean = site.fetch(chosen)
    write_npz(out, mean.tensors, force)
    facts = {
        "round_id": chosen,
        "file": str(out),
        "n_sites": mean.n_sites,
        "total_weight": mean.total_weight,
        "tensors": len(mean.tensors),
    }
    answer(
        facts,
        as_json,
        lambda: f"mean of round {chosen}: {out} ({mean.n_sites} sites, total weight {mean.total_weight})",
    )


@click.command("status")
@_config
@json_option
def status(config: Path, as_json: bool) -> None:
    """Show where the federation stands, and what this site still has in its spool."""
    harden_command()
    facts, text = status_of(config, ask_passphrase)
    answer(facts, as_json, lambda: text)


def status_of(config: Path, passphrase: Passphrase) -> tuple[dict[str, Any], str]:
    """Ask where the federation stands: for scripts, and for people."""
    settings = Settings.load(config, {})
    patience_s = min(settings.patience_s, _STATUS_PATIENCE_S)
    listener = _listener()
    with Site.open(config, passphrase=passphrase, progress=listener, patience_s=patience_s) as site:
        if somebody_watches():
            listener.say(f"asking {settings.url}, for {patience_s:.0f} s at most")
        facts = _facts(site)
        return facts, _describe(facts, site.roster.smallest_group)


def _facts(site: Site) -> dict[str, Any]:
    """Name things as `he-agg federation show --json` and `he-agg watch --json` do."""
    state, pending = site.status(), site.pending()
    facts = dataclasses.asdict(state)
    facts |= {"records": facts.pop("index"), "site": site.name, "pending": pending}
    facts |= {"last_published": site.last_published(), "round": None, "invited": False, "submitted": False}
    facts |= {"min_sites": site.roster.min_sites, "small_groups": site.roster.small_groups}
    facts |= {"keystore_epoch": site.epoch, "roster_expires_at": site.roster.expires_at}
    disputed, opened = state.disputed, facts.pop("open")
    facts["disputed"] = None if disputed is None else str(disputed)
    if opened is not None:
        invited = opened.pop("invited")
        remaining_s = max(0, int(opened["deadline_at"] - time.time()))
        facts["round"] = {"id": str(state.round_id), "phase": "open", **opened, "remaining_s": remaining_s}
        facts |= {"invited": site.name in invited, "submitted": str(state.round_id) in pending}
    return facts


def _open_round(site: Site, wait: bool) -> Round:
    round = next(site.rounds(), None) if wait else site.current()
    if round is None:
        state = site.status()
        if state.stage == "ended":
            raise ProtocolError(
                Reason.ROUND_CLOSED,
                f"federation {site.federation} has ended: there are no more rounds",
                "`he-agg fetch` gets the last mean",
            )
        if state.round_id is not None:
            raise ProtocolError(
                Reason.NOT_INVITED, f"site {site.name} is not invited to round {state.round_id}", "use --wait"
            )
        raise ProtocolError(
            Reason.ROUND_CLOSED,
            f"federation {site.federation}: expected an open round, there is none now"
            + (": the operator has paused it" if state.stage == "paused" else ""),
            "use --wait to wait for one",
        )
    return round


def _newest(site: Site) -> str:
    newest = site.last_published()
    if newest is None:
        raise ProtocolError(
            Reason.SUM_NOT_READY,
            f"federation {site.federation}: expected a published round, there is none yet",
            "`he-agg status` shows where it stands; --round waits for a round that is still open",
        )
    return newest


def _describe(facts: dict[str, Any], sums: str) -> str:
    lines = [f"federation  {facts['federation']} ({facts['stage']})", f"site        {facts['site']}"]
    if (opened := facts["round"]) is not None:
        part = "submitted" if facts["submitted"] else "invited" if facts["invited"] else "not invited"
        lines.append(f"round       {opened['id']}, closes in {opened['remaining_s']} s; this site: {part}")
    lines.append(f"last mean   {facts['last_published'] or 'none yet'}")
    if facts["disputed"] is not None:
        lines.append(f"disputed    {facts['disputed']}: a site has rejected its sum, and too few have opened it so far")
    if facts["records"]:  # whole: `he-agg audit --expect-record` takes it
        lines.append(f"last record {facts['records']}, {facts['head']}")
    lines.append(f"epoch       {facts['epoch']}, key {facts['key_id'][:12]}, plan {facts['plan_id'][:12]}")
    if (mine := facts["keystore_epoch"]) != facts["epoch"]:
        ahead = "`he-agg epoch publish`, where it was dealt"
        what = "`he-agg epoch accept`" if mine < facts["epoch"] else ahead
        lines.append(f"            THIS SITE'S KEYSTORE IS OF EPOCH {mine}: {what}")
    lines.append(f"roster      version {facts['roster_version']}, {_good(facts['roster_expires_at'])}")
    lines.append(f"sums        {sums}")
    if facts["pending"]:
        lines.append(f"in spool    {', '.join(facts['pending'])}")
    return "\n".join(lines)


def _good(expires_at: int) -> str:
    day = day_of(expires_at)
    if time.time() < expires_at:
        return f"good until {day}"
    return f"EXPIRED on {day}: coordinators sign the next, `he-agg roster next`"


def _listener() -> Lines:
    """Print lines in a terminal, and in any case that nobody answers."""
    return Lines(only_retries=not somebody_watches())
