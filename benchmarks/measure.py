"""Measure one scheme in this process, pinned to one core, and print its JSON rows. Started by benchmarks/codecs.py.

A sum of n sites is made of n different encryptions; of stock TenSEAL, whose encryption takes long and whose opening
looks at no noise, of one folded n times, since neither bytes nor times depend on that. Every sum is checked.
"""

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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proc import memory_bytes
from benchmarks.schemes import SCHEMES, Scheme, StockTenseal

LONG_S = 0.6
"""Repeat until so much time was measured, at least `MIN_RUNS` times, or for `SLOW_S`."""

MIN_RUNS = 3

SLOW_S = 2.5
"""A first run that takes longer is the only one: the code is warm by then, and so long a run is an average itself."""

FOLD_BYTES = 150 * 10**6
"""How much of a submission the fold is measured on at most."""


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes, once."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def by_turns(actions: list[Callable[[], object]]) -> list[list[float]]:
    """Seconds of each action, round by round, each in turn. A first round only warms if others follow."""
    rounds, spent = [[seconds(action) for action in actions]], 0.0
    while sum(rounds[0]) < SLOW_S * len(actions):
        rounds.append([seconds(action) for action in actions])
        spent += sum(rounds[-1]) / len(actions)
        if (len(rounds) > MIN_RUNS and spent > LONG_S) or (len(rounds) > 2 and spent > SLOW_S):
            break
    return [list(times) for times in zip(*(rounds[1:] or rounds), strict=True)]


def median_s(action: Callable[[], object]) -> float:
    """Median seconds of an action."""
    return statistics.median(by_turns([action])[0])


def peak_beyond(action: Callable[[], object]) -> tuple[int, int]:
    """How far memory rises above what is held now while an action runs, and the peak itself. Units: bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory_bytes("VmRSS")
    action()
    peak = memory_bytes("VmHWM")
    return peak - before, peak


def fold_values_per_s(scheme: Scheme, pieces: list[Any], n_values: float) -> float:
    """How fast pieces of one site's submission are added onto a sum."""
    totals = [scheme.new_sum(piece) for piece in pieces]

    def fold_all() -> None:
        for i, piece in enumerate(pieces):
            totals[i] = scheme.fold(totals[i], piece)

    return n_values / median_s(fold_all)


def random_values(size: int, value_bits: int, exact: bool) -> Any:
    """The vector that is encrypted, in pieces, so that making it takes little memory beside it."""
    rng, magnitude = np.random.default_rng(1), 2 ** (value_bits - 1) - 1
    values = np.empty(size, dtype=np.int32)
    for start in range(0, size, 2**20):
        chunk = values[start : start + 2**20]
        chunk[:] = rng.integers(-magnitude, magnitude + 1, chunk.size)
    return values if exact else values.astype(np.float32).view(np.int32)


class Submissions:
    """One submission's bytes, its first pieces, and on disk the sums of every wanted number of sites."""

    def __init__(self, scheme: Scheme, values: Any, site_counts: list[int], folder: Path) -> None:
        self.up, self.down = 0, dict.fromkeys(site_counts, 0)
        self.first: list[Any] = []
        self.pieces = held = 0
        self.folder = folder
        most = max(site_counts)
        different = 1 if isinstance(scheme, StockTenseal) else most
        totals: dict[int, Any] = {}
        # One site after the other, so that many take no more memory than one.
        for site in range(different):
            for piece in scheme.encrypt(values):
                number = piece[0]
                if site == 0:
                    size = scheme.wire_bytes(piece)
                    self.up += size
                    self.pieces += 1
                    totals[number] = scheme.new_sum(piece)
                    if held < FOLD_BYTES:
                        self.first.append(piece)
                        held += size
                for _ in range(most - site if site == different - 1 else 1):
                    totals[number] = scheme.fold(totals[number], piece)
                n_sites = most if site == different - 1 else site + 1
                if n_sites in self.down:
                    packed = scheme.finish(totals[number], number)
                    self.down[n_sites] += scheme.wire_bytes((number, packed))
                    self._path(n_sites, number).write_bytes(packed)
                    if n_sites == most:
                        del totals[number]

    def _path(self, n_sites: int, number: int) -> Path:
        return Path(self.folder, f"{n_sites}-{number}")

    def source(self, n_sites: int) -> Callable[[int], bytes | None]:
        """Where the sum of so many sites is read from."""

        def read(number: int) -> bytes | None:
            path = self._path(n_sites, number)
            return path.read_bytes() if path.exists() else None

        return read


def check(sums: Any, values: Any, n_sites: int) -> None:
    for start in range(0, values.size, 2**20):
        expected = values[start : start + 2**20].astype(np.int64) * n_sites
        if not np.array_equal(sums[start : start + expected.size].astype(np.int64), expected):
            raise SystemExit("the sum is wrong")


def measure(scheme_name: str, value_bits: int, n_values: int, max_sites: int, site_counts: list[int]) -> list[dict]:
    """One row per number of sites."""
    scheme = SCHEMES[scheme_name](scheme_name, n_values, value_bits, max_sites)
    plan = getattr(scheme, "plan", None)
    exact = scheme_name != "plaintext-float32"
    values = random_values(plan.public.values if plan else n_values, value_bits, exact)

    def encrypt() -> int:
        return sum(1 for _ in scheme.encrypt(values))

    small = values[: min(values.size, 70_000)]
    warm = SCHEMES[scheme_name](scheme_name, small.size - (values.size - n_values), value_bits, max_sites)
    for piece in warm.encrypt(small):  # compile, or load from the cache, outside every measurement
        warm.fold(warm.new_sum(piece), piece)

    with tempfile.TemporaryDirectory(prefix="he-agg-bench-") as folder:
        encrypt_rss, peak = peak_beyond(encrypt)
        encrypt_s = median_s(encrypt)
        sent = Submissions(scheme, values, site_counts, Path(folder))
        fold_speed = fold_values_per_s(scheme, sent.first, n_values * len(sent.first) / sent.pieces)
        sent.first.clear()
        open_rss = {}
        for n in site_counts:
            held: list[Any] = []
            rise, opened = peak_beyond(lambda: held.append(scheme.open(sent.source(n), n)))  # noqa: B023 - runs at once
            open_rss[n], peak = rise - held[0].nbytes, max(peak, opened)
            if exact:
                check(held[0], values, n)
        held.clear()
        times = by_turns([partial(scheme.open, sent.source(n), n) for n in site_counts])
    return [
        {
            "scheme": scheme_name,
            "value_bits": value_bits,
            "values": n_values,
            "sites": n,
            "max_sites": max_sites,
            "profile": plan.public.parameters.name if plan else "",
            "bytes_per_value_up": sent.up / n_values,
            "bytes_per_value_down": sent.down[n] / n_values,
            "encrypt_values_per_s": n_values / encrypt_s,
            "fold_values_per_s": fold_speed,
            "open_values_per_s": n_values / statistics.median(open_s),
            "open_s": open_s[:100],
            "peak_rss_bytes": peak,
            "encrypt_rss_beyond_input_bytes": encrypt_rss,
            "open_rss_beyond_output_bytes": open_rss[n],
        }
        for n, open_s in zip(site_counts, times, strict=True)
    ]


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
