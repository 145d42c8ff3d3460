"""Many sites at once against one aggregator, and against the streaming limit of the same HTTP stack in the same run.

    python -m benchmarks.load                     64 sites x 10^6 values
    python -m benchmarks.load --sites 16 --values 10000000

Measured by turns, several times each, with the same clients and the same bodies: the aggregator from the first request
of a round to its last receipt, and the limit (streaming_limit.py) for the bodies alone. Clients are threads of this
process and share the machine's cores with the server. The sum is downloaded and compared with one computed here, every
residue.
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

from benchmarks.members import Client, enrol, sign_manifest, submission
from benchmarks.proc import cpu_s, memory_bytes
from benchmarks.report import RESULTS, machine, versions, write
from he_agg import Layout, Plan, TensorSpec
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.host.processes import AggregatorProcess, Process
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import unpack
from he_agg.plan.sections import PART_HEADER_BYTES
from he_agg.protocol.http_signatures import manifest_field
from he_agg.signing import SigningKey
from service.core.aggregator_key import AggregatorKey
from service.core.conductor import Conductor
from service.operator import operations
from service.settings import Settings
from service.store.sql import open_store


def address(server: Process) -> str:
    """Where a server listens."""
    return urlsplit(server.url if isinstance(server, AggregatorProcess) else server.listening()).netloc


def memory(process: Process) -> dict[str, float]:
    """Resident memory now and at its highest. Units: MB."""
    return {
        what: round(memory_bytes(name, process.pid) / 1e6, 1) for what, name in (("now", "VmRSS"), ("peak", "VmHWM"))
    }


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


def run_limit(server: str, directory: Path, parts: list[list[bytes]]) -> tuple[float, dict[str, list[float]]]:
    """The same parts against the streaming limit."""
    times: dict[str, list[float]] = defaultdict(list)

    def work(i: int) -> None:
        client = Client(server, "load", None, times)
        for number, part in enumerate(parts[i]):
            client.ask("put", "PUT", f"/{i}/{number}", part)
        client.close()

    seconds = together(len(parts), work)
    for path in directory.iterdir():
        path.unlink()
    return seconds, times


def run_round(
    server: str,
    plan: Plan,
    members: list[tuple[str, SigningKey]],
    roster: str,
    parts: list[list[bytes]],
    times: dict[str, list[float]],
) -> tuple[float, float, str]:
    """One round. Returns seconds to the last receipt, seconds from there to the record, and the round."""
    name = plan.public.federation
    first = Client(server, plan.public.federation, members[0], times)
    state = Signed.parse(FederationState, first.ask("state", "GET", f"/v1/federations/{name}/state")).body
    first.close()  # idle connections are closed by the server, and opened again by the next request
    round_id, previous = str(state.round_id), state.head
    manifests = [
        sign_manifest(
            plan, RoundId.parse(round_id), member, [hashlib.sha256(part).hexdigest() for part in mine], roster, previous
        )
        for member, mine in zip(members, parts, strict=True)
    ]

    wholes = [b"".join(mine) for mine in parts]

    def work(i: int) -> None:
        client = Client(server, plan.public.federation, members[i], times)
        client.announce(round_id, manifests[i])
        own = manifests[i].digest
        client.ask("put", "PUT", f"/v1/submissions/{own}", wholes[i], Content_Digest=manifest_field(own))
        client.close()

    seconds = together(len(parts), work)
    began = time.perf_counter()
    while not first.ask("record", "GET", f"/v1/rounds/{round_id}/record?wait=60"):
        pass
    folding = time.perf_counter() - began
    first.close()
    # Not in the measured time: a site asks it only when it goes on with an upload that was interrupted.
    for member, manifest in zip(members, manifests, strict=True):
        again = Client(server, plan.public.federation, member, times)
        again.ask("status", "GET", f"/v1/submissions/{manifest.digest}")
        again.close()
    return seconds, folding, round_id


def check_sum(
    server: str, plan: Plan, member: tuple[str, SigningKey], round_id: str, sums: list[Any], times: Any
) -> bool:
    """Download the sum and compare every residue."""
    client, exact = Client(server, plan.public.federation, member, times), True
    whole = client.ask("sum", "GET", f"/v1/rounds/{round_id}/sum")
    client.close()
    for place in plan.public.places:
        data, whole = whole[: place.wire_bytes], whole[place.wire_bytes :]
        section = place.section
        got = unpack(data[PART_HEADER_BYTES:], place.residues, section.modulus_bits)
        exact = exact and bool((got == sums[place.number]).all())
    return exact


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Units: milliseconds."""
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {"count": len(seconds), "p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1)}


def measure(arguments: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The whole run."""
    environment = machine()
    layout = Layout((TensorSpec("w", (arguments.values,), "float32", 1.0),), 1000)
    plan = Plan.create(
        "load",
        layout,
        max_sites=max(arguments.sites, 2),
        min_sites=arguments.sites,
        value_bits=arguments.value_bits,
        rounds=1000,
        part_bytes=arguments.part_bytes,
    )
    made = [submission(plan, i) for i in range(arguments.sites)]
    parts = [one[0] for one in made]
    sums = []
    for place in plan.public.places:
        total = np.zeros(place.residues, dtype=np.uint64)
        for _, residues in made:
            total = (total + residues[place.number]) % np.uint64(place.section.modulus)
        sums.append(total)
    del made
    data_dir, limit_dir = root / "data", root / "limit"
    limit_dir.mkdir()
    store = open_store(Settings(data_dir=data_dir), create=True)
    conductor = Conductor(store, AggregatorKey.load_or_create(data_dir))
    members, roster = enrol(store, conductor, plan, [f"site-{i:03}" for i in range(arguments.sites)])
    operations.start(store, conductor, "load")
    store.close()
    total_mb = sum(len(part) for mine in parts for part in mine) / 1e6
    aggregator = AggregatorProcess(data_dir)
    limit = Process([sys.executable, "-m", "benchmarks.streaming_limit", str(limit_dir)], root / "limit.log")
    times: dict[str, list[float]] = defaultdict(list)
    limit_times: list[float] = []
    rates: dict[str, list[float]] = {"aggregator": [], "limit": []}
    folding: list[float] = []
    cpu: dict[str, float] = {}
    exact = True
    with aggregator, limit:
        urls = {"aggregator": address(aggregator), "limit": address(limit)}
        idle = memory(aggregator)["now"]
        for repetition in range(arguments.repetitions + 1):
            seconds, limited = run_limit(urls["limit"], limit_dir, [[b"".join(mine)] for mine in parts])
            before = cpu_s(aggregator.pid)
            round_seconds, fold_seconds, round_id = run_round(urls["aggregator"], plan, members, roster, parts, times)
            used = cpu_s(aggregator.pid) - before
            exact = check_sum(urls["aggregator"], plan, members[0], round_id, sums, times) and exact
            if not repetition:  # the first of each warms up
                times.clear()
                continue
            limit_times += limited["put"]
            rates["limit"].append(total_mb / seconds)
            rates["aggregator"].append(total_mb / round_seconds)
            folding.append(fold_seconds)
            cpu["aggregator_s_per_GB"] = round(used / total_mb * 1000, 2)
            print(f"limit {rates['limit'][-1]:.0f} MB/s, aggregator {rates['aggregator'][-1]:.0f} MB/s", flush=True)
        held = memory(aggregator)
        cpu["limit_s_total"] = round(cpu_s(limit.pid), 2)
    ratio = statistics.median(a / b for a, b in zip(rates["aggregator"], rates["limit"], strict=True))
    return {
        "command": " ".join(["python -m benchmarks.load", *sys.argv[1:]]),
        "machine": environment,
        "versions": versions(),
        "sites": arguments.sites,
        "values": arguments.values,
        "parts_per_site": len(parts[0]),
        "MB_per_site": round(total_mb / len(parts), 2),
        "MB_per_round": round(total_mb, 1),
        "rates_MB_per_s": {name: [round(rate, 1) for rate in all_] for name, all_ in rates.items()},
        "ratio_median": round(ratio, 3),
        "from_last_receipt_to_record_s": [round(seconds, 2) for seconds in folding],
        "endpoints": {name: percentiles(seconds) for name, seconds in sorted(times.items())},
        "limit_put": percentiles(limit_times),
        "server_memory_MB": {"idle": idle, **held},
        "server_cpu": cpu,
        "errors": 0,
        "sum_exact": exact,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=64)
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
