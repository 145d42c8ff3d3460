"""One training in NVFlare and in Flower: with our ciphertexts, with what each has of its own, and in the clear.

    python -m benchmarks.frameworks --nvflare ~/nvflare/bin/python --flower ~/flower/bin/python --out frameworks.json

Those environments have he-agg beside the framework; NVFlare's has tenseal. A framework without a Python is left out,
and what the file has of it stays. Both run as they are deployed: a server and three sites as processes of this machine,
with certificates. Schemes take turns, each repeat starts from other weights.

Bytes are of the whole job, polling included: for NVFlare TCP's on the server's port as the kernel counts them, for
Flower those of all requests of the sites and of the answers. Seconds are from the beginning of a round to its end on
the server, training and the framework's own waits included. The score is the area under the ROC curve of the last
model, over patients that no hospital trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.frameworks import clear
from benchmarks.frameworks.flower.deployment import Flower, why_no_runs
from benchmarks.frameworks.nvflare.jobs import job, nvflare_version, why_no_nvflare
from benchmarks.frameworks.nvflare.poc import Poc
from benchmarks.frameworks.scoring import kept_models, opened, score
from benchmarks.frameworks.table import table
from benchmarks.frameworks.task import SITES, Patients, Weights, initial, share_out
from benchmarks.report import machine, versions, write
from benchmarks.rounds.flower.starting import flower_version
from keys import GroupKey


@dataclass(frozen=True)
class Training:
    """What all jobs of a run have in common."""

    folder: Path
    width: int
    rounds: int
    repeats: int
    test: Patients
    floating: list[Weights]

    @classmethod
    def begin(cls, folder: Path, width: int, rounds: int, repeats: int) -> Training:
        """Deal the patients out, and train in the clear."""
        test = share_out(folder / "patients")
        floating = [clear.floating(folder / "patients", width, rounds, repeat)[-1] for repeat in range(repeats)]
        return cls(folder, width, rounds, repeats, test, floating)

    @property
    def values(self) -> int:
        """How many weights the network has."""
        return sum(array.size for array in initial(self.width, 0).values())

    @property
    def patients(self) -> Path:
        """Where the sites' patients are."""
        return self.folder / "patients"

    def row(self, scheme: str, repeat: int, out: Path, size: dict[str, int], model: Weights) -> dict[str, Any]:
        """Return what a job took, and what came of it."""
        events = [json.loads(line) for line in (out / "clock.jsonl").read_text().splitlines()]
        times = {kind: [e["time"] for e in events if e["event"] == kind] for kind in ("start", "end", "over")}
        sent = self.values * self.rounds * len(SITES)
        return {
            "scheme": scheme,
            "repeat": repeat,
            "bytes_up": size["up"],
            "bytes_down": size["down"],
            "up_per_value": size["up"] / sent,
            "down_per_value": size["down"] / sent,
            "round_s": [round(end - start, 2) for start, end in zip(times["start"], times["end"], strict=True)],
            "job_s": round(times["over"][-1] - times["start"][0], 2),
            **score(model, self.floating[repeat], self.test),
        }

    def key(self, federation: str) -> GroupKey:
        """Make a key, and lay it and the server's document into a folder of that name."""
        key = GroupKey.create(clear.plan_of(federation, self.width))
        (self.folder / federation).mkdir()
        (self.folder / federation / "federation.json").write_bytes(key.federation_document.encode())
        key.save(self.folder / federation / "keystore")
        return key

    def exact(self, key: GroupKey, repeat: int, models: list[Weights]) -> bool:
        """Say whether all sites have the model of the plan's grid, to the bit."""
        expected = clear.fixed_point(key.plan, self.patients, self.width, self.rounds, repeat)[-1]
        return len(models) == len(SITES) and all(
            model[name].tobytes() == array.tobytes() for model in models for name, array in expected.items()
        )


def nvflare_rows(training: Training, python: str) -> Iterator[dict[str, Any]]:
    """Run NVFlare's jobs."""
    key, folder = training.key("nvflare"), training.folder / "nvflare"
    local = {site: [folder / "keystore"] for site in SITES} | {"server": [folder / "federation.json"]}
    with Poc(python, folder / "poc", he=True, local=local) as poc:
        for repeat in range(training.repeats):
            for scheme in ("plaintext", "he-agg", "tenseal"):
                out = folder / f"{scheme}-{repeat}-out"
                made = job(
                    folder / f"{scheme}-{repeat}",
                    scheme,
                    patients=training.patients,
                    width=training.width,
                    seed=repeat,
                    rounds=training.rounds,
                    out=out,
                    keystore="keystore",
                    federation="federation.json",
                )
                completed, size = poc.run(made)
                if not completed:
                    raise RuntimeError(f"{scheme}: the job did not complete: {poc.log('server')[-3000:]}")
                models = kept_models(poc.kits / site / "local" for site in SITES) if scheme == "he-agg" else []
                model = models[0] if models else opened(out / "server.npz", training.width, poc.context)
                row = training.row(scheme, repeat, out, size, model)
                yield row | ({"exact": training.exact(key, repeat, models)} if models else {})


def flower_rows(training: Training, python: str) -> Iterator[dict[str, Any]]:
    """Run Flower's apps."""
    key, folder = training.key("flower"), training.folder / "flower"
    nodes = {}
    for site in SITES:
        (folder / site).mkdir()
        key.save(folder / site / "keystore")
        nodes[site] = {"patients": str(training.patients), "keystore": str(folder / site / "keystore")}
    with Flower(python, folder / "deployed", nodes) as flower:
        for repeat in range(training.repeats):
            for scheme in ("plaintext", "he-agg", "secaggplus"):
                out = folder / f"{scheme}-{repeat}-out"
                out.mkdir()
                config = {"width": training.width, "seed": repeat, "rounds": training.rounds, "out": str(out)}
                config |= {"federation": str(folder / "federation.json")}
                size = flower.run(folder / f"{scheme}-{repeat}", scheme, config)
                models = kept_models(folder / site for site in SITES) if scheme == "he-agg" else []
                model = models[0] if models else opened(out / "server.npz", training.width)
                row = training.row(scheme, repeat, out, size, model)
                yield row | ({"exact": training.exact(key, repeat, models)} if models else {})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frameworks", description=__doc__)
    parser.add_argument("--nvflare", metavar="PYTHON", help="of an environment with nvflare, he-agg and tenseal")
    parser.add_argument("--flower", metavar="PYTHON", help="of an environment with flwr and he-agg")
    parser.add_argument("--width", type=int, default=512, help="of the network's hidden layers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    asked = [
        (name, python, why_not, version, rows)
        for name, python, why_not, version, rows in (
            ("nvflare", options.nvflare, why_no_nvflare, nvflare_version, nvflare_rows),
            ("flower", options.flower, why_no_runs, flower_version, flower_rows),
        )
        if python
    ]
    if not asked:
        parser.error("name the Python of at least one framework: --nvflare, --flower")
    for _, python, why_not, _, _ in asked:
        if reason := why_not(python):
            parser.error(reason)
    result = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        training = Training.begin(Path(name), options.width, options.rounds, options.repeats)
        for framework, python, _, version, rows in asked:
            result[framework] = {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": " ".join(["python -m benchmarks.frameworks", *sys.argv[1:]]),
                "machine": machine(),
                "versions": versions() | {framework: version(python)},
                "values": training.values,
                "rounds": options.rounds,
                "sites": len(SITES),
                "rows": [],
            }
            for row in rows(training, python):
                result[framework]["rows"].append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
                if options.out:
                    write(result, options.out)
    for framework, *_ in asked:
        print(table(result[framework]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
