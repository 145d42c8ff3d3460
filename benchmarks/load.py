"""Many sites at once against one aggregator, and against the streaming limit of the same HTTP stack in the same run.

    python -m benchmarks.load                     64 sites x 10^6 values
    python -m benchmarks.load --sites 16 --values 10000000
    python -m benchmarks.load --processes 2       over PostgreSQL, which is started for it
    python -m benchmarks.load --processes 2 --workers 1 --federations 8 --parts s3://bucket/prefix

Measured by turns, several times each, with the same clients and the same bodies: the aggregator from the first request
of a round to its last receipt, and the limit (streaming_limit.py) for the bodies alone. Clients are threads of this
process and share the machine's cores with the server. The sums are downloaded and compared with those computed here,
every residue. Some sites send the same residues, so that many of them fit into memory.
Exits with 1 if a request failed or a sum is wrong. The result goes to benchmarks/results/load.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.deployment import Deployment
from benchmarks.members import Client, enrol, sign_manifest, submission
from benchmarks.proc import cpu_s
from benchmarks.report import RESULTS, machine, versions, write
from he_agg import Layout, Plan, TensorSpec
from he_agg.documents.manifest import Manifest
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.host.processes import Process
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import unpack
from he_agg.plan.sections import PART_HEADER_BYTES
from he_agg.signing import SigningKey
from service.core.aggregator_key import AggregatorKey
from service.core.conductor import Conductor
from service.operator import operations
from service.store.sql import Store, open_store

_DISTINCT = 8
"""How many different submissions a federation has at most."""


class Federation:
    """A plan, its members, what they send, and what the sum of it is.

    Attributes:
        members: name and key of each site.
        bodies: each site's parts, one after another.
        digests: each site's parts' SHA-256.
        sums: of each part.
    """

    def __init__(self, name: str, sites: int, arguments: argparse.Namespace) -> None:
        layout = Layout((TensorSpec("w", (arguments.values,), "float32", 1.0),), 1000)
        self.plan = Plan.create(
            name,
            layout,
            max_sites=max(sites, 2),
            min_sites=sites,
            value_bits=arguments.value_bits,
            rounds=1000,
            part_bytes=arguments.part_bytes,
        )
        made = [submission(self.plan, i) for i in range(min(sites, _DISTINCT))]
        bodies = [b"".join(parts) for parts, _ in made]
        digests = [[hashlib.sha256(part).hexdigest() for part in parts] for parts, _ in made]
        self.bodies = [bodies[i % len(made)] for i in range(sites)]
        self.digests = [digests[i % len(made)] for i in range(sites)]
        self.sums = []
        for place in self.plan.public.places:
            total = np.zeros(place.residues, dtype=np.uint64)
            for i in range(sites):
                total = (total + made[i % len(made)][1][place.number]) % np.uint64(place.section.modulus)
            self.sums.append(total)
        self.members: list[tuple[str, SigningKey]] = []
        self._roster = ""

    def found(self, store: Store, conductor: Conductor) -> None:
        """Register and start it."""
        names = [f"site-{i:03}" for i in range(len(self.bodies))]
        self.members, self._roster = enrol(store, conductor, self.plan, names)
        operations.start(store, conductor, self.plan.public.federation)

    def manifests(self, server: str, times: dict[str, list[float]]) -> tuple[str, list[Signed[Manifest]]]:
        """Sign what all sites submit to the open round."""
        name = self.plan.public.federation
        first = Client(server, name, self.members[0], times)
        state = Signed.parse(FederationState, first.ask("state", "GET", f"/v1/federations/{name}/state")).body
        first.close()  # idle connections are closed by the server, and opened again by the next request
        round_id = str(state.round_id)
        return round_id, [
            sign_manifest(self.plan, RoundId.parse(round_id), member, mine, self._roster, state.head)
            for member, mine in zip(self.members, self.digests, strict=True)
        ]

    def is_exact(self, server: str, round_id: str, times: dict[str, list[float]]) -> bool:
        """Download a sum and compare every residue."""
        client, exact = Client(server, self.plan.public.federation, self.members[0], times), True
        whole = client.ask("sum", "GET", f"/v1/rounds/{round_id}/sum")
        client.close()
        for place in self.plan.public.places:
            data, whole = whole[: place.wire_bytes], whole[place.wire_bytes :]
            section = place.section
            got = unpack(data[PART_HEADER_BYTES:], place.residues, section.modulus_bits)
            exact = exact and bool((got == self.sums[place.number]).all())
        return exact


def together(clients: int, work: Any) -> float:
    """Do `work(i)` for every client at the same time. Returns the seconds from the start to the last one's end."""
    ready = threading.Barrier(clients + 1)

    def one(i: int) -> None:
        ready.wait()
        work(i)

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(one, i) for i in range(clients)]
        ready.wait()
        began = time.perf_counter()
        for future in futures:
            future.result()
        return time.perf_counter() - began


def run_limit(server: str, directory: Path, bodies: list[bytes]) -> tuple[float, dict[str, list[float]]]:
    """The same bodies against the streaming limit."""
    times: dict[str, list[float]] = defaultdict(list)

    def work(i: int) -> None:
        client = Client(server, "load", None, times)
        client.ask("put", "PUT", f"/{i}", bodies[i])
        client.close()

    seconds = together(len(bodies), work)
    for path in directory.iterdir():
        path.unlink()
    return seconds, times


def run_round(
    server: str, federations: list[Federation], times: dict[str, list[float]]
) -> tuple[float, float, list[str]]:
    """One round of each. Returns seconds to the last receipt, seconds from there to the last record, and the rounds."""
    begun = [federation.manifests(server, times) for federation in federations]
    tasks = [(f, i) for f, federation in enumerate(federations) for i in range(len(federation.members))]

    wholes = [
        [body + manifest.encode() for body, manifest in zip(federation.bodies, manifests, strict=True)]
        for federation, (_, manifests) in zip(federations, begun, strict=True)
    ]

    def work(number: int) -> None:
        f, i = tasks[number]
        client = Client(server, federations[f].plan.public.federation, federations[f].members[i], times)
        client.put(begun[f][1][i], wholes[f][i])
        client.close()

    seconds = together(len(tasks), work)
    began = time.perf_counter()
    for federation, (round_id, _) in zip(federations, begun, strict=True):
        first = Client(server, federation.plan.public.federation, federation.members[0], times)
        while not first.ask("record", "GET", f"/v1/rounds/{round_id}/record?wait=60"):
            pass
        first.close()
    folding = time.perf_counter() - began
    # Not in the measured time: a site asks it only when it goes on with an upload that was interrupted.
    for federation, (round_id, manifests) in zip(federations, begun, strict=True):
        again = Client(server, federation.plan.public.federation, federation.members[0], times)
        again.ask("status", "GET", f"/v1/rounds/{round_id}/submissions/{manifests[0].body.nonce}")
        again.close()
    return seconds, folding, [round_id for round_id, _ in begun]


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Units: milliseconds."""
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {"count": len(seconds), "p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1)}


def measure(arguments: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The whole run."""
    environment = machine()
    each = arguments.sites // arguments.federations
    federations = [Federation(f"load-{i}", each, arguments) for i in range(arguments.federations)]
    bodies = [body for federation in federations for body in federation.bodies]
    total_mb = sum(map(len, bodies)) / 1e6
    limit_dir = root / "limit"
    limit_dir.mkdir()
    deployment = Deployment(root, arguments.processes, arguments.workers, arguments.database_url, arguments.parts)
    store = open_store(deployment.settings, create=True)
    conductor = Conductor(store, AggregatorKey.load_or_create(deployment.settings.data_dir))
    for federation in federations:
        federation.found(store, conductor)
    store.close()
    limit = Process([sys.executable, "-m", "benchmarks.streaming_limit", str(limit_dir)], root / "limit.log")
    times: dict[str, list[float]] = defaultdict(list)
    limit_times: list[float] = []
    rates: dict[str, list[float]] = {"aggregator": [], "limit": []}
    folding: list[float] = []
    used: list[dict[str, float]] = []
    limit_s: list[float] = []
    exact = True
    with deployment, limit:
        limit_address = urlsplit(limit.listening()).netloc
        idle = deployment.usage().peak_bytes
        for repetition in range(arguments.repetitions + 1):
            before = cpu_s(limit.pid)
            seconds, limited = run_limit(limit_address, limit_dir, bodies)
            limit_used, at_start = cpu_s(limit.pid) - before, deployment.usage()
            round_seconds, fold_seconds, round_ids = run_round(deployment.address, federations, times)
            used.append(deployment.usage().since(at_start))
            for federation, round_id in zip(federations, round_ids, strict=True):
                exact = federation.is_exact(deployment.address, round_id, times) and exact
            if not repetition:  # the first of each warms up
                times.clear()
                used.clear()
                continue
            limit_times += limited["put"]
            limit_s.append(limit_used)
            rates["limit"].append(total_mb / seconds)
            rates["aggregator"].append(total_mb / round_seconds)
            folding.append(fold_seconds)
            print(f"limit {rates['limit'][-1]:.0f} MB/s, aggregator {rates['aggregator'][-1]:.0f} MB/s", flush=True)
        peak = deployment.usage().peak_bytes
    ratio = statistics.median(a / b for a, b in zip(rates["aggregator"], rates["limit"], strict=True))
    per_gb = {role: round(statistics.median(one[role] for one in used) / total_mb * 1000, 2) for role in used[0]}
    return {
        "command": " ".join(["python -m benchmarks.load", *sys.argv[1:]]),
        "machine": environment,
        "versions": versions(),
        "processes": arguments.processes,
        "workers": arguments.workers,
        "federations": arguments.federations,
        "parts": "directory" if arguments.parts is None else "object store",
        "sites": arguments.sites,
        "values": arguments.values,
        "parts_per_site": len(federations[0].plan.public.places),
        "MB_per_site": round(total_mb / len(bodies), 2),
        "MB_per_round": round(total_mb, 1),
        "rates_MB_per_s": {name: [round(rate, 1) for rate in all_] for name, all_ in rates.items()},
        "ratio_median": round(ratio, 3),
        "from_last_receipt_to_record_s": [round(seconds, 2) for seconds in folding],
        "endpoints": {name: percentiles(seconds) for name, seconds in sorted(times.items())},
        "limit_put": percentiles(limit_times),
        "largest_process_MB": {"idle": round(idle / 1e6, 1), "peak": round(peak / 1e6, 1)},
        "processor_s_per_GB": per_gb | {"limit_s": round(statistics.median(limit_s) / total_mb * 1000, 2)},
        "errors": 0,
        "sum_exact": exact,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=64, help="of all federations together")
    parser.add_argument("--federations", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="that serve; several over PostgreSQL")
    parser.add_argument("--workers", type=int, default=0, help="processes that fold; 0: those that serve do")
    parser.add_argument("--database-url", help="PostgreSQL's; otherwise one is started where it is needed")
    parser.add_argument("--parts", help="s3://bucket/prefix, with AWS_* variables")
    parser.add_argument("--values", type=int, default=10**6)
    parser.add_argument("--value-bits", type=int, default=16)
    parser.add_argument("--part-bytes", type=int, default=4 * 2**20)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where both servers write; a real disk")
    parser.add_argument("--output", type=Path, default=RESULTS / "load.json")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="he-agg-load-", dir=arguments.directory))
    try:
        result = measure(arguments, root)
    finally:
        shutil.rmtree(root)
    write(result, arguments.output)
    print(json.dumps(result, indent=1))
    if not result["sum_exact"]:
        raise SystemExit("the sum is wrong")


if __name__ == "__main__":
    main()
