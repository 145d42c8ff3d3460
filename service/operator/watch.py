"""`he-agg watch`: the operators' page in a terminal, read from the store or from a server somewhere else."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from he_agg.documents.record import HOW_IT_ENDED
from he_agg.documents.verdict import REJECTED
from he_agg.errors import ConfigError, ProtocolError, Reason, TransportError
from he_agg.host.commands import json_option
from he_agg.host.roster_view import day_of
from service.monitor.view import take_view
from service.operator.holding import awaited_line, complaint_lines, keys_line
from service.operator.operations import NONE_YET
from service.operator.options import where
from service.settings import load_settings
from service.store.parts.opening import open_parts
from service.store.sql import open_store

__all__ = ["watch"]

_TOKEN = re.compile(r"[0-9]{10,}\.[0-9a-f]{16}\.[0-9a-f]{64}\Z")
_TIMEOUT_S = 30.0
_NO_CONTENT, _OK = 204, 200

_STYLES = {"running": "green", "paused": "yellow", "ended": "dim", "created": "dim"}
_STATES = {
    "absent": ("· waiting", "dim"),
    "open": ("↑ uploading", "cyan"),
    "complete": ("✓ complete", "green"),
    "excluded": ("× not in the sum", "red"),
}
_HISTORY = 6
_PROBLEMS = 6


@click.command()
@click.option("--url", "link", metavar="LINK", help="A link of `he-agg operator link`, to watch a server elsewhere.")
@click.option(
    "--every", type=click.FloatRange(0.2, 3600), default=1.0, show_default=True, help="Seconds between updates."
)
@click.option("--once", is_flag=True, help="Show it once and end.")
@json_option
@where
def watch(link: str | None, every: float, once: bool, as_json: bool, data_dir: Path, database_url: str | None) -> None:
    """Watch federations and rounds in the terminal, until Ctrl-C.

    Reads the store, whether or not a server runs; with --url it shows what the server's page shows, recent problems
    included. With --json, each look is a line.
    """
    with closing(_from_url(link) if link else _from_store(data_dir, database_url, every)) as views:
        try:
            if as_json:
                for view in views:
                    print(json.dumps(view, sort_keys=True), flush=True)
                    if once:
                        return
            elif once:
                Console().print(_draw(next(views)))
            else:
                with Live(console=Console(), screen=False, auto_refresh=False) as live:
                    for view in views:
                        live.update(_draw(view), refresh=True)
        except KeyboardInterrupt:
            return


def _draw(view: dict[str, Any]) -> RenderableType:
    now = view["now"]
    shown: list[RenderableType] = [_federation(one, now) for one in view["federations"]]
    if not shown:
        shown.append(Text(NONE_YET))
    process = view["process"]
    if process is not None and process["problems"]:
        shown.append(_problems(process["problems"], now))
    shown.append(_storage(view))
    return Group(*shown)


def _federation(one: dict[str, Any], now: float) -> RenderableType:
    title = Text.assemble(
        (one["federation"], "bold"),
        "  ",
        (one["stage"], _STYLES[one["stage"]]),
        f"  {one['published']}/{one['rounds']}",
        "" if one["end"] is None else f"  {HOW_IT_ENDED[one['end']['reason']]}",
    )
    inside: list[RenderableType] = []
    if one["stage"] != "ended" and now >= one["roster_expires_at"]:
        day = day_of(one["roster_expires_at"])
        inside.append(Text(f"the roster EXPIRED on {day}: nobody is let in until coordinators bring the next", "red"))
    inside += _holding(one)
    round_ = one["round"]
    if round_ is None:
        return Panel(Group(*inside, Text("no round yet", "dim")), title=title, title_align="left")
    inside += [_headline(round_), _sites(round_, now)]
    if (disputed := one["disputed"]) is not None:
        rejected = ", ".join(site for site, said in disputed["verdicts"].items() if said == REJECTED)
        inside.insert(0, Text(f"round {disputed['id']} is disputed: its sum was rejected by {rejected}", "red"))
    if one["history"]:
        inside.append(_history(one["history"][:_HISTORY]))
    return Panel(Group(*inside), title=title, title_align="left")


def _holding(one: dict[str, Any]) -> list[RenderableType]:
    """What to see to about holders; nothing if there is nothing."""
    if (holding := one["holding"]) is None:
        return []
    lines = [] if holding["ready"] or one["end"] is not None else [Text(f"holders: {keys_line(one)}", "red")]
    if (awaited := holding["awaited"]) is not None:
        lines.append(Text(awaited_line(awaited), "yellow"))
        lines += [Text(line, "red") for line in complaint_lines(awaited)]
    return list(lines)


def _headline(round_: dict[str, Any]) -> Text:
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
        left = round_["remaining_s"]
        text.append("  clock stands still" if left is None else f"  {_duration(left)} left", "cyan")
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


def _storage(view: dict[str, Any]) -> Text:
    storage, process = view["storage"], view["process"]
    text = Text()
    if storage["free_bytes"] is not None:
        short = storage["free_bytes"] < storage["reserve_bytes"]
        text.append(f"{decimal(storage['free_bytes'])} free", "red" if short else "")
        text.append(f" of {decimal(storage['size_bytes'])}, reserve {decimal(storage['reserve_bytes'])}, ")
    text.append(f"{decimal(storage['held_bytes'])} held")
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


def _from_store(data_dir: Path, database_url: str | None, every_s: float) -> Generator[dict[str, Any]]:
    """View the store, again and again. What only the server knows is not in it."""
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    store, part_store = open_store(settings, create=False), open_parts(settings)
    try:
        while True:
            yield take_view(store, part_store, settings, time.time())
            time.sleep(every_s)
    finally:
        store.close()


def _from_url(link: str) -> Generator[dict[str, Any]]:
    """View what the operators' listener sends. The link is used up by this."""
    address = urlsplit(link)
    if address.scheme not in ("http", "https") or not address.hostname or not _TOKEN.match(address.fragment):
        hint = "`he-agg operator link` makes one"
        raise ConfigError(Reason.BAD_CONFIG, "expected a link with a token, got none", hint)
    base = address.path.rstrip("/")
    body = json.dumps({"token": address.fragment})
    with _request(address, "POST", f"{base}/login", body, {"Content-Type": "application/json"}) as answer:
        if answer.status != _NO_CONTENT:
            hint = "`he-agg operator link` makes another"
            raise ProtocolError(Reason.UNAUTHENTICATED, "the link is too old, or was used before", hint)
        cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
    with _request(address, "GET", f"{base}/events", None, {"Cookie": cookie}) as answer:
        if answer.status != _OK:
            raise ProtocolError(Reason.BAD_ANSWER, f"the operators' listener answered {answer.status}")
        while line := answer.readline():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
    raise TransportError(Reason.UNREACHABLE, "the aggregator has ended the stream", "see whether it runs")


@contextmanager
def _request(
    address: Any, method: str, path: str, body: str | None, headers: dict[str, str]
) -> Iterator[http.client.HTTPResponse]:
    # Directly, whatever HTTP_PROXY says: this is an address of the operator's own.
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname, address.port, timeout=_TIMEOUT_S)
    try:
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(
                Reason.UNREACHABLE, f"no answer at {address.hostname} port {address.port}", "is --operator-port given?"
            ) from error
        try:
            yield answer
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(Reason.UNREACHABLE, "the connection to the aggregator is lost") from error
        finally:
            answer.close()
    finally:
        connection.close()
