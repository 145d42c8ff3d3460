"""Reproducible random bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable


def stream(seed: int) -> Callable[[int], bytes]:
    """A source of bytes that depends on the seed alone."""
    state = {"n": 0}

    def source(size: int) -> bytes:
        state["n"] += 1
        return hashlib.shake_256(f"{seed}/{state['n']}".encode()).digest(size)

    return source
