"""The site's own record of what it refused: one JSON line each, for the people who look into it.

Callers get one uniform error, since whoever lies must not learn what gave the lie away. This file has the rest: what
was looked at, what was expected, what came, always as names, numbers of things and digests. Plaintext, keys and tags
are in no line.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from he_agg.errors import ConfigError, Reason
from he_agg.host.files import open_private, sync

__all__ = ["SecurityLog"]

_MAX_TEXT = 300


class SecurityLog:
    """A file that lines are added to.

    Raises:
        ConfigError: it cannot be written. A site that could not note a refusal does not start.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path = path
        self._clock = clock
        try:
            descriptor = self._open()
            if sys.platform != "win32":
                os.fchmod(descriptor, 0o600)  # one that was there already, too
            os.close(descriptor)
        except OSError as error:
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"security_log {path} cannot be written: {error.strerror}",
                "set `security_log` to a file in a directory of this user",
            ) from error

    def note(self, event: str, **facts: str | int | None) -> None:
        """Add a line. A full disk does not turn a refusal into something else, so errors of writing are dropped."""
        time = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "event": event} | {name: _short(value) for name, value in facts.items()}
        with contextlib.suppress(OSError):
            descriptor = self._open()
            try:
                os.write(descriptor, json.dumps(line).encode() + b"\n")  # one write: lines of two processes stay whole
                sync(descriptor)
            finally:
                os.close(descriptor)

    def _open(self) -> int:
        return open_private(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _short(value: str | int | None) -> str | int | None:
    if not isinstance(value, str) or len(value) <= _MAX_TEXT:
        return value
    return value[: _MAX_TEXT - 3] + "..."
