"""The interpreter, which one thread of a process has at a time: how soon another one asks it to stop."""

from __future__ import annotations

import sys

__all__ = ["take_turns"]

_SWITCH_S = 0.05
"""Ten times Python's own. Threads of a server seldom wait as long, for all of them let go of the interpreter to hash,
to add and to reach the disk: to be interrupted in between cost a tenth of the processor (benchmarks/load.py)."""


def take_turns() -> None:
    """Let threads of this process finish what is short."""
    sys.setswitchinterval(_SWITCH_S)
