"""What a process costs with all that it started: Flower starts one for each message that a site handles."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from benchmarks import proc

__all__ = ["cpu_s", "largest_rss_bytes", "signal_named", "stop"]

_STOP_S = 3.0


def _tree(root: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names only
        if name.isdigit():
            with contextlib.suppress(OSError):
                parents.setdefault(int(proc.stat_fields(name)[1]), []).append(int(name))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def cpu_s(root: int) -> float:
    """Processor time of a process and its descendants, ended ones that were waited for included. Units: seconds."""
    total = 0.0
    for pid in _tree(root):
        with contextlib.suppress(OSError):
            total += proc.cpu_s(pid, with_ended=True)
    return total


def largest_rss_bytes(root: int) -> int:
    """The most that one process of the tree ever held; of those that are there now. Units: bytes."""
    largest = 0
    for pid in _tree(root):
        with contextlib.suppress(OSError):
            largest = max(largest, proc.memory_bytes("VmHWM", pid))
    return largest


def signal_named(root: int, name: str, number: signal.Signals) -> None:
    """Send a signal to the descendants whose command has a word that ends in `name`."""
    for pid in _tree(root)[1:]:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if any(word.endswith(name) for word in words):
                os.kill(pid, number)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its descendants. They get no time to say goodbye: there is nothing to keep."""
    pids = _tree(process.pid)
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
