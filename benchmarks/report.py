"""What every result has in common: its machine and versions, and a file that is whole whenever the run ends."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.proc import processor

__all__ = ["PACKAGES", "RESULTS", "machine", "name_of", "versions", "write"]

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("he-agg", "numpy", "numba", "tenseal", "cryptography")


def machine() -> dict[str, Any]:
    """Say what this runs on, and how busy it is already."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of packages; some of them may not be installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def name_of(kind: str = "") -> str:
    """Name today's result of this machine, without a suffix."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"{kind}{date}-{platform.machine()}-{os.cpu_count()}cores"


def write(report: dict[str, Any], path: Path) -> None:
    """Replace a file at once, so that it is whole whenever the run ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".json.new")
    beside.write_text(json.dumps(report, indent=1) + "\n")
    beside.replace(path)
