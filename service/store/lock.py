"""One server per data directory: an flock that the kernel drops when the process dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from he_agg.errors import ConfigError, Reason

__all__ = ["DirectoryLock"]


class DirectoryLock:
    """Held from construction to `release`.

    Args:
        data_dir: the directory; must exist.

    Raises:
        ConfigError: another process holds it.
    """

    def __init__(self, data_dir: Path) -> None:
        path = data_dir / "server.lock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
