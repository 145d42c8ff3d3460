"""Write what a person is to type into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

__all__ = ["quoted"]


def quoted(path: Path | str) -> str:
    """Write a path as a shell and a command take it for one file: in quotes where it needs them, never as an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
