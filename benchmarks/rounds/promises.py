"""What is promised of a round: at most so many times the plaintext round of the same repetition."""

from __future__ import annotations

import math
import statistics
from typing import Any

__all__ = ["PROMISES", "promises"]

PROMISES = (
    # scheme, link, figure, at most
    ("hybrid-16", "loopback", "ratio_to_plaintext", 3.0),
    ("hybrid-16", "1gbit", "ratio_to_plaintext", 1.12),
    ("hybrid-16", "100mbit", "ratio_to_plaintext", 0.70),
    ("hybrid-8", "loopback", "ratio_to_plaintext", 2.2),
    ("hybrid-8", "1gbit", "ratio_to_plaintext", 0.90),
    ("hybrid-8", "100mbit", "ratio_to_plaintext", 0.44),
    ("hybrid-16", "20mbit", "ratio_to_plaintext", 0.68),
    ("hybrid-8", "20mbit", "ratio_to_plaintext", 0.40),
    ("hybrid-16", "loopback", "bytes_ratio_to_plaintext", 0.64),
)
"""For 10^7 values and 3 sites."""


def promises(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each promise that the rows say something about, and whether it holds.

    A time is also told against plaintext that is durable, which decides nothing: the promise is against plaintext that
    is not.
    """
    found = []
    for label, link, figure, most in PROMISES:
        for row in rows:
            same = row["label"] == label and row["link"] == link and row["values"] == 10**7 and row["sites"] == 3
            if same and figure in row:
                names = {"scheme": label, "link": link, "figure": figure, "at_most": most}
                judged = {"measured": row[figure], "holds": row[figure] <= most}
                against = _against_durable(row, rows) if figure == "ratio_to_plaintext" else None
                found.append(names | judged | ({} if against is None else {"ratio_to_plaintext_durable": against}))
    return found


def _against_durable(row: dict[str, Any], rows: list[dict[str, Any]]) -> float | None:
    """The median of the ratios within each repetition; None if there is no such row of the same run."""
    cell = ("model", "sites", "link")
    for its in rows:
        if its["label"] == "plaintext-durable" and all(its.get(name) == row.get(name) for name in cell):
            ours, theirs = row.get("repetitions", []), its.get("repetitions", [])
            if ours and len(ours) == len(theirs) and all(map(_same_repetition, ours, theirs)):
                return statistics.median(a["round_s"] / b["round_s"] for a, b in zip(ours, theirs, strict=True))
    return None


def _same_repetition(a: dict[str, float], b: dict[str, float]) -> bool:
    """It is one if plaintext, which both ratios are to, took the same time."""
    return math.isclose(a["round_s"] / a["ratio"], b["round_s"] / b["ratio"], rel_tol=1e-9)
