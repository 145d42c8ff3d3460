"""Flower as a scheme: its server and sites, started where the network says."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rounds.flower.starting import flower_version
from benchmarks.rounds.links import ENVIRONMENT, Network
from he_agg.host.processes import Process

__all__ = ["flower_processes", "why_no_flower"]

_OLDEST = (1, 41)


def why_no_flower(python: str) -> str:
    """Why Flower cannot be measured with a Python; empty if it can."""
    version = flower_version(python)
    if not version:
        return f"flwr is not installed in the environment of {python} (--flower-python names another)"
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        return f"flwr {version} is older than 1.41, whose SuperLink and SuperNode the benchmark knows"
    return ""


@contextlib.contextmanager
def flower_processes(
    scheme: str, as_shipped: bool, values: int, sites: int, net: Network, root: Path, python: str
) -> Iterator[tuple[Process, list[Process]]]:
    """Start SuperLink and SuperNodes.

    Args:
        scheme: "flower-fedavg" or "flower-secaggplus".
        as_shipped: leave Flower's waits as they are.
        values: how many an update has.
        sites: how many.
        net: how they reach each other.
        root: an empty directory, whose path is short enough for a socket's name.
        python: of the environment that has Flower.

    Yields:
        The server, and the sites.
    """
    settings = {
        "scheme": scheme,
        "as_shipped": as_shipped,
        "values": values,
        "sites": sites,
        "root": str(root),
        "python": python,
        "host": net.address,
        "cert": net.cert and str(net.cert),
        "key": net.key and str(net.key),
        "ca_file": net.ca_file and str(net.ca_file),
    }
    with contextlib.ExitStack() as stack:

        def start(what: str, prefix: tuple[str, ...], more: dict[str, object]) -> Process:
            file = root / f"{what}-{len(list(root.glob('*.json')))}.json"
            file.write_text(json.dumps(settings | more))
            command = [*prefix, sys.executable, "-m", f"benchmarks.rounds.flower.{what}", str(file)]
            return stack.enter_context(Process(command, file.with_suffix(".log"), ENVIRONMENT))

        server = start("server", net.server_prefix, {})
        urls = stack.enter_context(net.urls(server.listening(), sites))
        yield (
            server,
            [start("site", net.site_prefix(site), {"site": site, "url": url}) for site, url in enumerate(urls)],
        )
