"""Remember who has signed in through an identity provider: in this process only, so that a restart ends all of it."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Session", "Sessions"]

_MOST = 1000
_MOST_EACH = 5
"""Sessions of one person; another one ends the oldest."""


@dataclass(frozen=True)
class Session:
    """Somebody who may look, and perhaps act.

    Attributes:
        by: name of the person, as events have it; empty where a link was used, which anybody may have opened.
        may_act: whether the person is an operator. Otherwise a viewer.
        via: "link" or "oidc".
        expires_at: Units: seconds since 1970, UTC.
    """

    by: str
    may_act: bool
    via: str
    expires_at: float


class Sessions:
    """Sessions by what their cookies hold, of which only digests are kept."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._held: dict[str, Session] = {}

    def begin(self, session: Session) -> str:
        """Remember a session. Returns what its cookie holds."""
        now = self._clock()
        self._held = {key: each for key, each in self._held.items() if each.expires_at > now}
        own = [key for key, each in self._held.items() if each.by == session.by]
        for key in own[: len(own) - _MOST_EACH + 1] if len(own) >= _MOST_EACH else []:
            del self._held[key]
        if len(self._held) >= _MOST:
            del self._held[next(iter(self._held))]
        cookie = secrets.token_urlsafe(32)
        self._held[_digest(cookie)] = session
        return cookie

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie, if it lasts."""
        found = self._held.get(_digest(cookie))
        return found if found is not None and found.expires_at > self._clock() else None

    def end(self, cookie: str) -> None:
        """Forget a session: its cookie is worth nothing from here on."""
        self._held.pop(_digest(cookie), None)


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).hexdigest()
