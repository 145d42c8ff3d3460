"""A whole run: cell after cell, written to a file after each, so that a run cut short leaves what it measured."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report import PACKAGES, machine, versions, write
from benchmarks.rounds.flower.starting import flower_version
from benchmarks.rounds.limits import link_bytes_per_s, machine_limits
from benchmarks.rounds.links import ENVIRONMENT, RATES, namespaces_work
from benchmarks.rounds.measuring import Cell, measure
from benchmarks.rounds.models import MODELS, PROMISED_MODEL
from benchmarks.rounds.promises import promises
from benchmarks.rounds.schemes import SCHEMES

__all__ = ["Report", "cells", "run"]

Report = dict[str, Any]

_PACKAGES = (*PACKAGES, "fastapi", "uvicorn", "starlette", "h11", "uvloop", "httptools")


def cells(models: Iterable[str], sites: Iterable[int], links: Iterable[str], every: bool) -> list[Cell]:
    """What is measured, in order: what is promised first.

    Args:
        models: names out of `MODELS`.
        sites: numbers of sites.
        links: names out of `RATES`.
        every: whether each is combined with each; otherwise more than 3 sites go with small models and loopback, the
            largest model with 3 sites, which is what a small machine can do, and the slowest link, where a round takes
            half a minute, with the model that something is promised of.
    """
    found = [Cell(model, n, link) for model in models for n in sites for link in links]
    if not every:
        found = [c for c in found if c.sites <= 3 or (c.values <= 10**6 and c.link == "loopback")]
        found = [c for c in found if c.values < 10**8 or c.link == "loopback"]
        found = [c for c in found if c.model == PROMISED_MODEL or c.link != "20mbit"]
    return sorted(found, key=lambda cell: (cell.model != PROMISED_MODEL, cell.sites * cell.values))


def run(
    todo: list[Cell],
    labels: list[str],
    repetitions: int,
    path: Path,
    command: str,
    *,
    shaping: str = "auto",
    add: bool = False,
    note: Callable[[str], None] = lambda _: None,
    flower_python: str = sys.executable,
) -> Report:
    """Measure cells and write what was found.

    Args:
        todo: cells, in order.
        labels: schemes.
        repetitions: of each scheme in each cell.
        path: the JSON file.
        command: what the user typed, for whoever wants the same.
        shaping: "namespaces", "proxy", or "auto" for the first that works.
        add: keep the rows that the file has, but for those that are measured anew.
        note: is told what happens.
        flower_python: of the environment that has Flower.

    Returns:
        What is in the file.
    """
    before: Report = json.loads(path.read_text()) if add and path.exists() else {}
    earlier = before.get("rows", [])
    if shaping == "auto":
        shaping = "namespaces" if namespaces_work() else "proxy"
    began = time.perf_counter()
    report: Report = {
        "kind": "bench-round",
        "v": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "; ".join([*filter(None, [before.get("command")]), command]),
        "process_environment": ENVIRONMENT,
        "shaping": shaping,
        "repetitions": repetitions,
        "machine": machine(),
        "versions": versions(_PACKAGES) | {"flwr": flower_version(flower_python) or "not installed"},
        "complete": False,
        "rows": [],
    }
    note("what the machine can do at most")
    report["limits"] = machine_limits()
    shaped = [link for link in RATES if RATES[link] and any(cell.link == link for cell in todo)]
    report["link_bytes_per_s"] = before.get("link_bytes_per_s", {}) | {
        link: link_bytes_per_s(link, shaping) for link in shaped
    }
    new: list[dict[str, Any]] = []
    for number, cell in enumerate(todo, 1):
        told = partial(_numbered, note, number)
        rows = measure(cell, labels, repetitions, shaping, told, flower_python)
        new += [row | {"repeated": repetitions} for row in rows]
        measured = {_key(row) for row in new}
        report["rows"] = sorted([row for row in earlier if _key(row) not in measured] + new, key=_place)
        report["promises"] = promises(report["rows"])
        report["seconds"] = round(time.perf_counter() - began, 1)
        report["complete"] = number == len(todo)
        write(report, path)
    return report


def _numbered(note: Callable[[str], None], number: int, text: str) -> None:
    note(f"{number}: {text}")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("label", "model", "sites", "link"))


def _place(row: dict[str, Any]) -> tuple[int, ...]:
    """Where a row is in the result, whenever it was measured: by cell, and within it as the schemes are listed."""
    listed = (list(MODELS), list(RATES), list(SCHEMES))
    model, link, scheme = (one.index(row[name]) for one, name in zip(listed, ("model", "link", "label"), strict=True))
    return model, row["sites"], link, scheme
