"""What the kernel and the C library did for a process, by samples of `perf`, where it can be used.

It sees what no clock around a Python function does: copies, and pages that are cleared because they are new.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Self

__all__ = ["Sampling"]

_KINDS = {
    "copies in the process": ("__memmove_", "__memcpy_"),
    "copies by the kernel": ("copy_", "_copy_", "rep_movs", "csum_"),
    "new pages": (
        *("clear_page", "clear_huge_page", "exc_page_fault", "asm_exc_page_fault", "do_user_addr_fault", "error_entry"),
        *("handle_mm_fault", "__handle_mm_fault", "do_anonymous_page", "alloc_anon_folio", "get_page_from_freelist"),
        *("zap_", "unmap_", "free_unref", "release_pages", "folio_", "lru_", "__mod_memcg"),
    ),
}
"""Symbols by their beginning."""

_PER_SECOND = 1999


class Sampling:
    """Samples a process from entering to leaving, or to `shares`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._perf: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="he-agg-perf-")
        self._data = Path(self._folder.name, "perf.data")
        if shutil.which("perf"):
            words = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(_PER_SECOND), "-p", str(self._pid)]
            self._perf = subprocess.Popen([*words, "-o", str(self._data)], stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def shares(self) -> dict[str, float]:
        """End, and return the share of each kind; nothing where there is no `perf`, or it may not look."""
        self._stop()
        if not self._data.exists():
            return {}
        words = ["perf", "report", "-i", str(self._data), "--stdio", "--sort", "sym", "-F", "overhead,sym"]
        told = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        shares: dict[str, float] = defaultdict(float)
        for line in told.splitlines():
            overhead, _, symbol = line.strip().partition("%")
            with contextlib.suppress(ValueError):
                name = symbol.strip()[4:]  # behind [k] or [.]
                for kind, beginnings in _KINDS.items():
                    if name.startswith(beginnings):
                        shares[kind] += float(overhead) / 100
                        break
        return dict(shares)

    def _stop(self) -> None:
        if self._perf is not None:
            self._perf.send_signal(signal.SIGINT)
            self._perf.wait()
            self._perf = None
