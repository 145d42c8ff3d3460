"""Where a round's time goes, per link: seconds by phase, and the limit that costs the round most."""

from __future__ import annotations

from typing import Any

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
        row: a row of hybrid or ckks.
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
        # One word for each residue at the one-time key's mask, on the way in and out.
        "aes_keystream": 2 * 4 * row["values"] * sites / limits["aes_keystream"] / cores,
        "memory_copy": 12 * row["values"] * 8 * sites / limits["memory_copy"] / cores,
    }


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
