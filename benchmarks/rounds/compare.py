"""Two results side by side: what became slower, or larger, by more than chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Change", "compare"]

_KEY = ("label", "model", "sites", "link", "shaping")
_EXACT = 0.01
_LEAST = 0.05
"""No two runs are equal: less than this is never called a change of time."""


@dataclass(frozen=True)
class Change:
    """One figure of one row in both results.

    Attributes:
        row: which row.
        figure: which figure.
        before: in the first result.
        after: in the second.
        noise: how much may be chance, as a fraction.
        verdict: "worse", "better" or "same".
    """

    row: tuple[Any, ...]
    figure: str
    before: float
    after: float
    noise: float
    verdict: str

    @property
    def factor(self) -> float:
        """After by before."""
        return self.after / self.before


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Compare the rows that two results have in common.

    Ratios to plaintext are compared, not seconds: the machine's mood is in both rounds of a repetition. A ratio has
    changed if the ranges of its repetitions do not even touch, and the medians differ by more than either spread;
    bytes do not vary, and have changed beyond 1 %. The baseline has no ratio but 1, so its seconds are compared.

    Args:
        before: a result.
        after: a later one.
    """
    old = {_key(row): row for row in before["rows"] if "skipped" not in row}
    changes = []
    for row in after["rows"]:
        earlier = old.get(_key(row))
        if earlier is None or "skipped" in row:
            continue
        if row["label"] == "plaintext":
            changes.append(_time(_key(row), "round_s", _times(earlier, "round_s"), _times(row, "round_s")))
        else:
            changes.append(_time(_key(row), "ratio_to_plaintext", _times(earlier, "ratio"), _times(row, "ratio")))
        sizes = ("bytes_up", "bytes_down")
        changes += [_change(_key(row), name, earlier[name], row[name], _EXACT, apart=True) for name in sizes]
    return changes


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEY)


def _times(row: dict[str, Any], name: str) -> list[float]:
    return sorted(each[name] for each in row["repetitions"])


def _time(key: tuple[Any, ...], figure: str, old: list[float], new: list[float]) -> Change:
    middle_old, middle_new = old[len(old) // 2], new[len(new) // 2]
    spread = max((old[-1] - old[0]) / middle_old, (new[-1] - new[0]) / middle_new)
    apart = new[0] > old[-1] or new[-1] < old[0]
    return _change(key, figure, middle_old, middle_new, max(_LEAST, spread / 2), apart)


def _change(key: tuple[Any, ...], figure: str, old: float, new: float, noise: float, apart: bool) -> Change:
    verdict = "same"
    if apart and abs(new - old) > noise * old:
        verdict = "worse" if new > old else "better"
    return Change(key, figure, old, new, noise, verdict)
