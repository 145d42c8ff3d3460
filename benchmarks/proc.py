"""What Linux says of a process and of the processor."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

__all__ = ["cpu_s", "descendants", "memory_bytes", "processor", "stat_fields"]


def memory_bytes(name: str, pid: int | str = "self") -> int:
    """VmRSS of a process, what it holds, or VmHWM, the most it ever held; 0 if it is not told. Units: bytes.

    Not ru_maxrss, which a process inherits from whoever started it.

    Raises:
        OSError: there is no such process.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def stat_fields(pid: int | str) -> list[str]:
    """Fields of `/proc/<pid>/stat` behind the name, which may hold anything. The first is the state.

    Raises:
        OSError: there is no such process.
    """
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def cpu_s(pid: int | str, *, with_ended: bool = False) -> float:
    """Processor time of a process so far. Units: seconds.

    Args:
        pid: which.
        with_ended: with that of its children that have ended and were waited for.

    Raises:
        OSError: there is no such process.
    """
    return sum(int(field) for field in stat_fields(pid)[11 : 15 if with_ended else 13]) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have, as far as they have not ended."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended in between
                parents[int(entry.name)] = int(stat_fields(entry.name)[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def processor() -> str:
    """What the processor is called."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
