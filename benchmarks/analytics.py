"""Measure every analysis at four hospitals and a real aggregator: rounds, bytes, seconds.

    python -m benchmarks.analytics

The patients are GBSG2's (scikit-survival): 686, eight features, 299 events; they are dealt to four unlike hospitals,
which run in one process, the aggregator in another. Each question is asked three times, in a plan just large enough
for it, and the fastest counts: the others were kept waiting. The result goes to benchmarks/results/analytics.json; it
is the table of docs/analytics.md.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.proc import cpu_s
from benchmarks.report import RESULTS, machine, versions, write
from client_sdk import analytics
from client_sdk.local import PROMPT, LocalFederation, local_federation, plan_for
from examples.tutorials.hazard_ratios import FEATURES, NAMES, SHARES, patients
from he_agg.host.processes import AggregatorProcess
from he_agg.ids import RoundId

HORIZON = 2700
GRID = analytics.Grid(0.01, -10, 10)
YEARS = (0.01, 10.0)


class Asked(NamedTuple):
    """A question, as the table calls it, and the columns that it takes."""

    name: str
    question: Any
    columns: tuple[str, ...]


def questions() -> list[Asked]:
    """One of each kind, and what changes its cost."""
    p, grids = len(FEATURES), [GRID] * len(FEATURES)
    rows, event, follow_up = ("features",), ("features", "event"), ("days", "event")
    rates = ("features", "event", "years")
    cox, cox_rows = analytics.CoxRegression, ("days", "event", "features")
    linear = analytics.LinearRegression(grids, GRID)
    logistic, poisson = analytics.LogisticRegression(p), analytics.PoissonRegression(p, exposure=YEARS)
    folds = analytics.CrossValidation
    late = (*follow_up, "came")
    return [
        Asked("`Counts`, 3 x 2 cells", analytics.Counts({"grade": [1, 2, 3], "event": [0, 1]}), ("grade", "event")),
        Asked("`Histogram`, 20 bins", analytics.Histogram(tuple(np.linspace(-5, 5, 21).tolist())), ("size",)),
        Asked("`Moments` of 8 columns, covariance", analytics.Moments(grids, covariance=True), rows),
        Asked("`Quantiles`, 3 of 2,001 points", analytics.Quantiles(GRID, (0.25, 0.5, 0.75), bins=16), ("size",)),
        Asked("`KMeans`, 3 clusters, 8 columns", analytics.KMeans(3, GRID, p), rows),
        Asked("`PCA` of 8 columns", analytics.PCA(2, grids), rows),
        Asked("`PowerPCA` of 8 columns", analytics.PowerPCA(2, GRID, p), rows),
        Asked("`KaplanMeier` by day", analytics.KaplanMeier(1, HORIZON), follow_up),
        Asked("the same, late entry", analytics.KaplanMeier(1, HORIZON, late_entry=True), late),
        Asked(
            "`CumulativeIncidence` by day, 2 events",
            analytics.CumulativeIncidence(1, HORIZON, ["recurrence", "death"]),
            ("days", "cause"),
        ),
        Asked('`CoxRegression`, `strata="site"`', cox(p, 1, HORIZON), cox_rows),
        Asked("the same with a lasso", cox(p, 1, HORIZON, l1=10.0), cox_rows),
        Asked("without it, by half-year, `strata=None`", cox(p, 182, HORIZON, strata=None), cox_rows),
        Asked("the same by month, `strata=None`", cox(p, 30, HORIZON, strata=None), cox_rows),
        Asked("`LogisticRegression`", logistic, event),
        Asked("`CrossValidation` of it", folds(logistic), event),
        Asked("`PoissonRegression` with exposures", poisson, rates),
        Asked("`CrossValidation` of it", folds(poisson), rates),
        Asked("`LinearRegression`", linear, ("features", "size")),
        Asked("`CrossValidation` of it", folds(linear), ("features", "size")),
    ]


def table() -> dict[str, NDArray[Any]]:
    """All patients' columns; when they came and which of two events it was is our invention."""
    columns = patients()
    rng, features = np.random.default_rng(7), columns["features"]
    event = columns["event"].astype(int)
    return columns | {
        "event": event,
        "came": np.floor(columns["days"] / 3),
        "cause": event * rng.integers(1, 3, len(event)),
        "years": (columns["days"] / 365.25).clip(*YEARS),
        "grade": 1 + features[:, 4].astype(int) + 2 * features[:, 5].astype(int),
        "size": features[:, 3].clip(-5, 5),
    }


def done(federation: LocalFederation) -> int:
    """Return the number of the last round that has a sum."""
    last = federation.sites[0].last_published()
    return 0 if last is None else RoundId.parse(last).number


def measured(
    asked: Asked, shares: list[list[NDArray[Any]]], aggregator: AggregatorProcess, name: str, times: int
) -> dict[str, Any]:
    """Ask a question some times, and keep the fastest."""
    layout = analytics.layout_for(asked.question)
    plan = plan_for(layout, NAMES, name=name, value_bits=analytics.VALUE_BITS, rounds=200)
    found = []
    with local_federation(plan, NAMES, aggregator=aggregator) as federation, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of small cells, which are what this is asked with
        for _ in range(times):
            before, start, busy = done(federation), time.perf_counter(), (time.process_time(), cpu_s(aggregator.pid))
            federation.everywhere(lambda site, i: analytics.run(site, asked.question, *shares[i]))
            found.append(
                {
                    "seconds": round(time.perf_counter() - start, 2),
                    "rounds": done(federation) - before,
                    "processor_s_of_the_sites": round(time.process_time() - busy[0], 2),
                    "processor_s_of_the_aggregator": round(cpu_s(aggregator.pid) - busy[1], 2),
                }
            )
    facts = {"analysis": asked.name, "integers": layout.tensors[0].size, "bytes_a_round": plan.public.wire_bytes}
    return facts | min(found, key=lambda one: one["seconds"])


def main() -> None:
    """Ask each question, write the result, and say it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="how often each question is asked [default: 3]")
    times = parser.parse_args().times
    columns = table()
    where = np.random.default_rng(7).choice(len(NAMES), len(columns["days"]), p=SHARES)
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), "times": times, "rows": []}
    print("| analysis | rounds | bytes a round | seconds | processor seconds |\n|---|---|---|---|---|")
    numbers = itertools.count(1)
    with (
        tempfile.TemporaryDirectory(prefix="he-agg-") as root,
        AggregatorProcess(Path(root) / "aggregator", environment=PROMPT) as aggregator,
    ):
        for asked in questions():
            shares = [[columns[column][where == i] for column in asked.columns] for i in range(len(NAMES))]
            if not report["rows"]:
                measured(asked, shares, aggregator, f"bench-{next(numbers)}", 1)  # compiles
            row = measured(asked, shares, aggregator, f"bench-{next(numbers)}", times)
            report["rows"].append(row)
            print(
                "| {analysis} | {rounds} | {bytes_a_round:,} | {seconds:.1f} | "
                "{processor_s_of_the_sites:.1f} + {processor_s_of_the_aggregator:.1f} |".format(**row),
                flush=True,
            )
    write(report, RESULTS / "analytics.json")


if __name__ == "__main__":
    main()
