"""`he-agg watch`: the operators' page in a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.operator.cli_options import where
from service.operator.watch_source import from_store, from_url

__all__ = ["draw", "watch"]

_STYLES = {"running": "green", "paused": "yellow", "ended": "dim", "created": "dim"}
_STATES = {
    "absent": ("· waiting", "dim"),
    "uploading": ("↑ uploading", "cyan"),
    "complete": ("✓ complete", "green"),
    "excluded": ("× not in the sum", "red"),
}
_HISTORY = 6
_PROBLEMS = 6


@click.command()
@click.option("--url", "link", metavar="LINK", help="A link of `he-agg operator link`, to watch a server elsewhere.")
@click.option(
    "--every", type=click.FloatRange(0.2, 3600), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("--once", is_flag=True, help="Show it once and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line, for scripts.")
@where
def watch(link: str | None, every: float, once: bool, as_json: bool, data_dir: Path, database_url: str | None) -> None:
    """Watch federations and rounds in the terminal, until Ctrl-C.

    Reads the store, whether or not a server runs; with --url it shows what the server's page shows, recent problems
    included.
    """
    snapshots = from_url(link) if link else from_store(data_dir, database_url, every)
    try:
        if as_json:
            for snapshot in snapshots:
                print(json.dumps(snapshot, sort_keys=True), flush=True)
                if once:
                    return
        elif once:
            Console().print(draw(next(snapshots), time.time()))
        else:
            _live(snapshots)
    except KeyboardInterrupt:
        return
    finally:
        snapshots.close()  # type: ignore[attr-defined]


def _live(snapshots: Iterator[dict[str, Any]]) -> None:
    with Live(console=Console(), screen=False, auto_refresh=False) as live:
        for snapshot in snapshots:
            live.update(draw(snapshot, snapshot["now"]), refresh=True)


def draw(snapshot: dict[str, Any], now: float) -> RenderableType:
    """A snapshot as it is shown.

    Args:
        snapshot: of `take_snapshot`.
        now: Units: seconds since 1970, UTC.
    """
    shown: list[RenderableType] = [_federation(one, now) for one in snapshot["federations"]]
    if not shown:
        shown.append(Text("no federations yet; register one: he-agg federation create federation.json"))
    process = snapshot["process"]
    if process is not None and process["problems"]:
        shown.append(_problems(process["problems"], now))
    shown.append(_storage(snapshot))
    return Group(*shown)


def _federation(one: dict[str, Any], now: float) -> RenderableType:
    title = Text.assemble(
        (one["federation"], "bold"),
        "  ",
        (one["stage"], _STYLES[one["stage"]]),
        f"  {one['published']}/{one['rounds']}",
    )
    round_ = one["round"]
    if round_ is None:
        return Panel(Text("no round yet", "dim"), title=title, title_align="left")
    inside: list[RenderableType] = [_headline(round_, now), _sites(round_, now)]
    if one["history"]:
        inside.append(_history(one["history"][:_HISTORY]))
    return Panel(Group(*inside), title=title, title_align="left")


def _headline(round_: dict[str, Any], now: float) -> Text:
    done, invited, quorum = round_["complete"], len(round_["sites"]), round_["quorum"]
    reached = "reached" if done >= quorum else f"{quorum - done} more needed"
    text = Text.assemble(
        (f"round {round_['number']}", "bold"),
        f", attempt {round_['attempt']}" if round_["attempt"] > 1 else "",
        f"  {round_['phase']}  ",
        (f"{done} of {invited} complete", "green" if done >= quorum else "yellow"),
        f", quorum {quorum} ({reached})",
    )
    if round_["phase"] == "open":
        left = "clock stands still" if round_["clock_stands"] else f"{_duration(round_['deadline_at'] - now)} left"
        text.append(f"  {left}", "cyan")
    elif round_["phase"] == "folding":
        text.append(f"  sum {round_['sum_parts']}/{round_['parts']} parts", "cyan")
    return text


def _sites(round_: dict[str, Any], now: float) -> Table:
    table = Table.grid(padding=(0, 2))
    for site in round_["sites"]:
        state, style = ("↻ asked to send again", "red") if site["asked_again"] else _STATES[site["state"]]
        bar = ProgressBar(max(1, site["bytes_total"]), site["bytes"], width=20)
        when = "" if site["accepted_at"] is None else f"{_duration(now - site['accepted_at'])} ago"
        size = f"{decimal(site['bytes'])} of {decimal(site['bytes_total'])}"
        table.add_row(escape(site["site"]), Text(state, style), bar, size, Text(when, "dim"))
    return table


def _history(history: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("round", "outcome", "sites", "took", "received", "ended"):
        table.add_column(name)
    for one in history:
        table.add_row(
            f"{one['number']}" + (f".{one['attempt']}" if one["attempt"] > 1 else ""),
            Text(one["outcome"], "green" if one["outcome"] == "published" else "red"),
            str(one["members"]),
            _duration(one["ended_at"] - one["opened_at"]),
            decimal(one["bytes_up"]),
            datetime.fromtimestamp(one["ended_at"]).strftime("%Y-%m-%d %H:%M:%S"),
        )
    return table


def _problems(problems: list[dict[str, Any]], now: float) -> Panel:
    table = Table.grid(padding=(0, 2))
    for one in problems[:_PROBLEMS]:
        often = f" x{one['count']}" if one["count"] > 1 else ""
        who = " ".join(filter(None, (one["member"], one["round_id"] or one["federation"])))
        table.add_row(
            f"{_duration(now - one['at'])} ago", Text(one["reason"] + often, "yellow"), escape(who), one["id"]
        )
    return Panel(table, title="recent problems", title_align="left")


def _storage(snapshot: dict[str, Any]) -> Text:
    storage, process = snapshot["storage"], snapshot["process"]
    short = storage["free_bytes"] < storage["reserve_bytes"]
    text = Text.assemble(
        (f"{decimal(storage['free_bytes'])} free", "red" if short else ""),
        f" of {decimal(storage['size_bytes'])}, reserve {decimal(storage['reserve_bytes'])}, "
        f"{decimal(storage['held_bytes'])} held",
    )
    if process is not None:
        traffic = process["traffic"]
        text.append(
            f"; {traffic['requests']} requests, {decimal(traffic['received_bytes'])} in, "
            f"{decimal(traffic['sent_bytes'])} out since the start"
        )
    return text


def _duration(seconds: float) -> str:
    s = max(0, int(seconds))
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60} s"
    return f"{s // 3600} h {s % 3600 // 60} min"
