"""The picture of a benchmark: bytes and speed of every scheme, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples.pictures import BLUE, FAINT, ORANGE, drawn, titled
from he_agg.plan.schemes import SCHEMES as CODECS

LABELS = {
    "plaintext-float32": "plaintext float32",
    "mask-floor": "additive mask\n(floor, no HE)",
    "tenseal-stock": "stock TenSEAL",
    **{codec: f"he-agg {codec}" for codec in CODECS},
}
ORDER = ("tenseal-stock", *CODECS, "plaintext-float32", "mask-floor")


def chosen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest size that all schemes have, in a fixed order; hybrid at each of its widths."""
    sizes: dict[str, set[int]] = {row["scheme"]: set() for row in rows}
    for row in rows:
        sizes[row["scheme"]].add(row["values"])
    values = max(set.intersection(*sizes.values()))
    picked = [row for row in rows if row["values"] == values and row["sites"] == 3 and row["max_sites"] == 31]
    return sorted(picked, key=lambda row: (ORDER.index(row["scheme"]), row["value_bits"]))


def draw(report: dict[str, Any], path: Path) -> Path:
    """Draw a point for each scheme in each panel: on a logarithmic axis a bar's length would mean nothing.

    Args:
        report: a result of `make bench`.
        path: the picture.
    """
    rows = chosen(report["rows"])
    names = [
        LABELS[row["scheme"]] + (f", {row['value_bits']} bit" if row["scheme"] == "hybrid" else "") for row in rows
    ]
    colours = [
        BLUE if row["scheme"] in CODECS else ORANGE if row["scheme"] == "tenseal-stock" else FAINT for row in rows
    ]
    speed = "million values/s, one core, log scale; right is better"
    panels = [
        ("Bytes a value, up", "all included, log scale; left is better", "bytes_per_value_up", 1.0, "{:.2f}"),
        ("Encrypt and pack", speed, "encrypt_values_per_s", 1e-6, "{:,.1f}"),
        ("Fold, per site", speed, "fold_values_per_s", 1e-6, "{:,.0f}"),
        ("Open", speed, "open_values_per_s", 1e-6, "{:,.1f}"),
    ]
    figure, axes_of = drawn(len(panels), 15, 4.8, dpi=160)
    for axes, (title, below, key, unit, form) in zip(axes_of, panels, strict=True):
        figures = [row[key] * unit for row in rows]
        axes.set_xscale("log")
        axes.set_xlim(min(figures) / 2, max(figures) * 6)
        axes.minorticks_off()
        axes.grid(axis="x")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.scatter(figures, range(len(rows)), color=colours, s=70, zorder=3)
        axes.invert_yaxis()
        axes.set_yticks(range(len(rows)), names if axes is axes_of[0] else [], fontsize=9.5)
        for place, value in enumerate(figures):
            axes.annotate(
                form.format(value), (value, place), (7, 0), textcoords="offset points", va="center", fontsize=9.5
            )
        titled(axes, title, below)
    machine = f"{report['machine']['cpu']}, {report['date']}; {report['command']}"
    figure.supxlabel(f"{rows[0]['values']:,} values, up to 31 sites, {machine}", fontsize=9, x=0.01, ha="left")
    figure.savefig(path)
    return path
