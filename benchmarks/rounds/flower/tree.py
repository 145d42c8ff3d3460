"""Processes of Flower: it starts others, one for each message that a site handles, so a scheme's costs are a tree's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rounds.processes import Process

__all__ = ["ProcessTree", "cpu_s", "largest_rss_bytes", "signal_named", "stop"]

_STOP_S = 3.0


class ProcessTree(Process):
    """A process with all that it started, and what those started."""

    def peak_rss_bytes(self) -> int:
        """The most memory that one of them ever held. Not their sum, which no instant may have seen. Units: bytes."""
        return largest_rss_bytes(self._popen.pid)

    def cpu_s(self) -> float:
        """Processor time of all so far, with those that ended. Units: seconds."""
        return cpu_s(self._popen.pid)


def _tree(root: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names only
        if name.isdigit():
            with contextlib.suppress(OSError):
                parents.setdefault(int(_stat(int(name))[1]), []).append(int(name))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def cpu_s(root: int) -> float:
    """Processor time of a process and its descendants, ended ones that were waited for included. Units: seconds."""
    total = 0
    for pid in _tree(root):
        with contextlib.suppress(OSError):
            total += sum(int(field) for field in _stat(pid)[11:15])
    return total / os.sysconf("SC_CLK_TCK")


def largest_rss_bytes(root: int) -> int:
    """The most that one process of the tree ever held; of those that are there now. Units: bytes."""
    return max((size for pid in _tree(root) for size in _peak(pid)), default=0)


def _peak(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                yield int(line.split()[1]) * 1024


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
