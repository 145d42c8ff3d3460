"""The picture of a demonstration: what it learned, what it sent, where the time went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.demo.summary import PHASES, Summary
from examples.pictures import BLUE, FAINT, GREEN, INK, ORANGE, drawn, titled

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

INCHES = (13.5, 4.9)
DPI = 200

FLOAT32_BYTES = 4.0
# A whole vector with the parameters that TenSEAL's users copy, N = 8192 and primes of [60, 40, 40] bits,
# as TenSEAL 0.3.18 serialises it. A reference that is cited, not measured in the run that is drawn.
# Source: ts.ckks_vector and serialize, sized when the codecs were designed.
STOCK_TENSEAL_BYTES = 57.6


def spread(wanted: list[float], gap: float) -> list[float]:
    """Move label positions apart until neighbours are `gap` away, as little as needed.

    Args:
        wanted: where each label would like to be.
        gap: least distance.

    Returns:
        A position for each, in the order of `wanted`.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    clusters: list[tuple[float, list[int]]] = []  # (centre, members): members of one cluster stand `gap` apart
    for i in order:
        clusters.append((wanted[i], [i]))
        while len(clusters) > 1:
            (low, lows), (high, highs) = clusters[-2:]
            if high - low >= gap * (len(lows) + len(highs)) / 2:
                break
            members = lows + highs
            clusters[-2:] = [(sum(wanted[m] for m in members) / len(members), members)]
    placed = [0.0] * len(wanted)
    for centre, members in clusters:
        for rank, member in enumerate(members):
            placed[member] = centre + gap * (rank - (len(members) - 1) / 2)
    return placed


def _scores(axes: Axes, summary: Summary) -> None:
    from matplotlib.ticker import MaxNLocator

    score, course = summary["score"], summary["score_per_round"]
    encrypted, plaintext = course["encrypted"], course["plaintext"]
    last = max(len(encrypted), len(plaintext))
    axes.plot(range(1, len(encrypted) + 1), encrypted, color=BLUE, linewidth=2.2, zorder=3)
    axes.plot(
        range(1, len(plaintext) + 1),
        plaintext,
        linestyle="none",
        marker="o",
        markersize=7,
        markerfacecolor="none",
        markeredgecolor=ORANGE,
        markeredgewidth=1.4,
        zorder=4,
    )
    for value in score["local"].values():
        axes.axhline(value, color=INK, linewidth=0.9, linestyle=(0, (5, 4)), zorder=1)

    everything = [*encrypted, *plaintext, *score["local"].values()]
    low, high = min(everything), max(everything)
    room = max(high - low, 0.01)
    axes.set_ylim(low - 0.08 * room, high + 0.08 * room)
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    axes.set_xlabel("round")

    labels = [
        ("encrypted", encrypted[-1], BLUE, "bold"),
        ("plaintext", plaintext[-1], ORANGE, "bold"),
        *((f"{name.replace('-', ' ')}, alone", value, INK, "normal") for name, value in score["local"].items()),
    ]
    # The pair at the top nearly coincides; the encrypted one goes first.
    wanted = [value + (1e-9 * room if name == "encrypted" else 0) for name, value, _, _ in labels]
    for (name, value, colour, weight), y in zip(labels, spread(wanted, 0.062 * room), strict=True):
        axes.annotate(
            f"{name}  {value:.3f}",
            (last + 0.5, y),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
            fontweight=weight,
            annotation_clip=False,
        )
    together = score["encrypted"] > max(score["local"].values())
    title = "Better together than alone, encrypted or not" if together else "Score per round"
    titled(axes, title, "AUC on the common test set, after each round")


def _bars(axes: Axes, bars: list[tuple[str, float, str]], form: str) -> None:
    """Horizontal bars, first at the top, each with its figure at its end."""
    rows = range(len(bars))
    widest = max(value for _, value, _ in bars) or 1.0
    bar = 0.62 * len(bars) / len(PHASES)  # as thick in one panel as in the other
    axes.barh(rows, [value for _, value, _ in bars], color=[colour for _, _, colour in bars], height=bar)
    axes.set_yticks(rows, [name for name, _, _ in bars], color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, widest * 1.22)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    for row, (_, value, _) in enumerate(bars):
        axes.annotate(format(value, form), (value, row), (5, 0), textcoords="offset points", va="center", fontsize=9.5)


def _bytes(axes: Axes, summary: Summary) -> None:
    codec = summary["codec"]
    _bars(
        axes,
        [
            ("float32,\nin the clear", FLOAT32_BYTES, FAINT),
            (f"{codec}, up", summary["bytes_per_value_up"], BLUE),
            (f"{codec}, down", summary["bytes_per_value_down"], BLUE),
            ("TenSEAL\ndefaults*", STOCK_TENSEAL_BYTES, FAINT),
        ],
        ".2f" if summary["bytes_per_value_up"] < 10 else ".1f",
    )
    axes.set_xlabel("* whole vector; not measured in this run", fontsize=8, loc="left")
    titled(axes, "Bytes per value", f"{summary['values']:,} values an update")


def _seconds(axes: Axes, summary: Summary) -> None:
    # Waiting is no work of anybody's; the aggregator's own work stands out from the hospitals'.
    colours = {"wait": FAINT, "fold": GREEN}
    _bars(axes, [(phase, summary["seconds"][phase], colours.get(phase, BLUE)) for phase in PHASES], ".2f")
    axes.get_yticklabels()[PHASES.index("fold")].set_color(GREEN)
    axes.set_xlabel("wait: for other hospitals and fold", fontsize=8, loc="left")
    titled(axes, "Seconds, all rounds", "mean hospital; fold: aggregator")


def draw(summary: Summary, folder: Path) -> list[Path]:
    """Draw `demo.png` and `demo.svg`.

    Args:
        summary: a finished demonstration; every figure but the two references comes from it.
        folder: made if it is not there.

    Returns:
        The files.
    """
    difference = summary["encrypted_vs_fixed_point_max_abs_diff"]
    folder.mkdir(parents=True, exist_ok=True)
    figure, (left, middle, right) = drawn(3, *INCHES, dpi=DPI, width_ratios=[2.1, 1, 1])
    _scores(left, summary)
    _bytes(middle, summary)
    _seconds(right, summary)
    figure.supxlabel(
        f"{summary['sites']} hospitals, {summary['rounds']} rounds.  {summary['dataset']}.  "
        f"Largest difference, encrypted from plaintext fixed-point average: {difference:g}.",
        x=0.012,
        ha="left",
        fontsize=9,
    )
    paths = [folder / "demo.png", folder / "demo.svg"]
    figure.savefig(paths[0])
    figure.savefig(paths[1], metadata={"Date": None})
    return paths
