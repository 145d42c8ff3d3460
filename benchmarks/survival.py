"""Measure survival analyses at four sites and a real aggregator: rounds, bytes, seconds.

    python -m benchmarks.survival

Prints the table of docs/survival.md. The patients are GBSG2's (scikit-survival): 686, eight features, 299 events.
"""

from __future__ import annotations

import resource
import time
import warnings
from typing import Any

import numpy as np

from client_sdk import analytics
from client_sdk.local import local_federation, plan_for
from examples.tutorials.hazard_ratios import NAMES, SHARES, patients

LOOSE = analytics.SmallCells(1)


def questions() -> dict[str, tuple[Any, tuple[str, ...]]]:
    """What is asked, and which columns it takes."""
    features, horizon = 8, 2700
    cox: Any = {"features": features, "horizon": horizon, "feature_bound": 12, "small_cells": LOOSE}
    columns = ("days", "event", "features")
    return {
        "`KaplanMeier` by day": (analytics.KaplanMeier(1, horizon), columns[:2]),
        "`KaplanMeier` by day, late entry": (
            analytics.KaplanMeier(1, horizon, late_entry=True),
            (*columns[:2], "came"),
        ),
        "`CumulativeIncidence` by day, two causes": (
            analytics.CumulativeIncidence(1, horizon, ["a", "b"]),
            ("days", "cause"),
        ),
        '`CoxRegression`, 8 features, `strata="site"`': (analytics.CoxRegression(step=1, **cox), columns),
        "the same by half-year, `strata=None`": (analytics.CoxRegression(step=182, strata=None, **cox), columns),
        "the same by month, `strata=None`": (analytics.CoxRegression(step=30, strata=None, **cox), columns),
        "the same by day, `strata=None`": (analytics.CoxRegression(step=1, strata=None, **cox), columns),
    }


def main() -> None:
    """Ask each question once and print a row."""
    rng = np.random.default_rng(7)
    table = patients()
    n = len(table["days"])
    table["came"] = np.floor(table["days"] / 3)
    table["cause"] = table["event"] * rng.integers(1, 3, n)
    where = rng.choice(len(NAMES), n, p=SHARES)
    print("| analysis | rounds | bytes a round | seconds | processor seconds |\n|---|---|---|---|---|")
    for name, (question, columns) in questions().items():
        plan = plan_for(analytics.layout_for(question), NAMES, value_bits=analytics.VALUE_BITS, rounds=30)
        with local_federation(plan, NAMES) as federation, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = [[table[column][where == i] for column in columns] for i in range(len(NAMES))]
            start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
            results = federation.everywhere(lambda site, i: analytics.run(site, question, *shares[i]))  # noqa: B023
            after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - start
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        rounds = getattr(results[0], "steps", 1)
        print(f"| {name} | {rounds} | {plan.public.wire_bytes:,} | {seconds:.1f} | {used:.1f} |", flush=True)


if __name__ == "__main__":
    main()
