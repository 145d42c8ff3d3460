"""Make the tables that pages show from a kept result.

python -m benchmarks.frameworks.table [RESULT]      prints them
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

__all__ = ["RESULT", "table"]

RESULT = Path(__file__).parents[1] / "results" / "frameworks.json"

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
    return _HEAD + "\n".join(lines)


def _line(name: str, rows: list[dict[str, Any]]) -> str:
    later = [seconds for row in rows for seconds in row["round_s"][1:]]  # in the first, processes load what they need
    up, down = (mean(row[f"{way}_per_value"] for row in rows) for way in ("up", "down"))
    seconds = f"{median(later):.1f}, {min(later):.1f} to {max(later):.1f}"
    whole = f"{median(row['job_s'] for row in rows):.0f}"
    scores = ", ".join(f"{row['auc']:.4f}" for row in rows)
    furthest = f"{max(row['furthest_risk'] for row in rows):.1g}"
    return f"| {name} | {up:.1f} | {down:.1f} | {seconds} | {whole} | {scores} | {furthest} |"


if __name__ == "__main__":
    for run in json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else RESULT).read_text()).values():
        print(table(run))
