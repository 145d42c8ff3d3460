"""What is promised of a round: at most so many times the plaintext round of the same repetition."""

from __future__ import annotations

from typing import Any

__all__ = ["PROMISES", "promises"]

PROMISES = (
    # scheme, link, figure, at most
    ("hybrid-16", "loopback", "ratio_to_plaintext", 1.6),
    ("hybrid-16", "1gbit", "ratio_to_plaintext", 1.10),
    ("hybrid-16", "100mbit", "ratio_to_plaintext", 0.98),
    ("hybrid-8", "100mbit", "ratio_to_plaintext", 0.75),
    ("hybrid-16", "loopback", "bytes_ratio_to_plaintext", 0.96),
)
"""For 10^7 values and 3 sites."""


def promises(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each promise that the rows say something about, and whether it holds."""
    found = []
    for label, link, figure, most in PROMISES:
        for row in rows:
            same = row["label"] == label and row["link"] == link and row["values"] == 10**7 and row["sites"] == 3
            if same and figure in row:
                names = {"scheme": label, "link": link, "figure": figure, "at_most": most}
                found.append(names | {"measured": row[figure], "holds": row[figure] <= most})
    return found
