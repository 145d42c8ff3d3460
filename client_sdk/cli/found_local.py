"""A federation for one's own code, all on this machine: `he-agg found --local N`."""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from client_sdk.local import found, settings_of, site_names
from he_agg.errors import ConfigError, Reason
from he_agg.host.commands import answer
from he_agg.host.processes import HE_AGG, START_S, AggregatorProcess
from he_agg.host.shell import quoted
from he_agg.plan.plan import Plan

__all__ = ["found_local"]


def found_local(plan: Plan, sites: int, example: Path | None, as_json: bool) -> None:
    """Found a federation in a folder of its name, leave its aggregator running, and say what to type next.

    Args:
        sites: how many hospitals.
        example: the file that the plan was made from, for the program that is shown.
    """
    name = plan.public.federation
    root = Path(name)
    try:
        root.mkdir(mode=0o700)
    except FileExistsError as error:
        raise ConfigError(
            Reason.FILE_EXISTS, f"{root} exists; nothing was made", "remove the folder, or give another name"
        ) from error
    directories = found(AggregatorProcess(root / "aggregator"), plan, site_names(sites), root)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["serve", "--data-dir", str(root / "aggregator"), "--port", str(port)]
    pid = _start([*HE_AGG, *command], root / "aggregator.log")
    url = f"http://127.0.0.1:{port}"
    for directory in directories:
        settings_of(directory, url)
    names = [directory.name for directory in directories]
    facts: dict[str, Any] = {"folder": str(root), "url": url, "pid": pid, "sites": names, **plan.explain()}
    lines = [
        f"federation {name} runs: an aggregator at {url} and {', '.join(names)}, all in {root}/",
        f"stop it: `kill {pid}`; start it again: `he-agg {shlex.join(command)}`",
        f"look at it: `he-agg federation show --data-dir {quoted(root / 'aggregator')}`",
        "",
        "Your code, for instance:",
        "",
        _program(root, names, example, max(1, plan.layout.weight_cap // 2)),
    ]
    answer(facts, as_json, lambda: "\n".join(lines))


def _start(command: list[str], log: Path) -> int:
    """Start a server that outlives this command. Returns its number once it listens."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        if "listening on " in log.read_text():
            return process.pid
        time.sleep(0.1)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    raise ConfigError(Reason.UNREACHABLE, "the aggregator did not start", f"its log is {log}")


def _program(root: Path, names: list[str], example: Path | None, weight: int) -> str:
    """Write a program that takes part in a round at every site; small numbers stand for what is trained."""
    model = "{}  # your arrays, by name" if example is None else f"np.load({str(example)!r})"
    return f"""\
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from client_sdk import Site

model = {model}

def hospital(name):
    with Site.open(f"{root}/{{name}}/site.toml") as site:
        for round in site.rounds():
            update = {{key: 0 * value + 1e-3 * np.random.random() for key, value in model.items()}}  # train here
            mean = round.aggregate(update, weight={weight})
            return site.name, round.id, mean.n_sites, mean.total_weight

with ThreadPoolExecutor() as pool:
    print(*pool.map(hospital, {names!r}), sep="\\n")
"""
