"""Put the tables of the kept result into the pages that show them.

python -m benchmarks.frameworks.table
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean, median
from typing import Any

__all__ = ["PAGES", "RESULT", "table"]

_ROOT = Path(__file__).parents[2]
RESULT = _ROOT / "benchmarks" / "results" / "frameworks.json"
PAGES = {"nvflare": _ROOT / "docs" / "nvflare.md", "flower": _ROOT / "docs" / "training.md"}

_HEAD = """\
| | bytes a value up | down | seconds a round: median, least to most | seconds, whole job | AUC | furthest risk |
|---|---|---|---|---|---|---|
"""
_NAMES = {
    "plaintext": "in the clear, float32",
    "he-agg": "here, 16 bits",
    "tenseal": "NVFlare's HE",
    "secaggplus": "Flower's SecAgg+",
}


def table(run: dict[str, Any]) -> str:
    """Return what the schemes took in a framework, as Markdown."""
    lines = []
    for scheme, name in _NAMES.items():
        rows = [row for row in run["rows"] if row["scheme"] == scheme]
        if rows:
            lines.append(_line(name, rows))
    return _HEAD + "".join(lines)


def _line(name: str, rows: list[dict[str, Any]]) -> str:
    later = [seconds for row in rows for seconds in row["round_s"][1:]]  # in the first, processes load what they need
    up, down = (mean(row[f"{way}_per_value"] for row in rows) for way in ("up", "down"))
    seconds = f"{median(later):.1f}, {min(later):.1f} to {max(later):.1f}"
    whole = f"{median(row['job_s'] for row in rows):.0f}"
    scores = ", ".join(f"{row['auc']:.4f}" for row in rows)
    furthest = f"{max(row['furthest_risk'] for row in rows):.7f}"
    return f"| {name} | {up:.1f} | {down:.1f} | {seconds} | {whole} | {scores} | {furthest} |\n"


if __name__ == "__main__":
    for framework, run in json.loads(RESULT.read_text()).items():
        page = PAGES[framework]
        shown = re.compile(re.escape(_HEAD) + r"(\|.*\n)*")
        page.write_text(shown.sub(lambda _, run=run: table(run), page.read_text()))  # type: ignore[misc]
