"""Directories in which an aggregator is at work: what is listed may be gone a moment later, whole folders of it.

`Path.rglob` raises where a folder goes while it looks into it. A test in whose thread that happens loses a site, and
the other sites wait for it until the round's deadline.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["contents_of", "digests_of", "living"]


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


def digests_of(root: Path) -> dict[str, str | None]:
    """Digest every file below a directory, by its path from there; a folder, and what goes meanwhile, has none.

    Tests compare whole data directories thousands of times, so paths are text here.
    """
    found: dict[str, str | None] = {}
    begin = len(f"{root}/")
    for folder, folders, files in os.walk(root):
        found |= dict.fromkeys(f"{folder}/{name}"[begin:] for name in folders)
        for name in files:
            path = f"{folder}/{name}"
            try:
                found[path[begin:]] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            except FileNotFoundError:
                found[path[begin:]] = None
    return found
