"""What monitoring costs: a request with and without it, a scrape, and a snapshot, on this machine.

    python -m benchmarks.monitoring

The layer alone is timed around an application that does nothing; whole requests are signed ones over HTTP, at two real
servers that differ in nothing but their listeners, in turns, so that whatever else the machine does hits both.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from service.monitor.metrics import Metrics
from service.monitor.recent import Recent
from service.monitor.view import take_view
from service.observers import Answered, Observed
from service.settings import Settings
from service.store.parts.opening import open_parts
from service.store.sql import open_store
from tests.support.peers import Peer, make_plan, prepare, register
from tests.support.server import start_server

ROUNDS, PER_ROUND = 20, 200
SITES = [f"site-{number:02}" for number in range(30)]


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
    answered = Answered(0.0, 0.01, "PUT", "/v1/submissions/{submission_id}", 204, 1, 0, "", "f", "a", "", "")
    metrics = Metrics()
    began = time.perf_counter()
    for _ in range(20_000):
        metrics.answered(answered)
    count = (time.perf_counter() - began) / 20_000 * 1e6
    return {
        "layer_us": round(statistics.median(with_it) - statistics.median(bare), 1),
        "of_that_metrics_us": round(count, 1),
    }


def requests_ms(root: Path) -> dict[str, float]:
    """Whole requests, with and without. Units: milliseconds a request."""
    off = start_server(root / "off")
    on = start_server(root / "on", environment={"HE_AGG_OPERATOR_PORT": "0", "HE_AGG_METRICS_PORT": "0"})
    took: dict[str, list[float]] = {"off": [], "on": []}
    with off, on:
        peers = {}
        for name, server in (("off", off), ("on", on)):
            plan = make_plan(name)
            members = register(server.data_dir, plan, ["a", "b"])
            peers[name] = Peer(httpx.Client(base_url=server.url), name, members["a"])
        for turn in range(ROUNDS + 2):
            for name in ("off", "on") if turn % 2 else ("on", "off"):
                began = time.perf_counter()
                for _ in range(PER_ROUND):
                    assert peers[name].current().status_code == 200
                if turn >= 2:
                    took[name].append((time.perf_counter() - began) / PER_ROUND * 1e3)
        for peer in peers.values():
            peer.client.close()
    ratios = [b / a for a, b in zip(took["off"], took["on"], strict=True)]
    return {
        "request_off_ms": round(statistics.median(took["off"]), 3),
        "request_on_ms": round(statistics.median(took["on"]), 3),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def looking_ms(root: Path) -> dict[str, float]:
    """A scrape and a snapshot of 30 sites that all upload, after one round. Units: milliseconds."""
    server = start_server(root / "many", environment={"HE_AGG_OPERATOR_PORT": "0", "HE_AGG_METRICS_PORT": "0"})
    with server:
        plan = make_plan("many", values=100_000, min_sites=2, max_sites=31)
        members = register(server.data_dir, plan, SITES)
        server.line()
        metrics = server.line().split()[-1]
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for seed, site in enumerate(SITES):
                prepared = prepare(plan, "many.1.1", site, seed)
                Peer(client, "many", members[site]).announce("many.1.1", prepared.manifest)
        scrapes = []
        for _ in range(30):
            began = time.perf_counter()
            size = len(httpx.get(metrics).content)
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
    """Measure, and print one JSON document."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        print(json.dumps(layer_us() | requests_ms(root) | looking_ms(root), indent=1))


if __name__ == "__main__":
    main()
