"""How every picture of this project looks: one set of colours, one text that light and dark pages can carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["BLUE", "FAINT", "GREEN", "INK", "ORANGE", "PINK", "SKY", "STYLE", "YELLOW", "drawn", "saved", "titled"]

# Okabe and Ito's colours, told apart with any kind of colour vision. Source: jfly.uni-koeln.de/color.
BLUE, ORANGE, GREEN, SKY, YELLOW, PINK = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7"

# Pictures have no background of their own. This grey has a contrast of at least 4 : 1 with white and with the dark
# pages of code hosts (#0d1117), so that one file serves both.
INK, FAINT = "#6E7681", "#A8B0B9"

STYLE: Any = {  # matplotlib types the keys as one literal of all its settings
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "svg.hashsalt": "he-agg",  # the same summary draws the same file
}


def drawn(columns: int, width: float = 11.0, height: float = 4.6, *, dpi: int = 130, **options: Any) -> tuple[Any, Any]:
    """Make a figure and its axes side by side.

    A bare figure, not pyplot: no window system is looked for and nothing global but the style is left behind.

    Args:
        columns: how many axes.
        width: of all. Units: inches.
        height: of all. Units: inches.
        dpi: dots per inch.
        **options: for `Figure.subplots`.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    mpl.rcParams.update(STYLE)
    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.12, wspace=0.02)
    figure = Figure(figsize=(width, height), dpi=dpi, layout=layout)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False, **options)[0]


def titled(axes: Any, title: str, subtitle: str) -> None:
    """Say what the panel shows, and how to read it."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=24)
    axes.annotate(subtitle, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", fontsize=9)


def saved(figure: Any, out: Path) -> Path:
    """Write the picture and say where."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    print(f"picture: {out}")
    return out
