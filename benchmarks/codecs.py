"""`make bench`: all schemes side by side in one run, each in a process of its own, pinned to one core.

    python -m benchmarks.codecs [--quick] [--out benchmarks/results]

Writes <date>-<machine>.json and a picture beside it, prints the table and the ratios.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.picture import draw

Job = tuple[str, int, int, int, list[int]]
"""Scheme, value bits, values, max_sites, sites."""

FULL: list[Job] = [
    *(
        (scheme, bits, values, 31, [3])
        for values in (10**4, 10**6, 10**7)
        for scheme, bits in (
            ("tenseal-stock", 16),
            ("hybrid", 16),
            ("plaintext-float32", 16),
            ("mask-floor", 16),
            ("hybrid", 8),
            ("hybrid", 24),
            ("ckks", 16),
        )
    ),
    ("hybrid", 16, 10**7, 300, [3, 30, 300]),
    ("mask-floor", 16, 10**7, 300, [3, 30, 300]),
    ("ckks", 16, 10**4, 300, [3, 30, 300]),
    ("hybrid", 16, 10**8, 31, [3]),
    ("plaintext-float32", 16, 10**8, 31, [3]),
]
QUICK: list[Job] = [job for job in FULL if job[2] == 10**6]


def run(job: Job, core: int) -> list[dict[str, Any]]:
    scheme, bits, values, max_sites, sites = job
    command = [sys.executable, "-m", "benchmarks.measure", scheme, "--bits", str(bits), "--values", str(values)]
    command += ["--max-sites", str(max_sites), "--core", str(core), "--sites", *map(str, sites)]
    # Values that nobody set could slow one process and not the next: threads are one everywhere.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def find(rows: list[dict[str, Any]], scheme: str, values: int, **others: int) -> dict[str, Any] | None:
    wanted = {"scheme": scheme, "values": values, "value_bits": 16, "max_sites": 31, "sites": 3} | others
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What is promised, as ratios of figures of this run. At 10^7 values, or 10^6 in a quick run."""
    values = 10**7 if find(rows, "hybrid", 10**7) else 10**6
    ours, stock = find(rows, "hybrid", values), find(rows, "tenseal-stock", values)
    plain, mask = find(rows, "plaintext-float32", values), find(rows, "mask-floor", values)
    found: dict[str, float] = {}
    if ours and stock and plain and mask:
        found = {
            "values": values,
            "bytes_up_vs_float32": ours["bytes_per_value_up"] / plain["bytes_per_value_up"],
            "bytes_up_vs_tenseal_stock": ours["bytes_per_value_up"] / stock["bytes_per_value_up"],
            "encrypt_speed_vs_tenseal_stock": ours["encrypt_values_per_s"] / stock["encrypt_values_per_s"],
            "fold_time_vs_float32": plain["fold_values_per_s"] / ours["fold_values_per_s"],
            "open_speed_vs_tenseal_stock": ours["open_values_per_s"] / stock["open_values_per_s"],
            "encrypt_time_vs_mask_floor": mask["encrypt_values_per_s"] / ours["encrypt_values_per_s"],
            "bytes_vs_mask_floor": ours["bytes_per_value_up"] / mask["bytes_per_value_up"],
        }
    few, many = (find(rows, "hybrid", 10**7, max_sites=300, sites=n) for n in (3, 300))
    if few and many:
        found["open_time_300_sites_vs_3"] = few["open_values_per_s"] / many["open_values_per_s"]
    large = find(rows, "hybrid", 10**8)
    if large:
        found["encrypt_rss_beyond_input_mb_at_1e8"] = large["encrypt_rss_beyond_input_bytes"] / 1e6
        found["open_rss_beyond_output_mb_at_1e8"] = large["open_rss_beyond_output_bytes"] / 1e6
    return found


def machine() -> dict[str, Any]:
    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    load = os.getloadavg()[0]
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.platform(), "load_at_start": round(load, 2)}


def table(rows: list[dict[str, Any]]) -> Table:
    out = Table(box=SIMPLE_HEAD, title="One core; M values/s; fold per site", title_justify="left")
    for name in ("scheme", "bits", "values", "sites", "B/value up", "down", "encrypt", "fold", "open", "peak RSS MB"):
        out.add_column(name, justify="left" if name == "scheme" else "right")
    for row in rows:
        speeds = (row[f"{phase}_values_per_s"] / 1e6 for phase in ("encrypt", "fold", "open"))
        out.add_row(
            row["scheme"],
            str(row["value_bits"]) if row["scheme"] != "plaintext-float32" else "32",
            f"{row['values']:.0e}".replace("e+0", "e"),
            f"{row['sites']}/{row['max_sites']}",
            f"{row['bytes_per_value_up']:.3f}",
            f"{row['bytes_per_value_down']:.3f}",
            *(f"{speed:,.1f}" for speed in speeds),
            f"{row['peak_rss_bytes'] / 1e6:,.0f}",
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10^6 values only, within a minute")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 110)
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "make bench QUICK=1" if arguments.quick else "make bench",
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("he-agg", "tenseal", "numpy", "numba", "cryptography")},
        },
        "rows": [],
    }
    jobs = QUICK if arguments.quick else FULL
    with console.status("") as status:
        for number, job in enumerate(jobs, 1):
            status.update(f"{number} of {len(jobs)}: {job[0]}, {job[1]} bits, {job[2]:,} values")
            report["rows"] += run(job, arguments.core)
    report["ratios"] = ratios(report["rows"])
    console.print(table(report["rows"]))
    for name, value in report["ratios"].items():
        console.print(f"{name:<38}{value:,.3f}", highlight=False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = f"{report['date']}-{platform.machine()}-{os.cpu_count()}cores" + ("-quick" if arguments.quick else "")
    path = arguments.out / f"{name}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    picture = draw(report, path.with_suffix(".png"))
    console.print(f"Written: {path}, {picture}", highlight=False)


if __name__ == "__main__":
    main()
