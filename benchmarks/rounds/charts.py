"""Pictures of a result, one idea each. PNG bytes, so that the page can carry them and the README too."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

__all__ = ["CHARTS", "fitted", "fitted_text", "png"]

Row = dict[str, Any]

COLOURS = {
    "plaintext": "#6b7280",
    "plaintext-durable": "#9ca3af",
    "hybrid-8": "#0f766e",
    "hybrid-16": "#0ea5a0",
    "hybrid-24": "#5eead4",
    "hybrid-16-of-31": "#8bb8b5",
    "ckks": "#7c3aed",
    "tenseal-stock": "#c2410c",
    "flower-fedavg": "#ca8a04",
    "flower-fedavg-stock": "#facc15",
    "flower-secaggplus": "#be185d",
}
_PHASES = {
    "encrypt": "#0ea5a0",
    "upload": "#2563eb",
    "wait": "#9ca3af",
    "download": "#60a5fa",
    "start": "#fbbf24",
    "verify": "#a16207",
    "decrypt": "#7c3aed",
}
_LINKS = ("loopback", "1gbit", "100mbit", "20mbit")


def measured(report: dict[str, Any]) -> list[Row]:
    """Rows that were not left out."""
    return [row for row in report["rows"] if "skipped" not in row]


def headline(rows: list[Row]) -> list[Row]:
    """The rows of one model and number of sites: 10^7 and 3 where measured, otherwise the largest with most links."""

    def rank(key: tuple[int, int]) -> tuple[bool, int, int]:
        links = {row["link"] for row in rows if (row["values"], row["sites"]) == key}
        return key == (10**7, 3), len(links), key[0]

    best = max({(row["values"], row["sites"]) for row in rows}, key=rank)
    return [row for row in rows if (row["values"], row["sites"]) == best]


def _what(rows: list[Row]) -> str:
    return f"{rows[0]['values']:,} values, {rows[0]['sites']} sites"


def expansion(rows: list[Row], axes: Axes) -> None:
    """Bytes up and down by those of float32."""
    rows = [row for row in headline(rows) if row["label"] != "plaintext-durable"]
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["label"], row)
    names = list(first)
    factors = [first[name]["bytes_ratio_to_plaintext"] for name in names]
    axes.barh(names, factors, color=[COLOURS.get(name, "#444") for name in names])
    axes.axvline(1, color="#111", lw=0.8, ls=":")
    for at, factor in enumerate(factors):
        axes.text(factor * 1.03, at, f"{factor:.2f} x", va="center", fontsize=9)
    if max(factors) > 4:
        axes.set_xscale("log")
    axes.set_xlim(right=max(factors) * 1.5)
    axes.invert_yaxis()
    axes.set_title(f"Bytes up and down, by those of float32 ({_what(rows)})")


def phases(rows: list[Row], axes: Axes) -> None:
    """Seconds of each phase, stacked, mean over sites."""
    rows = [row for row in headline(rows) if row["label"] not in ("tenseal-stock", "ckks", "plaintext-durable")]
    rows = sorted(rows, key=lambda row: _LINKS.index(row["link"]))
    places: list[float] = []
    at, link = 0.0, ""
    for row in rows:
        at += 0.6 if row["link"] != link and places else 0.0
        link = row["link"]
        places.append(at)
        at += 1.0
    left = np.zeros(len(rows))
    for phase, colour in _PHASES.items():
        widths = np.array([row["seconds"].get(phase, 0.0) for row in rows])
        if widths.any():
            axes.barh(places, widths, left=left, color=colour, label=phase, height=0.8)
            left += widths
    axes.plot([row["round_s_median"] for row in rows], places, "|", color="#111", ms=12, label="whole round")
    axes.set_yticks(places, [f"{row['label']}, {row['link']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds, mean over sites; the round ends with the last site")
    axes.legend(ncols=4, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.45, -0.16))
    axes.set_title(f"Where a round's time goes ({_what(rows)})")


def ratio(rows: list[Row], axes: Axes) -> None:
    """Round time by that of plaintext in the same repetition, per link."""
    rows = [row for row in headline(rows) if row["label"] != "plaintext"]
    links = [link for link in _LINKS if any(row["link"] == link for row in rows)]
    labels = list(dict.fromkeys(row["label"] for row in rows))
    width = 0.8 / len(labels)
    for number, label in enumerate(labels):
        for at, link in enumerate(links):
            for row in rows:
                if row["label"] == label and row["link"] == link:
                    x, value = at + (number - (len(labels) - 1) / 2) * width, row["ratio_to_plaintext"]
                    error = [[value - row["ratio_min"]], [row["ratio_max"] - value]]
                    axes.bar(x, value, width * 0.92, color=COLOURS.get(label, "#444"))
                    axes.errorbar(x, value, yerr=error, color="#111", lw=0.8, capsize=2)
                    axes.text(x, row["ratio_max"] * 1.05, f"{value:.2f}", ha="center", fontsize=8)
    for label in labels:
        axes.bar(0, 0, color=COLOURS.get(label, "#444"), label=label)
    axes.axhline(1, color="#111", lw=0.8, ls=":")
    axes.set_yscale("log")
    ticks = [t for t in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if t < 1.6 * max(r["ratio_max"] for r in rows)]
    axes.set_yticks(ticks, [f"{tick:g} x" for tick in ticks])
    axes.minorticks_off()
    axes.set_xticks(range(len(links)), links)
    axes.set_ylim(top=2 * max(row["ratio_max"] for row in rows))
    axes.legend(fontsize=8, frameon=False, ncols=3)
    axes.set_title(f"Round time by plaintext float32 of the same repetition ({_what(rows)})")


def fitted(points: list[tuple[float, float]]) -> float | None:
    """The exponent of a power law through points, by least squares in logarithms; None without three different x.

    Args:
        points: (x, y), all above zero.
    """
    x, y = np.log([point[0] for point in points]), np.log([point[1] for point in points])
    if len(set(x.tolist())) < 3:
        return None
    return float(np.polyfit(x, y, 1)[0])


def fitted_text(points: list[tuple[float, float]]) -> str:
    """The exponent, for a legend."""
    exponent = fitted(points)
    return "" if exponent is None else f", exponent {exponent:.2f}"


def _scaling(rows: list[Row], axes: Axes, by: str, other: str, least: float) -> None:
    rows = [row for row in rows if row["link"] == "loopback"] or rows
    # The value of the other dimension that has the most points along this one.
    fixed = max({row[other] for row in rows}, key=lambda v: (len({r[by] for r in rows if r[other] == v}), v))
    rows = [row for row in rows if row[other] == fixed and row["label"] != "plaintext-durable"]
    for label in dict.fromkeys(row["label"] for row in rows):
        points = sorted((row[by], row["round_s_median"]) for row in rows if row["label"] == label)
        text = fitted_text([point for point in points if point[0] >= least])
        x, y = zip(*points, strict=True)
        axes.plot(x, y, "o-", color=COLOURS.get(label, "#444"), label=label + text, lw=1.4, ms=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylabel("round time, seconds")
    axes.set_xlabel(by)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title(f"Round time by {by} ({other} {fixed:,}, {rows[0]['link']})")


def scaling_sites(rows: list[Row], axes: Axes) -> None:
    """Round time by number of sites."""
    _scaling(rows, axes, "sites", "values", 0)
    ticks = sorted({row["sites"] for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def scaling_values(rows: list[Row], axes: Axes) -> None:
    """Round time by size of the model; fitted where the size matters, from 10^5 on."""
    _scaling(rows, axes, "values", "sites", 1e5)


def memory(rows: list[Row], axes: Axes) -> None:
    """Peak resident memory of server and site."""
    rows = headline(rows)
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["label"], row)
    names = list(first)
    places = np.arange(len(names))
    for shift, figure, colour, label in (
        (-0.2, "server_rss", "#2563eb", "server"),
        (0.2, "site_rss", "#0ea5a0", "site"),
    ):
        values = [first[name][figure] / 1e6 for name in names]
        axes.barh(places + shift, values, 0.38, color=colour, label=label)
        for at, value in zip(places + shift, values, strict=True):
            axes.text(value, at, f" {value:,.0f}", va="center", fontsize=8)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel(f"MB at most, the update of {rows[0]['values'] * 4 / 1e6:,.0f} MB and all libraries included")
    axes.legend(fontsize=8, frameon=False)
    axes.margins(x=0.12)
    axes.set_title(f"Peak memory of a process ({_what(rows)})")


CHARTS: dict[str, tuple[str, Callable[[list[Row], Axes], None]]] = {
    "ratio": ("Round time against plaintext, per link", ratio),
    "phases": ("Seconds per phase", phases),
    "expansion": ("Expansion factor", expansion),
    "scaling-values": ("Scaling with the model", scaling_values),
    "scaling-sites": ("Scaling with the sites", scaling_sites),
    "memory": ("Memory", memory),
}


def png(report: dict[str, Any], name: str) -> bytes:
    """Draw one picture.

    Args:
        report: a result.
        name: out of `CHARTS`.
    """
    rows = measured(report)
    figure, axes = plt.subplots(figsize=(8.2, 4.4), dpi=130)
    try:
        CHARTS[name][1](rows, axes)
        axes.title.set_fontsize(11)
        axes.title.set_fontweight("bold")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        out = io.BytesIO()
        figure.savefig(out, format="png", bbox_inches="tight")
        return out.getvalue()
    finally:
        plt.close(figure)
