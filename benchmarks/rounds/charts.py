"""Pictures of a result, one idea each. PNG bytes, so that the page can carry them and the README too."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from examples.pictures import BLUE, FAINT, GREEN, INK, ORANGE, PINK, SKY, YELLOW, drawn, titled

__all__ = ["CHARTS", "fitted", "fitted_text", "png"]

Row = dict[str, Any]

_SCHEMES: dict[str, tuple[str, str, str]] = {
    "plaintext": ("plaintext float32", FAINT, ""),
    "plaintext-durable": ("plaintext, stored durably", FAINT, "///"),
    "hybrid-8": ("hybrid, 8 bits", GREEN, ""),
    "hybrid-16": ("hybrid, 16 bits", BLUE, ""),
    "hybrid-24": ("hybrid, 24 bits", SKY, ""),
    "hybrid-16-of-31": ("hybrid, 16 bits, room for 31 sites", BLUE, "///"),
    "ckks": ("ckks", PINK, ""),
    "tenseal-stock": ("stock TenSEAL", ORANGE, ""),
    "flower-fedavg": ("Flower FedAvg", YELLOW, ""),
    "flower-fedavg-stock": ("Flower FedAvg, as installed", YELLOW, "///"),
    "flower-secaggplus": ("Flower SecAgg+", "#7B61A8", ""),
}
"""Each scheme of a result: its name in words, colour and hatching."""

_PHASES = {
    "encrypt": GREEN,
    "upload": BLUE,
    "wait": FAINT,
    "download": SKY,
    "start": YELLOW,
    "decrypt": PINK,
}
_LINKS = {"loopback": "loopback", "1gbit": "1 Gbit/s", "100mbit": "100 Mbit/s", "20mbit": "20 Mbit/s"}


def _named(label: str) -> str:
    return _SCHEMES.get(label, (label, INK, ""))[0]


def _look(label: str) -> dict[str, Any]:
    """How the bars of a scheme look."""
    _, colour, hatch = _SCHEMES.get(label, (label, INK, ""))
    return {"facecolor": colour if not hatch else "none", "edgecolor": colour, "hatch": hatch}


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
    for at, (name, factor) in enumerate(zip(names, factors, strict=True)):
        axes.barh(at, factor, height=0.7, **_look(name))
        axes.text(factor, at, f"  {factor:.2f} x", va="center", fontsize=9)
    axes.axvline(1, color=INK, lw=0.8, ls=":")
    axes.set_yticks(range(len(names)), [_named(name) for name in names])
    axes.set_xlim(0, max(factors) * 1.2)
    axes.invert_yaxis()
    axes.set_xlabel("times the bytes of plaintext")
    titled(axes, "Bytes up and down against plaintext float32", _what(rows))


def phases(rows: list[Row], axes: Axes) -> None:
    """Seconds of each phase, stacked, mean over sites."""
    rows = [row for row in headline(rows) if row["label"] not in ("tenseal-stock", "ckks", "plaintext-durable")]
    # A round over the slowest link is upload and download, so long that beside it nothing else could be seen.
    rows = [row for row in rows if row["link"] != "20mbit"] or rows
    rows = sorted(rows, key=lambda row: list(_LINKS).index(row["link"]))
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
            # A phase too short for the eye is in the legend with its time, so that nobody looks for it in vain.
            unseen = widths.max() < 0.01 * max(row["round_s_median"] for row in rows)
            label = f"{phase} (at most {widths.max() * 1e3:.0f} ms)" if unseen else phase
            axes.barh(places, widths, left=left, color=colour, label=label, height=0.8)
            left += widths
    axes.plot([row["round_s_median"] for row in rows], places, "|", color=INK, ms=12, label="whole round")
    axes.set_yticks(places, [f"{_named(row['label'])}, {_LINKS[row['link']]}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.35, -0.12))
    titled(axes, "Where a round's time goes", f"{_what(rows)}; mean over sites, the round ends with the last one")


def ratio(rows: list[Row], axes: Axes) -> None:
    """Round time by that of plaintext in the same repetition, per link."""
    rows = [row for row in headline(rows) if row["label"] != "plaintext"]
    links = [link for link in _LINKS if any(row["link"] == link for row in rows)]
    labels = [label for label in _SCHEMES if any(row["label"] == label for row in rows)]
    named: set[str] = set()
    at, places = 0.0, []
    for link in links:
        first = at
        for label in labels:
            for row in rows:
                if row["label"] == label and row["link"] == link:
                    value = row["ratio_to_plaintext"]
                    error = [[value - row["ratio_min"]], [row["ratio_max"] - value]]
                    axes.barh(at, value, height=0.86, label=None if label in named else _named(label), **_look(label))
                    axes.errorbar(value, at, xerr=error, color=INK, lw=0.8, capsize=2)
                    axes.text(row["ratio_max"], at, f"  {value:.2f}", va="center", fontsize=8.5)
                    named.add(label)
                    at += 1
        places.append((first + at - 1) / 2)
        at += 0.8
    axes.axvline(1, color=INK, lw=0.9, ls=":")
    axes.set_xscale("log")
    least = min(0.4, 0.8 * min(row["ratio_min"] for row in rows))
    ticks = [
        t for t in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if least < t < 1.6 * max(r["ratio_max"] for r in rows)
    ]
    axes.set_xticks(ticks, [f"{tick:g} x" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_yticks(places, [_LINKS[link] for link in links])
    axes.set_xlim(least, 1.6 * max(row["ratio_max"] for row in rows))
    axes.invert_yaxis()
    axes.set_xlabel("times the round of plaintext, log scale")
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.45, -0.12))
    titled(axes, "Round time against plaintext float32", f"{_what(rows)}; median, least and most of the repetitions")


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
        # Models differ in more than their size: points only, no lines from one to another.
        style = "o-" if by == "sites" else "o"
        axes.plot(x, y, style, color=_SCHEMES.get(label, ("", INK))[1], label=_named(label) + text, lw=1.4, ms=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid()
    axes.set_xlabel(by)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    titled(axes, f"Round time by {by}", f"seconds; {fixed:,} {other}, {_LINKS[rows[0]['link']]}")


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
        (-0.2, "server_rss", BLUE, "aggregator"),
        (0.2, "site_rss", GREEN, "site"),
    ):
        values = [first[name][figure] / 1e6 for name in names]
        axes.barh(places + shift, values, 0.38, color=colour, label=label)
        for at, value in zip(places + shift, values, strict=True):
            axes.text(value, at, f" {value:,.0f}", va="center", fontsize=8)
    axes.set_yticks(places, [_named(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("MB")
    axes.legend()
    axes.margins(x=0.12)
    update = f"the update of {rows[0]['values'] * 4 / 1e6:,.0f} MB and all libraries included"
    titled(axes, "Peak memory of a process", f"{_what(rows)}; {update}")


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
    figure, (axes,) = drawn(1, 9.2, 5.4)
    CHARTS[name][1](measured(report), axes)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
