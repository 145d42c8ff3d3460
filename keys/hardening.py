"""Protect the memory of a process that holds keys, as far as Python lets it.

* `forbid_core_dumps`: no core file of this process, or of what it starts. Done by `Site.open` and by every command.
* `harden_command`: also PR_SET_DUMPABLE = 0 on Linux: no core by way of a handler either, no ptrace by processes of the
  same user, and `/proc/<pid>/mem` belongs to root. Done by commands, whose process is ours. A library does not take a
  host program's debugger and profiler away without being asked; the host may call it.

`HE_AGG_CORE_DUMPS=1` in the environment leaves everything as it is, to debug a crash. Python's own strings and bytes
are not wiped: docs/decisions/0012-process-memory.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

if sys.platform != "win32":
    import resource

__all__ = ["OPT_OUT", "forbid_core_dumps", "harden_command"]

OPT_OUT = "HE_AGG_CORE_DUMPS"
_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> bool:
    """Set the size of core files to 0, for this process and what it starts.

    Returns:
        False if the environment says to leave it.
    """
    if os.environ.get(OPT_OUT) == "1":
        return False
    if sys.platform != "win32":  # which writes none unless its administrator has asked for them
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        # The soft limit alone: whoever runs us may raise it again on purpose.
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    return True


def harden_command() -> bool:
    """Harden the process, and keep other processes of this user out of its memory where the system can.

    Returns:
        Whether the system did.
    """
    if not forbid_core_dumps() or not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        result: int = ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        return result == 0
    return False
