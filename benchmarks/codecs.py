"""`make bench`: all schemes side by side in one run, each in a process of its own, pinned to one core.

    python -m benchmarks.codecs [--quick] [--out benchmarks/results]

Writes <date>-<machine>.json after each process, so that a run cut short leaves what it measured; at the end a picture
beside it. Prints the table, the ratios, and what is promised of them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.picture import draw
from benchmarks.promises import PLANS, promises, told
from benchmarks.ratios import medians, ratios
from benchmarks.report import RESULTS, machine, name_of, versions, write
from he_agg.plan.schemes import DEFAULT_CODEC, SCHEMES

REPETITIONS = 3
SIDE_BY_SIDE = (DEFAULT_CODEC, "plaintext-float32", "mask-floor", "tenseal-stock")
"""Measured in turn, repeatedly: ratios are taken within a repetition."""


@dataclass(frozen=True)
class Job:
    """What one process measures: a scheme, or what the MAC adds to it."""

    scheme: str
    bits: int
    values: int
    max_sites: int = 31
    sites: tuple[int, ...] = (3,)
    repetition: int = 0
    mac: bool = False


def jobs(quick: bool) -> list[Job]:
    """What is measured, in order: what is promised first, so that a run cut short has it."""
    most = 10**6 if quick else 10**7
    repetitions = range(2 if quick else REPETITIONS)
    found = [Job(scheme, 16, most, repetition=r) for r in repetitions for scheme in SIDE_BY_SIDE]
    # The first plan is that of the schemes side by side.
    found += [Job(DEFAULT_CODEC, bits, most, sites) for bits, sites in PLANS[1:]]
    found += [Job(DEFAULT_CODEC, bits, most, sites, mac=True) for bits, sites in PLANS]
    found += [Job(DEFAULT_CODEC, bits, 10**4, sites) for bits, sites in PLANS]
    others = [codec for codec in SCHEMES if codec != DEFAULT_CODEC]
    found += [Job(codec, 16, most) for codec in others]
    if quick:
        return found
    found.append(Job(DEFAULT_CODEC, 16, most, 300, (3, 30, 300)))
    found += [Job(DEFAULT_CODEC, 16, 10**8), Job("plaintext-float32", 16, 10**8)]
    found += [Job(scheme, 16, 10**6) for scheme in (*SIDE_BY_SIDE, *others)]
    found += [Job(scheme, 16, 10**4) for scheme in (*SIDE_BY_SIDE[1:], *others)]
    # Opening under masks takes a keystream for each site: fewer values show that as well.
    return [*found, Job("mask-floor", 16, 10**6, 300, (3, 30, 300)), Job("ckks", 16, 10**4, 300, (3, 30, 300))]


def run(job: Job, core: int, quick: bool) -> Any:
    """Measure in a process of its own. Returns a row for each number of sites, or that of the MAC."""
    command = [sys.executable, "-m", "benchmarks.mac" if job.mac else "benchmarks.measure", "--bits", str(job.bits)]
    command += ["--values", str(job.values), "--max-sites", str(job.max_sites), "--core", str(core)]
    if job.mac:
        command += ["--repetitions", str(9 if quick else 31)]
    else:
        command += [job.scheme, "--sites", *map(str, job.sites)]
    # Values that nobody set could slow one process and not the next: threads are one everywhere.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    found = json.loads(done.stdout)
    return found if job.mac else [row | {"repetition": job.repetition} for row in found]


def table(rows: list[dict[str, Any]]) -> Table:
    out = Table(box=SIMPLE_HEAD, title="One core; ns/value; fold per site", title_justify="left")
    for name in ("scheme", "bits", "values", "sites", "B/value up", "down", "encrypt", "fold", "open", "peak RSS MB"):
        out.add_column(name, justify="left" if name == "scheme" else "right")
    for row in rows:
        times = (1e9 / row[f"{phase}_values_per_s"] for phase in ("encrypt", "fold", "open"))
        out.add_row(
            row["scheme"],
            str(row["value_bits"]) if row["scheme"] != "plaintext-float32" else "32",
            f"{row['values']:.0e}".replace("e+0", "e"),
            f"{row['sites']}/{row['max_sites']}",
            f"{row['bytes_per_value_up']:.3f}",
            f"{row['bytes_per_value_down']:.3f}",
            *(f"{ns:,.2f}" for ns in times),
            f"{row['peak_rss_bytes'] / 1e6:,.0f}",
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10^6 values only, about a minute")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 110)
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "make bench QUICK=1" if arguments.quick else "make bench",
        "machine": machine(),
        "versions": versions(),
        "complete": False,
        "seconds": 0.0,
        "ratios": {},
        "promises": [],
        "rows": [],
        "mac": [],
    }
    path = arguments.out / f"{name_of()}{'-quick' if arguments.quick else ''}.json"
    todo, begin = jobs(arguments.quick), time.perf_counter()
    with console.status("") as status:
        for number, job in enumerate(todo, 1):
            what = f"MAC of {job.scheme}" if job.mac else job.scheme
            status.update(f"{number} of {len(todo)}: {what}, {job.bits} bits, {job.values:,} values")
            found = run(job, arguments.core, arguments.quick)
            report["rows"] += [] if job.mac else found
            report["mac"] += [found] if job.mac else []
            report["ratios"] = ratios(report["rows"])
            report["promises"] = promises(medians(report["rows"]), report["mac"], report["ratios"])
            report["seconds"] = round(time.perf_counter() - begin, 1)
            report["complete"] = number == len(todo)
            write(report, path)
    console.print(table(medians(report["rows"])))
    for name, found in report["ratios"].items():
        spread = f"   {found['least']:,.3f} to {found['most']:,.3f}" if found["least"] < found["most"] else ""
        console.print(f"{name:<38}{found['median']:>10,.3f}{spread}", highlight=False)
    for each in report["promises"]:
        console.print(told(each), highlight=False)
    picture = draw(report | {"rows": medians(report["rows"])}, path.with_suffix(".png"))
    console.print(f"Written in {report['seconds']:.0f} s: {path}, {picture}", highlight=False)


if __name__ == "__main__":
    main()
