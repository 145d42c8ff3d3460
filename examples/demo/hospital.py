"""One hospital of the demo, as its own process: `python -m examples.demo.hospital DIRECTORY [DIES_IN]`.

The directory is the hospital's alone: settings, identity, keystore, roster, patients, and the journal that the demo
reads afterwards. Progress goes to stdout, one JSON line per round. DIES_IN is the number of a round after whose upload
the process is killed, without a warning; started again it goes on from its journal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from client_sdk import Site
from client_sdk.progress import Event, PhaseFinished
from examples.demo.ceremony import SETTINGS
from examples.demo.data import Share
from examples.demo.learner import Hospital
from examples.demo.summary import VERIFIED
from he_agg import HeAggError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from he_agg import Mean

__all__ = ["SHARE", "main"]

SHARE = "share.npz"


def tell(event: str, **facts: object) -> None:
    """One line for whoever watches."""
    print(json.dumps({"event": event, **facts}), flush=True)


def journal(directory: Path, number: int, kind: str, tensors: Mapping[str, Any]) -> None:
    """Keep what this hospital sent or received, so that the averages can be checked afterwards.

    A real hospital has no reason to: this is the demo's evidence, and it stays in the hospital's own directory.
    """
    np.savez(directory / f"{kind}-{number}.npz", **tensors)


def go_on(directory: Path, hospital: Hospital) -> bool:
    """Bring a hospital to where its journal ends; tell whether it has sent an update whose mean is not there."""
    while (path := directory / f"mean-{hospital.round_number}.npz").exists():
        with np.load(path) as mean:
            hospital.apply(dict(mean))
    return (directory / f"update-{hospital.round_number}.npz").exists()


def main(directory: Path, dies_in: int | None = None) -> None:
    """Take part in a federation until the model has converged.

    Args:
        directory: the hospital's own.
        dies_in: number of the round after whose upload this process is killed.
    """
    hospital = Hospital(Share.load(directory / SHARE))
    seconds: dict[str, float] = {}
    verified = dict.fromkeys(VERIFIED, 0)

    def count(mean: Mean) -> bool:
        # It was returned: the record, all manifests and the sum were verified before anything was decrypted.
        number = hospital.round_number
        for name, checked in zip(VERIFIED, (1, mean.n_sites, 1), strict=True):
            verified[name] += checked
        journal(directory, number, "mean", mean.tensors)
        done = hospital.apply(mean.tensors)
        tell("round", hospital=hospital.name, number=number, score=hospital.score())
        return done

    def watch(event: Event) -> None:
        if isinstance(event, PhaseFinished) and event.phase == "upload" and hospital.round_number == dies_in:
            os.kill(os.getpid(), signal.SIGKILL)

    with Site.open(directory / SETTINGS, progress=watch) as site:
        tell("ready", hospital=hospital.name)
        if go_on(directory, hospital):
            count(site.fetch())  # of the round that it was killed in
        for round in site.rounds():
            number, started = hospital.round_number, time.perf_counter()
            update, n = hospital.train()
            seconds["train"] = seconds.get("train", 0.0) + time.perf_counter() - started
            journal(directory, number, "update", update)
            mean = round.aggregate(update, weight=n)
            for phase, spent in round.seconds.items():
                seconds[phase] = seconds.get(phase, 0.0) + spent
            if count(mean):
                break
    result = {
        "hospital": hospital.name,
        "patients": n,
        "rounds": number,
        "score": hospital.score(),
        "seconds": seconds,
        "verified": verified,
        "bytes_up": round.bytes_up,
        "bytes_down": round.bytes_down,
    }
    (directory / "result.json").write_text(json.dumps(result))
    tell("done", hospital=hospital.name)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
    except HeAggError as error:
        sys.exit(f"{error.message} [{error.reason}]" + (f"\n{error.hint}" if error.hint else ""))
