"""Let those look at the dashboard who can read the data directory, as whoever runs the aggregator can.

A key in the data directory makes links; a link is good once and for ten minutes, and buys a session of twelve hours.
Both are a time, a nonce and an HMAC, so that a restart ends no session, replicas know each other's, and nothing is
stored; only nonces of used links are remembered, for as long as those could be used again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from he_agg.errors import ConfigError, Reason
from he_agg.host.files import create_once
from he_agg.host.private import read_private
from he_agg.host.shell import quoted
from service.monitor.dashboard.sessions import Session

__all__ = ["LINK_S", "SESSION_S", "Access"]

LINK_S = 600
"""How long a link is good. Units: seconds."""

SESSION_S = 12 * 3600
"""How long a session lasts. Units: seconds."""

FILE = "operator.key"
_KEY_BYTES = 32
_MAX_BYTES = 4096


class Access:
    """Makes links and sessions, and checks them.

    Args:
        key: 32 random bytes.
    """

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock
        self._used: dict[str, int] = {}
        self._lock = threading.Lock()
        # A link from before this process cannot be told from one that was used before it.
        self._since = int(clock())

    @classmethod
    def load_or_create(cls, data_dir: Path, clock: Callable[[], float] = time.time) -> Access:
        """Read the key of a data directory, and make it if there is none."""
        path = data_dir / FILE
        try:
            if not os.path.lexists(path):
                create_once(path, secrets.token_bytes(_KEY_BYTES))
        except OSError as error:
            raise ConfigError(Reason.BAD_CONFIG, f"cannot make {path}: {error.strerror}") from error
        key = read_private(path, _MAX_BYTES, "rm it: another one is made at the next start, and all sessions end")
        if len(key) != _KEY_BYTES:
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"{path}: expected {_KEY_BYTES} bytes, got {len(key)}",
                f"rm {quoted(path)}, then restart",
            )
        return cls(key, clock)

    def new_link(self) -> str:
        """Make a token that buys one session."""
        return self._make("link", LINK_S)

    def new_session(self) -> str:
        """Make a session and return what the cookie holds."""
        return self._make("session", SESSION_S)

    def redeem(self, token: str) -> str | None:
        """Give a session for a link; None if the link is unknown, too old, or was used before."""
        expires_at = self._expiry("link", token)
        if expires_at is None or expires_at - LINK_S < self._since:
            return None
        now = self._clock()
        with self._lock:
            self._used = {used: until for used, until in self._used.items() if until > now}
            if token in self._used:
                return None
            self._used[token] = expires_at
        return self.new_session()

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie, if it lasts. Whoever has opened a link has no name, and so may not act."""
        expires_at = self._expiry("session", cookie)
        return None if expires_at is None else Session("", False, "link", expires_at)

    def _make(self, kind: str, seconds: int) -> str:
        # Rounded up: a link that is made in the second of the start is not from before it.
        text = f"{int(self._clock()) + 1 + seconds}.{secrets.token_hex(8)}"
        return f"{text}.{self._mac(kind, text)}"

    def _mac(self, kind: str, text: str) -> str:
        return hmac.new(self._key, f"he-agg operator {kind} {text}".encode(), hashlib.sha256).hexdigest()

    def _expiry(self, kind: str, token: str) -> int | None:
        text, _, mac = token.rpartition(".")
        if not token.isascii() or not hmac.compare_digest(mac, self._mac(kind, text)):
            return None
        expires_at = int(text.partition(".")[0])  # ours: the MAC says so
        return expires_at if expires_at > self._clock() else None
