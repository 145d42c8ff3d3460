"""What a site of Flower does for training: nothing but to note when it has the mean, and to bring its update.

It says so to the process of its site (`site.py`), waits for the common instant, and answers. Everything between is
Flower's. Runs in Flower's Python.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import numpy as np

from benchmarks.rounds.models import expected_mean, update_of, weight_of

__all__ = ["NOTHING", "trained"]

NOTHING = np.zeros(1, np.float32)
"""The model before the first round: sites have nothing to learn from, and its way down is not measured."""


def trained(context: Any, mean: Any) -> tuple[Any, int]:
    """Say that the mean is here, and wait for the next round.

    Args:
        context: Flower's.
        mean: what came.

    Returns:
        The site's update and its weight.
    """
    entered = time.monotonic()
    site, values = int(context.node_config["site"]), int(context.run_config["values"])
    sites = int(context.run_config["sites"])
    expected = expected_mean(sites, values)
    # Before the first round nothing is there to compare.
    error = float(np.abs(mean[: expected.size] - expected).max()) if mean.size == values else None
    del mean
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(context.node_config["socket"]))
        with peer.makefile("rw") as stream:
            print(json.dumps({"entered": entered, "error": error}), file=stream, flush=True)
            update = update_of(site, values)
            print(json.dumps({"ready": True}), file=stream, flush=True)
            begin = json.loads(stream.readline())["at"]
    while (left := begin - time.monotonic()) > 0:
        time.sleep(max(0.0, left - 0.002) if left > 0.003 else 0)
    return update, weight_of(site)
