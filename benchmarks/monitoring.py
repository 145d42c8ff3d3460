"""What monitoring costs: a request with and without it, a scrape, and a snapshot, on this machine.

    python -m benchmarks.monitoring

The layer alone is timed around an application that does nothing; whole requests are signed ones over HTTP, at two real
servers that differ in nothing but their listeners, in turns, so that whatever else the machine does hits both.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import urlopen

from benchmarks.members import Client, enrol, sign_manifest, submission
from benchmarks.report import RESULTS, machine, versions, write
from he_agg import Layout, Plan, TensorSpec
from he_agg.documents.record import NO_RECORD
from he_agg.host.processes import AggregatorProcess
from he_agg.ids import RoundId
from he_agg.signing import SigningKey
from service.core.aggregator_key import AggregatorKey
from service.core.conductor import Conductor
from service.monitor.metrics import Metrics
from service.monitor.recent import Recent
from service.monitor.view import take_view
from service.observers import Answered, Observed
from service.operator import operations
from service.settings import Settings
from service.store.parts.opening import open_parts
from service.store.sql import open_store

ROUNDS, PER_ROUND = 20, 200
SITES = [f"site-{number:02}" for number in range(30)]
FIRST = RoundId("many", 1, 1)
WATCHED = {"HE_AGG_OPERATOR_PORT": "0", "HE_AGG_METRICS_PORT": "0"}


class Federation(NamedTuple):
    """What its members know."""

    plan: Plan
    members: list[tuple[str, SigningKey]]
    roster: str


async def _nothing(_scope, receive, send):  # noqa: ANN001, ANN202
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"0" * 16)]})
    await send({"type": "http.response.body", "body": b"x"})


async def _layer(app, times: int) -> float:  # noqa: ANN001
    async def receive():  # noqa: ANN202
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_):  # noqa: ANN001, ANN202
        return None

    began = time.perf_counter()
    for _ in range(times):
        scope = {"type": "http", "method": "GET", "path_params": {}, "he_agg.notes": {"federation": "f", "member": "a"}}
        await app(scope, receive, send)
    return (time.perf_counter() - began) / times * 1e6


def layer_us() -> dict[str, float]:
    """Time of the layer itself. Units: microseconds a request."""
    watched = Observed(_nothing, (Metrics(), Recent()))
    bare, with_it = [], []
    for _ in range(7):
        bare.append(asyncio.run(_layer(_nothing, 5000)))
        with_it.append(asyncio.run(_layer(watched, 5000)))
    answered = Answered(0.0, 0.01, "PUT", "/v1/rounds/{round_id}/submissions/{upload}", 204, 1, 0, "", "f", "a", "", "")
    metrics = Metrics()
    began = time.perf_counter()
    for _ in range(20_000):
        metrics.answered(answered)
    count = (time.perf_counter() - began) / 20_000 * 1e6
    return {
        "layer_us": round(statistics.median(with_it) - statistics.median(bare), 1),
        "of_that_metrics_us": round(count, 1),
    }


def _found(data_dir: Path, name: str, sites: list[str], values: int = 5000) -> Federation:
    """Found and start a federation on a data directory, before an aggregator runs there or meanwhile."""
    layout = Layout((TensorSpec("w", (values,), "float32", 1.0),), 1000)
    plan = Plan.create(name, layout, max_sites=31, min_sites=2, codec="ckks", part_bytes=2**16)
    store = open_store(Settings(data_dir=data_dir), create=True)
    conductor = Conductor(store, AggregatorKey.load_or_create(data_dir))
    members, roster = enrol(store, conductor, plan, sites)
    operations.start(store, conductor, name)
    store.close()
    return Federation(plan, members, roster)


def requests_ms(root: Path) -> dict[str, float]:
    """Whole requests, with and without. Units: milliseconds a request."""
    off, on = AggregatorProcess(root / "off"), AggregatorProcess(root / "on", environment=WATCHED)
    took: dict[str, list[float]] = {"off": [], "on": []}
    with off, on:
        clients = {}
        for name, server in (("off", off), ("on", on)):
            federation = _found(server.data_dir, name, ["a", "b"])
            clients[name] = Client(urlsplit(server.url).netloc, name, federation.members[0], defaultdict(list))
        for turn in range(ROUNDS + 2):
            for name in ("off", "on") if turn % 2 else ("on", "off"):
                began = time.perf_counter()
                for _ in range(PER_ROUND):
                    clients[name].ask("state", "GET", f"/v1/federations/{name}/state")
                if turn >= 2:
                    took[name].append((time.perf_counter() - began) / PER_ROUND * 1e3)
        for client in clients.values():
            client.close()
    ratios = [b / a for a, b in zip(took["off"], took["on"], strict=True)]
    return {
        "request_off_ms": round(statistics.median(took["off"]), 3),
        "request_on_ms": round(statistics.median(took["on"]), 3),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def looking_ms(root: Path) -> dict[str, float]:
    """A scrape and a snapshot of 30 sites that have all begun. Units: milliseconds."""
    with AggregatorProcess(root / "many", environment=WATCHED) as server:
        federation = _found(server.data_dir, "many", SITES, 100_000)
        server.line()
        metrics = server.line().split()[-1]
        for number, member in enumerate(federation.members):
            parts = submission(federation.plan, number)[0]
            digests = [hashlib.sha256(part).hexdigest() for part in parts]
            manifest = sign_manifest(federation.plan, FIRST, member, digests, federation.roster, NO_RECORD)
            client = Client(urlsplit(server.url).netloc, "many", member, defaultdict(list))
            client.put(manifest, parts[0])
            client.close()
        scrapes = []
        for _ in range(30):
            began = time.perf_counter()
            with urlopen(metrics) as answer:
                size = len(answer.read())
            scrapes.append((time.perf_counter() - began) * 1e3)
        settings = Settings(data_dir=server.data_dir)
        store, part_store = open_store(settings, create=False), open_parts(settings)
        snapshots = []
        for _ in range(50):
            began = time.perf_counter()
            snapshot = take_view(store, part_store, settings, time.time())
            snapshots.append((time.perf_counter() - began) * 1e3)
        store.close()
    return {
        "scrape_ms": round(statistics.median(scrapes), 1),
        "scrape_bytes": size,
        "snapshot_30_sites_ms": round(statistics.median(snapshots), 1),
        "snapshot_bytes": len(json.dumps(snapshot, separators=(",", ":"))),
    }


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "monitoring.json")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "command": "python -m benchmarks.monitoring",
        "machine": machine(),
        "versions": versions(),
    }
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        report |= layer_us() | requests_ms(root) | looking_ms(root)
    write(report, options.out)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
