"""How an aggregator grows: serving processes, workers, sites, federations, values, and the store of parts.

    python -m benchmarks.scale                        what fits into half an hour on two cores
    python -m benchmarks.scale --large                also 300 sites, and rounds of 10^8 values
    python -m benchmarks.scale --parts s3://bucket/p  each load in an object store as well, with AWS_* variables

Each case is a run of benchmarks.load or benchmarks.folding in a process of its own; what it was is in `command`. Two
things are fitted to them: how the processor's time of a round grows with sites (an exponent of 1 is proportional), and
how memory does. Rates of cases with more processes than cores say little: processor seconds for each GB do. The result
goes to benchmarks/results/scale.json, case by case, so a run that is stopped has what it has measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import RESULTS, machine, versions, write

_TOLD = (
    "command",
    "processes",
    "workers",
    "federations",
    "parts",
    "sites",
    "values",
    "MB_per_round",
    "rates_MB_per_s",
    "ratio_median",
    "from_last_receipt_to_record_s",
    "processor_s_per_GB",
    "largest_process_MB",
    "sum_exact",
)
_SERVING = [(1, 0), (2, 0), (4, 0), (2, 1), (2, 2), (2, 4)]
"""Serving processes and workers; without workers, whoever serves works."""


def loads(large: bool) -> list[list[str]]:
    """Return the arguments of each run of benchmarks.load."""
    cases = [["--processes", str(serve), "--workers", str(work), "--repetitions", "2"] for serve, work in _SERVING]
    cases += [["--processes", "2", "--sites", str(sites)] for sites in (4, 16)]
    # 50 federations side by side, and as many sites in one.
    cases += [["--processes", "2", "--sites", "150", "--values", "200000", "--federations", n] for n in ("1", "50")]
    if large:
        cases += [["--processes", str(n), "--sites", "300", "--repetitions", "1"] for n in (1, 2, 4)]
        cases += [["--processes", "2", "--sites", "4", "--values", "100000000", "--repetitions", "1"]]
    return cases


def folds(large: bool) -> list[list[str]]:
    """Return the arguments of each run of benchmarks.folding."""
    cases = [["--values", "10000000", "--sites", "64", "--workers", str(n)] for n in (1, 2, 4)]
    cases += [["--values", "10000000", "--sites", str(sites), "--workers", "1"] for sites in (4, 16, 300)]
    if large:
        cases += [["--values", "100000000", "--sites", "64", "--workers", str(n)] for n in (1, 2, 4)]
    return cases


def run(module: str, option: str, case: list[str], timeout_s: float) -> dict[str, Any]:
    """Run one case. One that fails says so, and the others go on."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *case]
    told = " ".join(["python -m", f"benchmarks.{module}", *case])
    print(told, flush=True)
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "result.json")
        load = machine()["load_at_start"]
        try:
            subprocess.run([*command, option, str(out)], check=True, stdout=subprocess.DEVNULL, timeout=timeout_s)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            return {"command": told, "failed": str(error)[-200:]}
        return json.loads(out.read_text()) | {"command": told, "load_at_start": load}


def exponent(points: list[tuple[float, float]]) -> float | None:
    """Fit y ~ x^e to at least three points. Returns e."""
    if len(points) < 3:
        return None
    x, y = np.log(np.array(points, dtype=np.float64)).T
    return round(float(np.polyfit(x, y, 1)[0]), 3)


def fits(loaded: list[dict[str, Any]], folded: list[dict[str, Any]]) -> dict[str, Any]:
    """Fit what a round costs to the number of its sites."""
    rounds = [
        (one["sites"], sum(one["processor_s_per_GB"][role] for role in ROLES) * one["MB_per_round"] / 1000)
        for one in loaded
        if (one.get("processes"), one.get("workers"), one.get("federations"), one.get("values")) == (2, 0, 1, 10**6)
    ]
    sums = [
        (one["sites"], sum(one["processor"].values()))
        for one in folded
        if (one.get("workers"), one.get("values")) == (1, 10**7)
    ]
    return {
        "processor_s_of_a_round_by_sites": sorted(rounds),
        "exponent_of_a_round": exponent(rounds),
        "processor_s_of_a_sum_by_sites": sorted(sums),
        "exponent_of_a_sum": exponent(sums),
    }


ROLES = ("serving_s", "working_s", "database_s")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--parts", help="s3://bucket/prefix, with AWS_* variables")
    parser.add_argument("--timeout", type=float, default=900.0, help="of one case, in seconds")
    parser.add_argument("--output", type=Path, default=RESULTS / "scale.json")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.scale", *sys.argv[1:]]),
        "machine": machine(),
        "versions": versions(),
        "loads": [],
        "folds": [],
    }

    def keep() -> None:
        write(result | {"fits": fits(result["loads"], result["folds"])}, options.output)

    told = ("failed", "load_at_start", *_TOLD)
    for number, case in enumerate(loads(options.large)):
        stores: list[list[str]] = [[]] if options.parts is None else [[], ["--parts", f"{options.parts}/{number}"]]
        for where in stores:
            found = run("load", "--output", [*case, *where], options.timeout)
            result["loads"].append({name: found[name] for name in told if name in found})
            keep()
    for case in folds(options.large):
        found = run("folding", "--out", case, options.timeout)
        result["folds"].append({name: one for name, one in found.items() if name not in ("machine", "versions")})
        keep()
    print(json.dumps(fits(result["loads"], result["folds"]), indent=1))


if __name__ == "__main__":
    main()
