"""Measure one scheme in this process, pinned to one core, and print one JSON row. Started by benchmarks/codecs.py."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.schemes import SCHEMES, Scheme

LONG_S = 1.0
"""Repeat until so much time was measured, at least `MIN_RUNS` times unless one run is longer than that."""

MIN_RUNS = 5

FOLD_BYTES = 150 * 10**6
"""How much of a submission the fold is measured on at most."""


def median_s(action: Callable[[], object]) -> float:
    """Median seconds of an action. The first run, which compiles and warms, is not counted if there are others."""
    times: list[float] = []
    while True:
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
        enough = len(times) > MIN_RUNS and sum(times[1:]) > LONG_S
        if enough or times[0] > 5 or (len(times) > 2 and sum(times[1:]) > 5 * LONG_S):
            return statistics.median(times[1:] or times)


def memory(name: str) -> int:
    """VmRSS or VmHWM of this process. Units: bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def peak_beyond(action: Callable[[], object]) -> tuple[int, int]:
    """How far memory rises above what is held now while an action runs, and the peak itself. Units: bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory("VmRSS")
    action()
    peak = memory("VmHWM")
    return peak - before, peak


def fold_values_per_s(scheme: Scheme, values: Any, n_values: int) -> float:
    """How fast one site's submission is added onto a sum. Of large ones the first pieces, so that memory holds them."""
    pieces, kept, held = [], 0, 0
    for piece in scheme.encrypt(values):
        kept += 1
        if held < FOLD_BYTES:
            pieces.append(piece)
            held += scheme.wire_bytes(piece)
    totals = [scheme.new_sum(piece) for piece in pieces]

    def fold_all() -> None:
        for i, piece in enumerate(pieces):
            totals[i] = scheme.fold(totals[i], piece)

    return n_values * len(pieces) / kept / median_s(fold_all)


def measure(scheme_name: str, value_bits: int, n_values: int, max_sites: int, site_counts: list[int]) -> list[dict]:
    """One row per number of sites."""
    magnitude = 2 ** (value_bits - 1) - 1
    scheme = SCHEMES[scheme_name](scheme_name, n_values, value_bits, max_sites)
    rng = np.random.default_rng(1)
    exact = scheme_name != "plaintext-float32"
    plan = getattr(scheme, "plan", None)
    size = plan.public.values if plan else n_values
    values = np.empty(size, dtype=np.int32)
    for start in range(0, size, 2**20):
        chunk = values[start : start + 2**20]
        chunk[:] = rng.integers(-magnitude, magnitude + 1, chunk.size)
    if not exact:
        values = values.astype(np.float32).view(np.int32)

    def encrypt() -> int:
        return sum(1 for _ in scheme.encrypt(values))

    small = values[: min(size, 70_000)]
    warm = SCHEMES[scheme_name](scheme_name, small.size - (size - n_values), value_bits, max_sites)
    for piece in warm.encrypt(small):  # compile, or load from the cache, outside every measurement
        warm.fold(warm.new_sum(piece), piece)

    rows = []
    with tempfile.TemporaryDirectory(prefix="he-agg-bench-") as folder:
        encrypt_rss, encrypt_peak = peak_beyond(encrypt)
        encrypt_s = median_s(encrypt)
        up = sum(scheme.wire_bytes(piece) for piece in scheme.encrypt(values))
        fold_speed = fold_values_per_s(scheme, values, n_values)
        for n_sites in site_counts:
            down = 0
            # Sites in step, piece by piece, so that many sites take no more memory than one.
            for pieces in zip(*(scheme.encrypt(values) for _ in range(n_sites)), strict=True):
                total = scheme.new_sum(pieces[0])
                for piece in pieces:
                    total = scheme.fold(total, piece)
                number = pieces[0][0]
                packed = scheme.finish(total, number)
                down += scheme.wire_bytes((number, packed))
                Path(folder, str(number)).write_bytes(packed)

            def source(number: int) -> bytes | None:
                path = Path(folder, str(number))
                return path.read_bytes() if path.exists() else None

            held: list[Any] = []

            def open_once(n: int = n_sites, held: list[Any] = held) -> None:
                held.append(scheme.open(source, n))

            open_rss, open_peak = peak_beyond(open_once)
            sums = held.pop()
            if exact and not np.array_equal(sums[:size].astype(np.int64), values.astype(np.int64) * n_sites):
                raise SystemExit(f"{scheme_name}: the sum is wrong")
            output = sums.nbytes
            del sums
            open_s = median_s(lambda n=n_sites: scheme.open(source, n))
            rows.append(
                {
                    "scheme": scheme_name,
                    "value_bits": value_bits,
                    "values": n_values,
                    "sites": n_sites,
                    "max_sites": max_sites,
                    "profile": plan.public.parameters.name if plan else "",
                    "bytes_per_value_up": up / n_values,
                    "bytes_per_value_down": down / n_values,
                    "encrypt_values_per_s": n_values / encrypt_s,
                    "fold_values_per_s": fold_speed,
                    "open_values_per_s": n_values / open_s,
                    "peak_rss_bytes": max(encrypt_peak, open_peak),
                    "encrypt_rss_beyond_input_bytes": encrypt_rss,
                    "open_rss_beyond_output_bytes": open_rss - output,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scheme", choices=sorted(SCHEMES))
    parser.add_argument("--bits", type=int, default=16)
    parser.add_argument("--values", type=int, default=10**6)
    parser.add_argument("--max-sites", type=int, default=31)
    parser.add_argument("--sites", type=int, nargs="+", default=[3])
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    rows = measure(arguments.scheme, arguments.bits, arguments.values, arguments.max_sites, arguments.sites)
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()
