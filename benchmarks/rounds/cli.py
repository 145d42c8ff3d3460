"""`he-agg bench round`, `bench report` and `bench compare`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.report import name_of
from benchmarks.rounds.compare import Change, compare
from benchmarks.rounds.links import RATES
from benchmarks.rounds.models import MODELS
from benchmarks.rounds.schemes import SCHEMES
from he_agg.errors import ConfigError, Reason
from he_agg.host.commands import Whole, answer, messages

__all__ = ["bench_compare", "bench_report", "bench_round"]

_CHECKOUT = Path(__file__).parents[2]
_QUICK_SCHEMES = ("plaintext", "hybrid-16", "hybrid-8", "ckks", "tenseal-stock", "flower-fedavg", "flower-secaggplus")
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


class _Words(click.ParamType):
    """Words out of a set, with commas between them."""

    name = "list"

    def __init__(self, known: dict[str, Any] | None = None) -> None:
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        if isinstance(value, list):
            return value
        words = [word.strip() for word in str(value).split(",") if word.strip()]
        for word in words:
            if self._known is not None and word not in self._known:
                self.fail(f"expected words out of {', '.join(self._known)}, got {word!r}", param, ctx)
            if self._known is None and not (word.isdigit() and 2 <= int(word) <= 200):
                self.fail(f"expected numbers of sites, 2 to 200, got {word!r}", param, ctx)
        return words if self._known is not None else [int(word) for word in words]


def _results() -> Path:
    """In a checkout beside the benchmark, otherwise where the user is."""
    return _CHECKOUT / "benchmarks" / "results" if (_CHECKOUT / "pyproject.toml").exists() else Path("bench-results")


@click.command()
@click.option("--quick", is_flag=True, help="Small models, loopback and 100 Mbit/s, two repetitions: a few minutes.")
@click.option("--models", type=_Words(MODELS), help=f"Out of {', '.join(MODELS)}, with commas.")
@click.option("--links", type=_Words(RATES), help=f"Out of {', '.join(RATES)}, with commas.")
@click.option("--sites", type=_Words(), help="Numbers of sites, with commas.")
@click.option("--schemes", type=_Words(SCHEMES), help=f"Out of {', '.join(SCHEMES)}, with commas.")
@click.option("--repetitions", type=Whole(1, 100), help="Of each scheme in each cell.  [default: 5, quick: 2]")
@click.option(
    "--shaping",
    type=click.Choice(["auto", "namespaces", "proxy"]),
    default="auto",
    show_default=True,
    help="How links are made slower: network namespaces (root), or a proxy.",
)
@click.option(
    "--flower-python",
    type=click.Path(exists=True, dir_okay=False),
    default=sys.executable,
    help="The Python of an environment that has flwr.  [default: this one]",
)
@click.option(
    "--add", is_flag=True, help="Add to the result that is there: rows measured anew take the place of old ones."
)
@click.option("--out", type=click.Path(path_type=Path), help="The result, JSON.  [default: benchmarks/results/...]")
def bench_round(
    quick: bool,
    models: list[str] | None,
    links: list[str] | None,
    sites: list[int] | None,
    schemes: list[str] | None,
    repetitions: int | None,
    shaping: str,
    flower_python: str,
    add: bool,
    out: Path | None,
) -> None:
    """Measure whole rounds over real HTTP against plaintext float32 FedAvg, every party a separate process.

    The result is written after each cell, so that a run that is cut short keeps what it measured. Look at it with
    `he-agg bench report`.
    """
    from benchmarks.rounds.run import cells, run

    every = None not in (models, links, sites)
    todo = cells(
        models or (["logreg", "cnn"] if quick else list(MODELS)),
        sites or ([3] if quick else [3, 10, 30]),
        links or (["loopback", "100mbit"] if quick else list(RATES)),
        every,
    )
    labels = schemes or (list(_QUICK_SCHEMES) if quick else list(SCHEMES))
    path = out or _results() / f"{name_of('rounds-')}{'-quick' if quick else ''}.json"
    command = shlex.join(["he-agg", *sys.argv[1:]])
    terminal = Console(stderr=True, highlight=False)
    with terminal.status("") as status:

        def note(text: str) -> None:
            status.update(f"{text} (of {len(todo)})")

        try:
            times = repetitions or (2 if quick else 5)
            report = run(
                todo, labels, times, path, command, shaping=shaping, add=add, note=note, flower_python=flower_python
            )
        except RuntimeError as error:
            raise ConfigError(Reason.INTERNAL, f"a process of the benchmark failed: {error}") from error
    Console(width=None if sys.stdout.isatty() else 120).print(_table(report))
    for each in report["promises"]:
        verdict = "holds" if each["holds"] else "FALLS SHORT"
        durable = each.get("ratio_to_plaintext_durable")
        beside = "" if durable is None else f" ({durable:.3f} of plaintext-durable)"
        what = f"{each['scheme']}, {each['link']}: {each['figure']}"
        print(f"{what} {each['measured']:.3f}{beside}, at most {each['at_most']}: {verdict}")
    messages.print(f"Written in {report['seconds']:.0f} s: {path}")


@click.command()
@click.argument("results", type=_FILE, required=False)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder.  [default: beside the result]")
def bench_report(results: Path | None, out: Path | None) -> None:
    """Make a page (one file, nothing from the network) and pictures of RESULTS, by default of the newest result."""
    from benchmarks.rounds.page import write_page

    path = results or _newest()
    for file in write_page(_read(path), out or path.parent, path.stem):
        print(file)


@click.command()
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench_compare(before: Path, after: Path, as_json: bool) -> int:
    """Compare two results: what is worse in AFTER by more than chance. Exits with 1 if anything is.

    Ratios to plaintext are compared, and bytes; of plaintext itself, seconds.
    """
    changes = compare(_read(before), _read(after))
    if not changes:
        raise ConfigError(Reason.BAD_ARGUMENT, f"{before} and {after} have no row in common")
    worse = [change for change in changes if change.verdict == "worse"]
    answer(
        [vars(change) | {"factor": change.factor} for change in changes],
        as_json,
        lambda: "\n".join(
            [_line(change) for change in changes if change.verdict != "same"]
            + [f"{len(changes)} figures compared, {len(worse)} worse"]
        ),
    )
    return 1 if worse else 0


def _line(change: Change) -> str:
    row = ", ".join(str(part) for part in change.row)
    numbers = f"{change.before:.4g} -> {change.after:.4g} ({change.factor:.2f} x, noise {change.noise:.0%})"
    return f"{change.verdict:<7} {row}: {change.figure} {numbers}"


def _newest() -> Path:
    found = sorted(_results().glob("rounds-*.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(Reason.FILE_MISSING, f"no result in {_results()}", "`he-agg bench round` makes one")
    return found[-1]


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(Reason.BAD_CONFIG, f"{path}: expected a result of `he-agg bench round`: {error}") from error
    if not isinstance(report, dict) or report.get("kind") != "bench-round":
        raise ConfigError(Reason.BAD_CONFIG, f"{path}: expected a result of `he-agg bench round`, got something else")
    return report


def _table(report: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("scheme", "model", "sites", "link", "round s", "least", "most", "ratio", "MB up", "MB down"):
        table.add_column(name, justify="left" if name in ("scheme", "model", "link") else "right")
    for row in report["rows"]:
        start = [row["label"], row["model"], str(row["sites"]), row["link"]]
        if "skipped" in row:
            table.add_row(*start, f"left out: {row['skipped']}")
            continue
        seconds = [f"{row[name]:.3f}" for name in ("round_s_median", "round_s_min", "round_s_max")]
        sizes = [f"{row[name] / 1e6:.3f}" for name in ("bytes_up", "bytes_down")]
        table.add_row(*start, *seconds, f"{row['ratio_to_plaintext']:.2f}", *sizes)
    return table
