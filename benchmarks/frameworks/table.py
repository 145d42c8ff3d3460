"""Make the table that the pages show from a kept result.

python -m benchmarks.frameworks.table [RESULT]      prints it
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
    ("nvflare", "plaintext"): "NVFlare, in the clear",
    ("nvflare", "he-agg"): "NVFlare, **here**",
    ("nvflare", "tenseal"): "NVFlare's HE",
    ("flower", "plaintext"): "Flower, in the clear",
    ("flower", "he-agg"): "Flower, **here**",
    ("flower", "secaggplus"): "Flower's SecAgg+",
}


def table(result: dict[str, Any], framework: str = "") -> str:
    """Return it as Markdown, of one framework or of all."""
    lines = []
    for (of, scheme), name in _NAMES.items():
        rows = [row for row in result["rows"] if (row["framework"], row["scheme"]) == (of, scheme)]
        if rows and framework in ("", of):
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
    print(table(json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else RESULT).read_text())))
