"""The picture of a benchmark: bytes and speed of every scheme, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples.demo.picture import BLUE, DPI, FAINT, ORANGE, QUIET, STYLE
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
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = chosen(report["rows"])
    names = [
        LABELS[row["scheme"]] + (f", {row['value_bits']} bit" if row["scheme"] == "hybrid" else "") for row in rows
    ]
    colours = [
        BLUE if row["scheme"] in CODECS else ORANGE if row["scheme"] == "tenseal-stock" else FAINT for row in rows
    ]
    panels = [
        ("Bytes a value, up", "bytes_per_value_up", 1.0, "{:.2f}", False),
        ("Encrypt and pack", "encrypt_values_per_s", 1e-6, "{:,.1f}", True),
        ("Fold, per site", "fold_values_per_s", 1e-6, "{:,.0f}", True),
        ("Open", "open_values_per_s", 1e-6, "{:,.1f}", True),
    ]
    with mpl.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.12, wspace=0.02)
        figure = Figure(figsize=(13.5, 4.6), dpi=DPI, facecolor="white", layout=layout)
        FigureCanvasAgg(figure)
        for axes, (title, key, unit, form, logarithmic) in zip(figure.subplots(1, 4), panels, strict=True):
            figures = [row[key] * unit for row in rows]
            axes.barh(range(len(rows)), figures, color=colours, height=0.62)
            axes.invert_yaxis()
            axes.set_yticks(range(len(rows)), names if key == "bytes_per_value_up" else [], fontsize=9.5)
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)
            if logarithmic:
                axes.set_xscale("log")
                axes.set_xlim(min(figures) / 3, max(figures) * 8)
                axes.minorticks_off()
                axes.set_xticks([])
            else:
                axes.set_xlim(0, max(figures) * 1.25)
            for place, value in enumerate(figures):
                axes.annotate(
                    form.format(value), (value, place), (5, 0), textcoords="offset points", va="center", fontsize=9.5
                )
            axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=22)
            below = "million values/s, one core, log scale" if logarithmic else "everything included"
            axes.annotate(
                below,
                (0, 1),
                (0, 8),
                xycoords="axes fraction",
                textcoords="offset points",
                fontsize=8.5,
                color=QUIET,
            )
        figure.supxlabel(
            f"{rows[0]['values']:,} values, up to 31 sites, {report['machine']['cpu']}, {report['date']};"
            f" {report['command']}",
            fontsize=9,
            color=QUIET,
            x=0.01,
            ha="left",
        )
        figure.savefig(path)
    return path
