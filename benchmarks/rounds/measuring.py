"""One cell: a model, a number of sites, a link. All schemes are up at once, and take turns round by round."""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rounds import tree
from benchmarks.rounds.links import RATES, network
from benchmarks.rounds.models import MODELS
from benchmarks.rounds.schemes import BASELINE, SCHEMES, Running, Scheme, skip_reason, started

__all__ = ["Cell", "measure", "one_round", "summary"]

Row = dict[str, Any]
_WARM_ROUNDS = 2
_HEADWAY_S = 0.05
_ROUND_S = 900.0
_TOLERANCE = {8: 2e-2, 16: 1e-4, 22: 4e-6, 24: 1e-6, 32: 1e-5}
"""How far a mean may be from the one in double precision; more is no mean, and no measurement."""


class Cell:
    """What one set of rows has in common.

    Args:
        model: a name out of `MODELS`.
        sites: how many.
        link: a name out of `RATES`.
    """

    def __init__(self, model: str, sites: int, link: str) -> None:
        self.model, self.sites, self.link = model, sites, link
        self.values = MODELS[model]

    def __str__(self) -> str:
        return f"{self.model} ({self.values:,} values), {self.sites} sites, {self.link}"

    def row(self, scheme: Scheme) -> Row:
        """What identifies a row."""
        return {
            "scheme": scheme.name,
            "label": scheme.label,
            "value_bits": scheme.value_bits,
            "model": self.model,
            "values": self.values,
            "sites": self.sites,
            "max_sites": scheme.room(self.sites),
            "link": self.link,
        }


def measure(
    cell: Cell,
    labels: list[str],
    repetitions: int,
    shaping: str,
    note: Callable[[str], None] = lambda _: None,
    flower_python: str = sys.executable,
) -> list[Row]:
    """Measure a cell.

    Args:
        cell: which.
        labels: schemes by name; the baseline is measured too.
        repetitions: how often each takes its turn.
        shaping: "namespaces" or "proxy".
        note: is told what happens.
        flower_python: of the environment that has Flower.

    Returns:
        One row for each scheme, those that were left out with `skipped`.
    """
    wanted = [SCHEMES[label] for label in dict.fromkeys([BASELINE, *labels])]
    reasons = {s.label: skip_reason(s, cell.values, cell.sites, RATES[cell.link], flower_python) for s in wanted}
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="he-agg-bench-")))
        net = stack.enter_context(network(cell.link, cell.sites, shaping, root))
        running = []
        for scheme in wanted:
            if not reasons[scheme.label]:
                note(f"{cell}: starting {scheme.label}")
                folder = root / scheme.label
                folder.mkdir()
                processes = started(scheme, cell.values, cell.sites, net, folder, flower_python)
                running.append(stack.enter_context(processes))
        found: dict[str, list[Row]] = {each.scheme.label: [] for each in running}
        for _ in range(_WARM_ROUNDS):
            for each in running:
                note(f"{cell}: warming up {each.scheme.label}")
                one_round(each)
        for repetition in range(repetitions):
            for each in _turns(running, repetition):
                note(f"{cell}: repetition {repetition + 1} of {repetitions}, {each.scheme.label}")
                found[each.scheme.label].append(one_round(each))
        peaks = {each.scheme.label: tree.largest_rss_bytes(each.server.pid) for each in running}
    rows = []
    for scheme in wanted:
        row = cell.row(scheme) | {"shaping": net.kind}
        if reasons[scheme.label]:
            rows.append(row | {"skipped": reasons[scheme.label]})
        else:
            rows.append(row | summary(found[scheme.label], found[BASELINE]) | {"server_rss": peaks[scheme.label]})
    return rows


def _turns(running: Sequence[Running], repetition: int) -> list[Running]:
    """Who follows whom is another each time, but the same in every run."""
    return random.Random(repetition).sample(running, len(running))


def one_round(running: Running) -> Row:
    """Run one round. Returns what it took, in all and of each phase."""
    for site in running.sites:
        site.say({"do": "prepare"})
    for site in running.sites:
        site.hear(_ROUND_S)
    os.sync()  # what others have written and not synced would be waited for in this round
    cpu = tree.cpu_s(running.server.pid)
    begin = time.monotonic() + _HEADWAY_S
    for site in running.sites:
        site.say({"do": "run", "at": begin})
    told = [site.hear(_ROUND_S) for site in running.sites]
    worst = max(each["error"] for each in told)
    if not worst <= _TOLERANCE[running.scheme.value_bits]:
        raise RuntimeError(f"{running.scheme.label}: the mean is off by {worst}")
    last = max(told, key=lambda each: each["end"])
    phases = {phase: statistics.fmean(each["seconds"].get(phase, 0.0) for each in told) for phase in last["seconds"]}
    row = {
        "round_s": last["end"] - begin,
        "seconds": phases,
        "bytes_up": statistics.fmean(each["bytes_up"] for each in told),
        "bytes_down": statistics.fmean(each["bytes_down"] for each in told),
        "cpu_s_server": tree.cpu_s(running.server.pid) - cpu,
        "cpu_s_sites": sum(each["cpu_s"] for each in told),
        "site_rss": max(each["peak_rss_bytes"] for each in told),
    }
    fold = _fold_s(running)
    return row if fold is None else row | {"fold_s": fold}


def _fold_s(running: Running) -> float | None:
    """How long the aggregator took for the sum, by its own log."""
    published = [line for line in running.server.log_lines if line.get("message") == "published"]
    return float(published[-1]["ms"]) / 1000 if published else None


def summary(rounds: list[Row], baseline: list[Row]) -> Row:
    """Medians and spread of a scheme's repetitions; ratios are taken within each repetition."""
    times = [each["round_s"] for each in rounds]
    ratios = [mine["round_s"] / its["round_s"] for mine, its in zip(rounds, baseline, strict=True)]
    of_bytes = [
        (mine["bytes_up"] + mine["bytes_down"]) / (its["bytes_up"] + its["bytes_down"])
        for mine, its in zip(rounds, baseline, strict=True)
    ]

    def median(name: str) -> float:
        return statistics.median(each[name] for each in rounds)

    row = {
        "round_s_median": statistics.median(times),
        "round_s_min": min(times),
        "round_s_max": max(times),
        "ratio_to_plaintext": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "bytes_ratio_to_plaintext": statistics.median(of_bytes),
        "bytes_up": median("bytes_up"),
        "bytes_down": median("bytes_down"),
        "seconds": {
            phase: statistics.median(each["seconds"].get(phase, 0.0) for each in rounds)
            for phase in rounds[-1]["seconds"]
        },
        "cpu_s_server": median("cpu_s_server"),
        "cpu_s_sites": median("cpu_s_sites"),
        "site_rss": max(each["site_rss"] for each in rounds),
        "repetitions": [{"round_s": t, "ratio": r} for t, r in zip(times, ratios, strict=True)],
    }
    folds = [each["fold_s"] for each in rounds if "fold_s" in each]
    return row | ({"fold_s": statistics.median(folds)} if folds else {})
