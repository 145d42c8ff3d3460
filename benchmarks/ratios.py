"""What is promised, as ratios of figures of one run: taken within each repetition, then the median and the spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Figure = dict[str, float]

_SAME = ("scheme", "value_bits", "values", "max_sites", "sites")


def find(rows: list[Row], scheme: str, values: int, **others: int) -> list[Row]:
    """Rows of 16 bits, 3 sites of at most 31, unless said otherwise, one for each repetition."""
    wanted = {"scheme": scheme, "values": values, "value_bits": 16, "max_sites": 31, "sites": 3} | others
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return sorted(found, key=lambda row: row["repetition"])


def medians(rows: list[Row]) -> list[Row]:
    """One row for each thing measured, with the median of its repetitions in every figure."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in _SAME), []).append(row)
    out = []
    for group in groups.values():
        figures = [name for name, value in group[0].items() if isinstance(value, int | float) and name not in _SAME]
        out.append(group[0] | {name: statistics.median(row[name] for row in group) for name in figures})
    return out


def _figure(numbers: list[float]) -> Figure:
    return {"median": statistics.median(numbers), "least": min(numbers), "most": max(numbers)}


def ratios(rows: list[Row]) -> dict[str, Figure]:
    """All ratios that the rows allow, at 10^7 values or, in a quick run, 10^6."""
    values = 10**7 if find(rows, "hybrid", 10**7) else 10**6
    ours = find(rows, "hybrid", values)
    found: dict[str, Figure] = {}

    def compare(name: str, other: str, ratio: Callable[[Row, Row], float]) -> None:
        numbers = [ratio(mine, its) for mine, its in zip(ours, find(rows, other, values), strict=False)]
        if numbers:
            found[name] = _figure(numbers)

    def quotient(name: str) -> Callable[[Row, Row], float]:
        return lambda mine, its: mine[name] / its[name]

    def inverse(name: str) -> Callable[[Row, Row], float]:
        return lambda mine, its: its[name] / mine[name]

    compare("bytes_up_vs_float32", "plaintext-float32", quotient("bytes_per_value_up"))
    compare("bytes_up_vs_tenseal_stock", "tenseal-stock", quotient("bytes_per_value_up"))
    compare("bytes_up_vs_mask_floor", "mask-floor", quotient("bytes_per_value_up"))
    compare("encrypt_speed_vs_tenseal_stock", "tenseal-stock", quotient("encrypt_values_per_s"))
    compare("encrypt_time_vs_mask_floor", "mask-floor", inverse("encrypt_values_per_s"))
    compare("fold_time_vs_float32", "plaintext-float32", inverse("fold_values_per_s"))
    compare("open_speed_vs_tenseal_stock", "tenseal-stock", quotient("open_values_per_s"))
    few, many = (find(rows, "hybrid", 10**7, max_sites=300, sites=n) for n in (3, 300))
    if few and many:  # opened by turns, in one process
        pairs = zip(many[0]["open_s"], few[0]["open_s"], strict=True)
        found["open_time_300_sites_vs_3"] = _figure([a / b for a, b in pairs])
    if large := find(rows, "hybrid", 10**8):
        found["encrypt_rss_beyond_input_mb_at_1e8"] = _figure([large[0]["encrypt_rss_beyond_input_bytes"] / 1e6])
        found["open_rss_beyond_output_mb_at_1e8"] = _figure([large[0]["open_rss_beyond_output_bytes"] / 1e6])
    return found
