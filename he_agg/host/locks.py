"""Locks on files, between processes and threads: flock where there is one, a locked byte on Windows.

The system drops a lock when its process dies, however it dies. A lock belongs to a descriptor: another one of the same
process has to wait like everybody else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from he_agg.host.files import open_private

__all__ = ["held", "lock", "lock_file", "unlock"]

if sys.platform == "win32":
    import msvcrt

    _BYTE = 2**31 - 2**16
    """Far behind what any locked file holds: others cannot read a byte that is locked."""
    _AGAIN_S = 0.02

    def lock(descriptor: int, wait: bool = True) -> None:
        """Take a file for this descriptor alone, until `unlock` or its end.

        Raises:
            BlockingIOError: somebody else has it, and this is not to wait.
        """
        while not _take(descriptor, msvcrt.LK_NBLCK):
            if not wait:
                raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process or thread")
            time.sleep(_AGAIN_S)  # the system's own waiting gives up after ten tries

    def unlock(descriptor: int) -> None:
        """Let it go at once; closing alone does so some time later."""
        _take(descriptor, msvcrt.LK_UNLCK)

    def _take(descriptor: int, how: int) -> bool:
        here = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, how, 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise
            return False
        finally:
            os.lseek(descriptor, here, os.SEEK_SET)
        return True

else:
    import fcntl

    def lock(descriptor: int, wait: bool = True) -> None:
        """Take a file for this descriptor alone, until `unlock` or its end.

        Raises:
            BlockingIOError: somebody else has it, and this is not to wait.
        """
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

    def unlock(descriptor: int) -> None:
        """Let it go."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextlib.contextmanager
def held(descriptor: int) -> Iterator[None]:
    """Wait for an open file, and have it alone for the length of a block."""
    lock(descriptor)
    try:
        yield
    finally:
        unlock(descriptor)


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold a file that is there for being locked only, and that goes when the block ends.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    descriptor = _made_and_locked(path)
    try:
        yield
    finally:
        if sys.platform != "win32":
            # Unlinked while held: who opened it meanwhile finds another inode at the path and starts over.
            path.unlink(missing_ok=True)
        unlock(descriptor)
        os.close(descriptor)
        if sys.platform == "win32":
            with contextlib.suppress(OSError):  # somebody has it open by now, and so it stays
                path.unlink()


def _made_and_locked(path: Path) -> int:
    while True:
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        try:
            lock(descriptor, wait=False)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):  # noqa: PTH116 - beside fstat
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
