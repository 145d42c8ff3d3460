"""Where a round's time goes, per link: seconds by phase, and the limit that costs the round most."""

from __future__ import annotations

from typing import Any

from benchmarks.rounds.schemes import SCHEMES
from he_agg.plan.hybrid_parameters import HybridParameters
from he_agg.ring.primes import BATCH
from he_agg.ring.sampling import NOISE_BYTES

__all__ = ["Floor", "budget", "floors"]

Row = dict[str, Any]
Floor = dict[str, float]

_LIMIT_NAMES = {
    "link": "the link's rate",
    "sha256": "SHA-256 on one core",
    "write_fsync": "write + fsync of the disk",
    "aes_keystream": "AES keystream on one core",
    "memory_copy": "memory bandwidth",
    "processor": "the processors, all of them",
}


def floors(row: Row, report: dict[str, Any]) -> Floor:
    """The least seconds that each limit allows for what a round of our own does; each alone, nothing else in its way.

    Args:
        row: a row of hybrid.
        report: the result that it is in, for the limits.
    """
    limits, sites, up, down = report["limits"], row["sites"], row["bytes_up"], row["bytes_down"]
    rate = report.get("link_bytes_per_s", {}).get(row["link"], limits["loopback_tcp"] / sites)
    cores = report["machine"]["cores"]
    return {
        "link": up / rate + down / rate,
        # Each part is digested when it is made, when it comes and before it is added; the sum when it is made, when it
        # is taken for the closed set and when it comes. Sites and aggregator share this machine's cores.
        "sha256": (3 * up * sites + down * (2 + sites)) / limits["sha256"] / cores,
        # In the spool of each site, in the aggregator's store, and the sum.
        "write_fsync": (2 * up * sites + down) / limits["write_fsync"],
        "aes_keystream": _keystream_bytes(row) * sites / limits["aes_keystream"] / cores,
        "memory_copy": 12 * row["values"] * 8 * sites / limits["memory_copy"] / cores,
    }


def _keystream_bytes(row: Row) -> float:
    """Count what one site's update takes: a word for each coefficient and limb, in and out, and the noise once."""
    magnitude = (1 << (row["value_bits"] - 1)) - 1
    plan = HybridParameters.choose(magnitude, SCHEMES[row["label"]].room(row["sites"]))
    return row["values"] / plan.packing * (2 * 4 * len(plan.primes) + NOISE_BYTES / BATCH)


def budget(report: dict[str, Any], label: str = "hybrid-16") -> list[dict[str, Any]]:
    """Compute an entry for each link, for the largest model measured with fewest sites.

    Args:
        report: a result.
        label: the scheme.
    """
    rows = [row for row in report["rows"] if row["label"] == label and "skipped" not in row]
    found = []
    for link in dict.fromkeys(row["link"] for row in rows):
        row = max((row for row in rows if row["link"] == link), key=lambda row: (row["values"] == 10**7, row["values"]))
        least = floors(row, report)
        phase = max(row["seconds"], key=lambda name: row["seconds"][name])
        cpu = (row["cpu_s_server"] + row["cpu_s_sites"]) / report["machine"]["cores"]
        limits = least | {"processor": cpu}
        limit = max(limits, key=lambda name: limits[name])
        found.append(
            {
                "link": link,
                "model": row["model"],
                "sites": row["sites"],
                "round_s": row["round_s_median"],
                "seconds": row["seconds"],
                "cpu_s_per_core": cpu,
                "largest": phase,
                "largest_s": row["seconds"][phase],
                "limit": _LIMIT_NAMES[limit],
                "floors": least,
            }
        )
    return found
