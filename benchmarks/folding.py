"""How long the aggregator folds a round, and how much memory it takes: by default 10^8 values of 16 sites.

    python -m benchmarks.folding [--values 100000000] [--sites 16] [--threads 2]
    python -m benchmarks.folding --workers 2          two `he-agg work` share the round, over PostgreSQL

The sites' files are hard links to one set of parts, so that the disk needs room for two submissions instead of 17; what
is read, checked and added is all of them. Folding runs in processes of its own, whose peak RSS is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.deployment import Deployment
from benchmarks.members import enrol, sign_manifest
from benchmarks.report import RESULTS, machine, versions, write
from he_agg import Layout, Plan, TensorSpec
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import NO_RECORD
from he_agg.documents.signed import Signed
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import pack
from he_agg.plan.sections import Part
from he_agg.protocol.wire import encode_part
from service.aggregator import Aggregator
from service.domain import events
from service.domain.events import Phase
from service.domain.submissions import State
from service.settings import Settings
from service.store.parts.base import PartKey
from service.store.parts.directory import DirectoryParts
from service.store.rows import SubmissionRow
from service.store.sql import open_store

ROUND = RoundId("bench", 1, 1)


def prepare(settings: Settings, values: int, sites: int) -> tuple[int, Callable[[], None]]:
    """Fill a store with a round that lacks its last receipt.

    Returns:
        The bytes of one submission, and what gives the last receipt, which closes the round.
    """
    data_dir = settings.data_dir
    layout = Layout((TensorSpec("w", (values,), "float32", 1.0),), 1000)
    plan = Plan.create("bench", layout, max_sites=sites, min_sites=2, value_bits=16, rounds=1, part_bytes=4 * 2**20)
    part_store = DirectoryParts(data_dir)
    aggregator = Aggregator.open(settings, part_store=part_store)
    store = aggregator.store
    members, roster = enrol(store, aggregator.conductor, plan, [f"site-{i}" for i in range(sites)])
    aggregator.conductor.apply("bench", events.Started())
    originals = data_dir / "originals"
    originals.mkdir()
    ends: list[tuple[str, Signed[Manifest]]] = []
    digests, random, packed = [], np.random.default_rng(1), {}
    for place in plan.public.places:
        if (kind := (place.section.modulus, place.residues)) not in packed:
            residues = random.integers(0, place.section.modulus, place.residues, dtype=np.uint64)
            packed[kind] = pack(residues, place.section.modulus_bits).data
        data = encode_part(Part(place.number, packed[kind]), place, plan.plan_id)
        (originals / str(place.number)).write_bytes(data)
        digests.append(hashlib.sha256(data).hexdigest())
    for member in members:
        name, manifest = member[0], sign_manifest(plan, ROUND, member, digests, roster, NO_RECORD)
        upload = manifest.body.nonce
        with store.write() as tx:  # no room is asked for: the files are links
            tx.add_submission(SubmissionRow(upload, ROUND, name, State.OPEN), len(digests), int(time.time()))
            for number in range(len(digests)):
                path = part_store.path(PartKey(ROUND, upload, number))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.hardlink_to(originals / str(number))
                tx.mark_stored(upload, dict(enumerate(digests)), int(time.time()))
        ends.append((name, manifest))

    def complete(name: str, manifest: Signed[Manifest]) -> None:
        upload, body = manifest.body.nonce, manifest.encode()
        end = aggregator.uploads.expect("bench", name, str(ROUND), upload, len(digests), len(body))
        aggregator.uploads.take(end, [memoryview(body)])

    def close() -> None:
        complete(*ends[-1])
        aggregator.close()

    for end in ends[:-1]:
        complete(*end)
    return plan.public.wire_bytes, close


def fold(data_dir: Path, threads: int) -> None:
    """Fold the round as the worker does, and print what it took."""
    aggregator = Aggregator.open(Settings(data_dir=data_dir, fold_threads=threads, reserve_bytes=0))
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    aggregator.worker.folder.fold(ROUND)
    seconds = time.perf_counter() - began
    with aggregator.store.read() as tx:
        row = tx.round(ROUND)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    phase = None if row is None else row.phase
    aggregator.close()
    print(json.dumps({"phase": phase, "seconds": seconds, "idle_mib": idle / 1024, "peak_mib": peak / 1024}))


def fold_by_workers(root: Path, options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Have several workers fold the round, which they are waiting for. Returns the bytes of one submission, too."""
    with Deployment(root, workers=options.workers) as deployment:
        settings = deployment.settings.model_copy(update={"reserve_bytes": 0})
        size, close = prepare(settings, options.values, options.sites)
        idle, began = deployment.usage(), time.perf_counter()
        close()
        store = open_store(settings, create=False)
        row = None
        while row is None or row.phase is not Phase.PUBLISHED:
            time.sleep(0.01)
            with store.read() as tx:
                row = tx.round(ROUND)
        seconds = time.perf_counter() - began
        store.close()
        used = deployment.usage()
    peaks = {"idle_mib": idle.peak_bytes / 2**20, "peak_mib": used.peak_bytes / 2**20}
    return size, {"phase": row.phase, "seconds": seconds, **peaks, "processor": used.since(idle)}


def main() -> None:
    """Prepare, fold, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--values", type=int, default=10**8)
    parser.add_argument("--sites", type=int, default=16)
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--workers", type=int, default=0, help="processes of `he-agg work`; 0: one without a database")
    parser.add_argument("--out", type=Path, default=RESULTS / "folding.json")
    parser.add_argument("--fold", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fold:
        fold(options.fold, options.threads)
        return
    with tempfile.TemporaryDirectory(prefix="he-agg-fold-") as directory:
        if options.workers:
            size, result = fold_by_workers(Path(directory), options)
        else:
            size, close = prepare(Settings(data_dir=Path(directory), reserve_bytes=0), options.values, options.sites)
            close()
            command = [sys.executable, "-m", "benchmarks.folding", "--fold", directory]
            command += ["--threads", str(options.threads)]
            result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    result |= {"values": options.values, "sites": options.sites, "threads": options.threads}
    result |= {"workers": options.workers}
    result |= {"submission_bytes": size, "mb_per_s": options.sites * size / result["seconds"] / 1e6}
    write({"machine": machine(), "versions": versions()} | result, options.out)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
