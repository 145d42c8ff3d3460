"""What the repository says: its pages, and the commands that its packages register."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

from he_agg.host.commands import GROUP

ROOT = Path(__file__).parents[2]
PACKAGES = ("he_agg", "keys", "service", "client_sdk", "examples", "benchmarks")
# As the folders declare them, whatever of them is installed.
POINTS = [
    EntryPoint(name, value, GROUP)
    for folder in (ROOT, ROOT / "examples", ROOT / "benchmarks")
    for name, value in tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"][GROUP].items()
]


def sources(pattern):
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob(pattern))]


def pages():
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md"), *sources("*.md")]
    return [path for path in found if path.name != "CHANGELOG.md"]
