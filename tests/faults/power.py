"""Power cuts in the life of a member, at every fsync of it."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from tests.faults.disk import LossyDisk
from tests.support.seeds import seed_of

MEMORY = Path("/dev/shm")


class StopError(BaseException):
    """The power goes."""


@contextlib.contextmanager
def a_folder() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    try:
        yield root
    finally:
        shutil.rmtree(root)


def power_cuts(
    monkeypatch,
    modules: Sequence[ModuleType],
    how: str,
    before: Callable[[Path], None],
    live: Callable[[Path], object],
    at_least: int = 10,
) -> Iterator[Path]:
    """A folder after each: at an fsync of a life, just before and just after it; at last after all of that life.

    Args:
        modules: that sync files.
        how: see `LossyDisk.crash`.
        before: makes what is on the disk for certain.
        live: does the rest, in any number of threads.
    """
    chance = random.Random(seed_of("power cuts"))
    at, over, alone = 0, False, threading.Lock()
    while not over:
        at += 1
        with a_folder() as root, monkeypatch.context() as patch:
            home = root / "home"
            home.mkdir()
            before(home)
            # Garbage with an end of line in it is a damaged file, and refused: tests/client_sdk/test_promises.py.
            disk = LossyDisk(home, patch, modules, garbage=False)
            real = disk.os.fsync

            def fsync(descriptor, disk=disk, real=real, early=bool(at % 2), turn=(at + 1) // 2):
                with alone:
                    if disk.syncs >= turn or (disk.syncs + 1 == turn and early):
                        raise StopError
                    real(descriptor)
                    if disk.syncs == turn:
                        raise StopError

            disk.os.fsync = fsync
            over = True
            try:
                live(home)
            except StopError:
                over = False
            disk.crash(how, chance)
            patch.undo()
            yield home
    assert at > at_least, "there was hardly a power cut"
