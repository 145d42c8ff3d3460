"""The same NVFlare job with our ciphertexts, with NVFlare's own HE, and in the clear, on one deployment, by turns.

    python -m benchmarks.nvflare --python ~/nvflare/bin/python --values 1000000 --rounds 3 --out nvflare.json

That environment has nvflare, he-agg and tenseal. NVFlare runs as it is deployed: certificates, gRPC, a server and three
sites as processes of this machine. Bytes are the kernel's, of TCP on the server's port, all connections together.
Seconds are from the beginning of a round to its end on the server, NVFlare's own waits included. What a site learns
takes no time. The error is that of the global model after all rounds but the last, against double precision.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.nvflare.app import initial, update_of, weight_of
from benchmarks.nvflare.jobs import SITES, job, nvflare_version, why_no_nvflare
from benchmarks.nvflare.poc import Poc
from benchmarks.proc import processor
from client_sdk.training import training_plan
from keys import GroupKey

SCHEMES = ("plaintext", "he-agg", "tenseal")
_CLIP = 0.25
_WEIGHT_CAP = 1000


def exact(values: int, rounds: int) -> dict[str, np.ndarray]:
    """Return the global model after some rounds in double precision: what sites learn is in single precision."""
    model = initial(values)
    weights = [weight_of(site) for site in SITES]
    for number in range(rounds):
        afters = [update_of(site, number, model) for site in SITES]
        model = {
            name: np.average([after[name].astype(np.float64) for after in afters], axis=0, weights=weights).astype(
                np.float32
            )
            for name in model
        }
    return model


def measure(poc: Poc, folder: Path, scheme: str, values: int, rounds: int) -> dict[str, Any]:
    """Run one job, and say what it took."""
    out = folder / f"{scheme}-out"
    made = job(
        folder / scheme,
        scheme,
        values=values,
        rounds=rounds,
        out=out,
        keystore="keystore",
        federation="federation.json",
        options={"may_repeat": True},  # what sites learn is the same in every repeat
    )
    completed, size = poc.run(made)
    if not completed:
        raise RuntimeError(f"{scheme}: the job did not complete: {poc.log('server')[-3000:]}")
    events = [json.loads(line) for line in (out / "clock.jsonl").read_text().splitlines()]
    starts, ends = ([e["time"] for e in events if e["event"] == kind] for kind in ("_round_started", "_round_done"))
    expected = exact(values, rounds - 1)
    with np.load(out / f"{SITES[0]}.{rounds - 1}.npz") as file:
        error = max(float(np.abs(file[name] - expected[name]).max()) for name in expected)
    return {
        "scheme": scheme,
        "bytes_up": size["up"],
        "bytes_down": size["down"],
        "up_per_value": size["up"] / (values * rounds * len(SITES)),
        "down_per_value": size["down"] / (values * rounds * len(SITES)),
        "round_s": [round(end - start, 2) for start, end in zip(starts, ends, strict=True)],
        "largest_error": error,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nvflare", description=__doc__)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--values", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if reason := why_no_nvflare(options.python):
        parser.error(reason)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = training_plan(
            "nvflare", initial(options.values), clip=_CLIP, weight_cap=_WEIGHT_CAP, max_sites=len(SITES)
        )
        key = GroupKey.create(plan)
        (folder / "federation.json").write_bytes(key.federation_document.encode())
        key.save(folder / "keystore")
        local = {site: [folder / "keystore"] for site in SITES} | {"server": [folder / "federation.json"]}
        with Poc(options.python, folder / "poc", he=True, local=local) as poc:
            for repeat in range(options.repeats):
                for scheme in SCHEMES:
                    (folder / str(repeat)).mkdir(exist_ok=True)
                    rows.append(measure(poc, folder / str(repeat), scheme, options.values, options.rounds))
                    print(json.dumps(rows[-1]), flush=True)
    result = {
        "nvflare": nvflare_version(options.python),
        "python": platform.python_version(),
        "processor": processor(),
        "values": options.values,
        "rounds": options.rounds,
        "sites": len(SITES),
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
