"""The table that ends a demonstration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from examples.demo.picture import draw
from examples.demo.summary import PHASES, VERIFIED, Summary, write_summary

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

__all__ = ["draw", "print_report", "report_table", "write_report", "write_summary"]


def hospital_label(name: str) -> str:
    """`rural-hospital` as a person writes it."""
    return name.replace("-", " ").capitalize()


def _gap(summary: Summary, score: float) -> str:
    """How far a model alone stays behind the encrypted federation."""
    return f"{round(score - summary['score']['encrypted'], 4) + 0.0:+.4f}"  # + 0.0: no "-0.0000"


def _scores(summary: Summary) -> Table:
    table = Table(box=SIMPLE_HEAD, title="Score on the common test set", title_justify="left", title_style="bold")
    table.add_column("model")
    table.add_column("patients", justify="right")
    table.add_column("AUC", justify="right")
    table.add_column("against encrypted", justify="right")
    weights = summary.get("weights", {})
    for name, score in summary["score"]["local"].items():
        patients = f"{weights[name]:,}" if name in weights else ""
        table.add_row(f"{hospital_label(name)}, alone", patients, f"{score:.4f}", _gap(summary, score))
    table.add_section()
    together = f"{sum(weights.values()):,}" if weights else ""
    plaintext, encrypted = summary["score"]["plaintext"], summary["score"]["encrypted"]
    table.add_row("FedAvg, plaintext", together, f"{plaintext:.4f}", _gap(summary, plaintext))
    table.add_row("FedAvg, encrypted", together, f"{encrypted:.4f}", "", style="bold")
    return table


def _exactness(summary: Summary) -> Table:
    exact = summary["encrypted_vs_fixed_point_max_abs_diff"]
    verdict = Text("exact", style="bold green") if exact == 0 else Text("NOT EXACT", style="bold red")
    bound = summary.get("encrypted_vs_float_bound")
    table = Table(
        box=SIMPLE_HEAD,
        title="Largest difference of the encrypted average",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("from")
    table.add_column("", justify="right")
    table.add_column("")
    table.add_row("plaintext fixed-point average", f"{exact:g}", verdict)
    table.add_row(
        "float64 average",
        f"{summary['encrypted_vs_float_max_abs_diff']:.3g}",
        "" if bound is None else f"grid permits {bound:.3g}",
    )
    return table


def _verified(summary: Summary) -> list[Table]:
    if "verified" not in summary:
        return []
    table = Table(
        box=SIMPLE_HEAD,
        title="Verified by the hospitals before they decrypted anything",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("what")
    table.add_column("", justify="right")
    table.add_column("against")
    against = {
        "records": "the aggregator's signature; the record before",
        "manifests": "each site's signature; the roster; one history for all",
        "sums": "the tags of all members, over every residue",
    }
    for name in VERIFIED:
        table.add_row(name, f"{summary['verified'][name]:,}", against[name])
    return [table]


def _read_together(summary: Summary) -> list[Table]:
    if not summary.get("read_together"):
        return []
    table = Table(
        box=SIMPLE_HEAD,
        title="Read of one hospital's update by the aggregator and another hospital",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("under")
    table.add_column("")
    for keys, read in summary["read_together"].items():
        table.add_row(f"{keys} keys", read)
    return [table]


def _costs(summary: Summary) -> Table:
    # One row a figure: eighty columns are not enough for one column a phase.
    table = Table(box=SIMPLE_HEAD, title="Cost", title_justify="left", title_style="bold")
    table.caption, table.caption_justify = "seconds over all rounds: mean hospital; fold: aggregator", "left"
    table.add_column("of")
    table.add_column("", justify="right")
    table.add_row("bytes a value, up", f"{summary['bytes_per_value_up']:.2f}")
    table.add_row("bytes a value, down", f"{summary['bytes_per_value_down']:.2f}")
    table.add_section()
    for phase in PHASES:
        table.add_row(f"seconds, {phase}", f"{summary['seconds'][phase]:.2f}")
    return table


def report_table(summary: Summary) -> Group:
    """The whole report for a terminal: scores, exactness, bytes and seconds.

    Args:
        summary: a finished demonstration.

    Returns:
        Something to `print` on a rich console.
    """
    head = Text.assemble(
        (f"{summary['sites']} hospitals, {summary['rounds']} rounds, {summary['values']:,} values", "bold"),
        f"   codec {summary['codec']}, {summary.get('keys', 'shared')} keys\n{summary['dataset']}\n",
    )
    tables = (_scores(summary), _exactness(summary), *_verified(summary), *_read_together(summary), _costs(summary))
    return Group(head, *tables)


def print_report(summary: Summary, console: Console) -> None:
    """Print the final table."""
    console.print(report_table(summary))


def write_report(summary: Summary, folder: Path) -> list[Path]:
    """Write `summary.json`, `demo.png` and `demo.svg`.

    Args:
        summary: a finished demonstration.
        folder: made if it is not there.

    Returns:
        The files.
    """
    return [write_summary(summary, folder), *draw(summary, folder)]
