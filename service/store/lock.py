"""Lock a data directory, so that only servers that belong together use it.

With SQLite it is one: an flock that the kernel drops when the process dies, however it dies. With a shared database it
is every replica of the same aggregator, and nobody else: directory and database carry the same number.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from he_agg.errors import ConfigError, Reason
from service.store.parts.base import PartStore
from service.store.sql import Store

__all__ = ["DirectoryLock", "match_directory"]

_NUMBER = "directory"


class DirectoryLock:
    """Held from construction to `release`.

    Raises:
        ConfigError: another process holds it.
    """

    def __init__(self, data_dir: Path) -> None:
        path = data_dir / "server.lock"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"cannot write to the data directory {data_dir}: {error.strerror}",
                "it must be this user's own, on a disk that can be written; or name another --data-dir",
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise ConfigError(
                Reason.ALREADY_EXISTS,
                f"another aggregator is serving {data_dir}",
                "stop it first, or give this one its own --data-dir",
            ) from error

    def release(self) -> None:
        """Let it go."""
        os.close(self._descriptor)


def match_directory(store: Store, part_store: PartStore, data_dir: Path) -> None:
    """Check that a directory is the one whose files a shared database speaks of; the first server joins the two.

    Raises:
        ConfigError: it is another aggregator's, or an empty one: its parts would count as lost.
    """
    path = data_dir / "directory.id"
    with store.write() as tx:
        known = tx.number(_NUMBER)
        found = _read(path)
        if known is None and found is None:
            known = found = secrets.randbits(62)
            # The file first, durably: a number without a file would lock everybody out.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, f"{found}\n".encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            tx.set_number(_NUMBER, known)
        elif known is None and found is not None and not any(True for _ in part_store.rounds()):
            # A process died in between; without parts there is nothing to mix up.
            known = found
            tx.set_number(_NUMBER, known)
    if known is None or known != found:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"{data_dir} is not the directory whose parts this database speaks of",
            "all replicas need the same shared --data-dir and the same --database-url; after a restore, both from "
            "the same backup",
        )


def _read(path: Path) -> int | None:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    return int(text) if text.strip().isdigit() else -1
