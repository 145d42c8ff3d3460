"""How the pictures of the examples look: the demo's colours on a bare figure, no window system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples.demo.picture import BLUE, FAINT, GREEN, ORANGE, QUIET, STYLE

__all__ = ["BLUE", "FAINT", "GREEN", "ORANGE", "QUIET", "drawn", "saved", "titled"]


def drawn(columns: int, width: float = 11.0, height: float = 4.6, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes side by side."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False, **options)[0]


def titled(axes: Any, title: str, subtitle: str) -> None:
    """What the panel shows, and how to read it."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=24)
    axes.annotate(
        subtitle, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", fontsize=9, color=QUIET
    )


def saved(figure: Any, out: Path) -> Path:
    """Write the picture and say where."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    print(f"picture: {out}")
    return out
