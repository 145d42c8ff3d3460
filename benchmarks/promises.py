"""What is promised of the codecs, and whether a run keeps it. What is promised of rounds is in rounds/promises.py."""

from __future__ import annotations

from typing import Any

from he_agg.plan.schemes import DEFAULT_CODEC

__all__ = ["PLANS", "promises", "told"]

Row = dict[str, Any]

PLANS = ((16, 31), (16, 8), (16, 3), (12, 8), (8, 8), (8, 31), (24, 31))
"""Value bits and most sites of the plans that are measured."""

_BYTES_UP = {(16, 31): 3.02, (16, 8): 2.66, (16, 3): 2.34, (12, 8): 2.16, (8, 8): 1.56, (8, 31): 1.87}
"""Bytes a value that a site sends, at most, at 10^7 values: all parts with their headers."""

_SMALL_BYTES_UP = 5.5
"""The same at 10^4 values of at most 16 bits."""

_LARGE, _SMALL = 10**7, 10**4
_MAC = {"tag_over_encrypt": 0.25, "verify_over_open": 0.40}
"""At most, at every plan."""

_RATIO, _TIMES = "encrypt_speed_vs_tenseal_stock", 200.0
"""At least, at 10^7 values of 16 bits and 31 sites."""


def promises(rows: list[Row], mac: list[Row], ratios: dict[str, dict[str, float]]) -> list[Row]:
    """Judge what a run says something about; of fewer than 10^7 values nothing but bytes is promised.

    Args:
        rows: medians of the repetitions.
        mac: what the MAC adds, a row for each plan.
        ratios: from `benchmarks.ratios`.
    """
    found = []
    for row in rows:
        plan, values = (row["value_bits"], row["max_sites"]), row["values"]
        limits = {_LARGE: _BYTES_UP.get(plan), _SMALL: _SMALL_BYTES_UP if plan in _BYTES_UP else None}
        if row["scheme"] == DEFAULT_CODEC and (most := limits.get(values)):
            found.append(_judged(row, "bytes_per_value_up", row["bytes_per_value_up"], at_most=most))
            if values == _LARGE and plan == PLANS[0] and _RATIO in ratios:
                found.append(_judged(row, _RATIO, ratios[_RATIO]["median"], at_least=_TIMES))
    for row in mac:
        if row["values"] == _LARGE:
            found += [_judged(row, figure, row[figure], at_most=most) for figure, most in _MAC.items()]
    return found


def _judged(row: Row, figure: str, measured: float, **limit: float) -> Row:
    holds = measured <= limit["at_most"] if "at_most" in limit else measured >= limit["at_least"]
    names = {name: row[name] for name in ("value_bits", "max_sites", "values")}
    return names | {"figure": figure, "measured": measured} | limit | {"holds": holds}


def told(promise: Row) -> str:
    """Say in a line whether a promise holds."""
    plan = f"{promise['value_bits']:2} bits, {promise['max_sites']:2} sites, {promise['values']:.0e} values"
    limit = f"at most {promise['at_most']}" if "at_most" in promise else f"at least {promise['at_least']:g}"
    verdict = "holds" if promise["holds"] else "FALLS SHORT"
    return f"{plan.replace('e+0', 'e')}: {promise['figure']} {promise['measured']:,.3f}, {limit}: {verdict}"
