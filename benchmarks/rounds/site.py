"""One site as a process: reads commands on stdin, answers on stdout, one JSON object per line.

{"do": "prepare"}        -> {"ready": true}
{"do": "run", "at": T}   -> waits until the monotonic clock, which all processes share, shows T, runs one round, and
                            tells when it had the mean.

    python -m benchmarks.rounds.site SETTINGS.json
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proc import memory_bytes
from benchmarks.rounds.clients import CLIENTS
from benchmarks.rounds.models import expected_mean, update_of, weight_of


def main() -> None:
    """Run until stdin ends."""
    warnings.simplefilter("ignore")  # 16 bits and so many sites make a coarse mean, as intended
    settings: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    site, sites, values = settings["site"], settings["sites"], settings["values"]
    update, expected = update_of(site, values), expected_mean(sites, values)
    client = CLIENTS[settings["scheme"]](settings)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "prepare":
            client.prepare()
            _say({"ready": True})
            continue
        cpu = _cpu_s()
        _until(command["at"])
        mean, outcome = client.run(update, weight_of(site))
        end = time.monotonic()
        error = float(np.abs(np.asarray(mean[: expected.size], np.float64) - expected).max())
        del mean
        _say(outcome | {"end": end, "error": error, "cpu_s": _cpu_s() - cpu, "peak_rss_bytes": memory_bytes("VmHWM")})


def _until(at: float) -> None:
    while (left := at - time.monotonic()) > 0:
        time.sleep(max(0.0, left - 0.002) if left > 0.003 else 0)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
