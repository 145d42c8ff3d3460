"""Say where every processor second of a round goes, at the aggregator and at one site, over plain HTTP and over TLS.

    python -m benchmarks.accounting                       10^7 values x 3 sites, 16 bits
    python -m benchmarks.accounting --values 100 --rounds 20

Real processes, loopback. The same rounds run without clocks as well, so that it is seen what the clocks cost, and,
where `perf` can be used, under its sampling: how much went into copies and page faults, whoever made them.
The result goes to benchmarks/results/accounting.json and accounting.md.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accounting.activities import BASES
from benchmarks.accounting.process import ask
from benchmarks.accounting.sampling import Sampling
from benchmarks.accounting.table import table
from benchmarks.proc import cpu_s
from benchmarks.report import RESULTS, machine, versions, write
from benchmarks.rounds.links import Network, certificates
from benchmarks.rounds.measuring import one_round
from benchmarks.rounds.schemes import SCHEMES, Running, started

_WARM_ROUNDS = 2
_SETTLE_S = 0.5
"""How long the aggregator goes on after a round: it removes what is not needed any more."""

_PACKAGES = ("he-agg", "numpy", "numba", "cryptography", "sqlalchemy", "fastapi", "uvicorn", "uvloop", "httptools")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=10**7)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument(
        "--scheme", choices=[name for name in SCHEMES if name.startswith("hybrid")], default="hybrid-16"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["http", "tls"], help="leave the other out")
    parser.add_argument("--out", type=Path, default=RESULTS / "accounting.json")
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "kind": "accounting",
        "command": shlex.join(["python", "-m", "benchmarks.accounting", *sys.argv[1:]]),
        "machine": machine(),
        "versions": versions(_PACKAGES),
        "values": arguments.values,
        "sites": arguments.sites,
        "scheme": arguments.scheme,
        "rounds": arguments.rounds,
        "rows": [],
    }
    for transport in ("http", "tls"):
        if arguments.only in (None, transport):
            report["rows"] += _measured(transport, arguments)
    write(report, arguments.out)
    text = table(report)
    arguments.out.with_suffix(".md").write_text(text)
    print(text, end="")


def _measured(transport: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    with _running(transport, arguments, clocks=False) as (running, _):
        bare = _spent(running, arguments.rounds)
        sampled = _sampled(running)
    with _running(transport, arguments, clocks=True) as (running, sockets):
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in sockets}
        for _ in range(arguments.rounds):
            before = {kind: ask(path) for kind, path in sockets.items()}
            row = one_round(running)
            time.sleep(_SETTLE_S)
            for kind, path in sockets.items():
                found[kind].append(_difference(before[kind], ask(path)))
    return [
        {
            "transport": transport,
            "role": kind,
            "moved_bytes": (row["bytes_up"] + row["bytes_down"]) * (arguments.sites if kind == "aggregator" else 1),
            **_mean(rounds, BASES[kind]),
            "seconds_without_clocks": bare[kind],
            "sampled": sampled[kind],
        }
        for kind, rounds in found.items()
    ]


@contextlib.contextmanager
def _running(transport: str, arguments: argparse.Namespace, clocks: bool) -> Iterator[tuple[Running, dict[str, Path]]]:
    """The processes, warm, and where those with clocks can be asked."""
    with tempfile.TemporaryDirectory(prefix="he-agg-bench-") as folder:
        root = Path(folder)
        cert, key, ca_file = certificates(root, "127.0.0.1") if transport == "tls" else (None, None, None)
        sockets = {kind: root / f"{kind}.socket" for kind in ("aggregator", "site")} if clocks else {}
        prefix = {kind: _prefix(kind, path) for kind, path in sockets.items()}
        others: list[tuple[str, ...]] = [()] * (arguments.sites - 1)
        net = Network(
            "loopback",
            root,
            "loopback",
            cert=cert,
            key=key,
            ca_file=ca_file,
            server_prefix=prefix.get("aggregator", ()),
            site_prefixes=(prefix.get("site", ()), *others),
        )
        with started(SCHEMES[arguments.scheme], arguments.values, arguments.sites, net, root) as running:
            for _ in range(_WARM_ROUNDS):
                one_round(running)
            time.sleep(_SETTLE_S)
            yield running, sockets


def _prefix(kind: str, path: Path) -> tuple[str, ...]:
    return sys.executable, "-m", "benchmarks.accounting.process", kind, str(path), "--"


def _spent(running: Running, rounds: int) -> dict[str, float]:
    """Processor seconds of a round, without clocks."""
    pids = {"aggregator": running.server.pid, "site": running.sites[0].pid}
    before = {kind: cpu_s(pid) for kind, pid in pids.items()}
    for _ in range(rounds):
        one_round(running)
        time.sleep(_SETTLE_S)
    return {kind: (cpu_s(pid) - before[kind]) / rounds for kind, pid in pids.items()}


def _sampled(running: Running) -> dict[str, dict[str, float]]:
    """Shares of what kernel and C library did, by samples of one round."""
    pids = {"aggregator": running.server.pid, "site": running.sites[0].pid}
    with contextlib.ExitStack() as stack:
        samplings = {kind: stack.enter_context(Sampling(pid)) for kind, pid in pids.items()}
        one_round(running)
        time.sleep(_SETTLE_S)
        return {kind: sampling.shares() for kind, sampling in samplings.items()}


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {what: {name: value - before[what].get(name, 0) for name, value in after[what].items()} for what in after}


def _mean(rounds: list[dict[str, Any]], bases: dict[str, str]) -> dict[str, Any]:
    """What a round takes on average, the dearest activity first."""
    found: dict[str, dict[str, float]] = {what: defaultdict(float) for what in rounds[0]}
    for each in rounds:
        for what, values in each.items():
            for name, value in values.items():
                found[what][bases.get(name, name)] += value / len(rounds)
    seconds = dict(sorted(found["seconds"].items(), key=lambda item: -item[1]))
    return {**found, "seconds": seconds, "accounted": sum(seconds.values()) / found["process"]["seconds"]}


if __name__ == "__main__":
    main()
