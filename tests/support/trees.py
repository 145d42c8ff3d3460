"""Directories in which an aggregator is at work: what is listed may be gone a moment later, whole folders of it.

`Path.rglob` raises where a folder goes while it looks into it. A test in whose thread that happens loses a site, and
the other sites wait for it until the round's deadline.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["contents_of", "living"]


def living(root: Path) -> Iterator[Path]:
    """List everything below a directory, but what goes meanwhile."""
    for folder, folders, files in os.walk(root):
        yield from (Path(folder, name) for name in (*folders, *files))


def contents_of(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Read every file below a directory, but those that go meanwhile."""
    for path in living(root):
        try:
            content = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            continue
        yield path, content
