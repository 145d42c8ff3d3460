"""Tell people of waits: at once or after a minute, and then 1, 2, 4, ... 60 minutes apart, for as long as they last."""

from __future__ import annotations

from client_sdk._effects import Flow, Report, now
from client_sdk.progress import Notice, Topic, Waits

__all__ = ["Waiting"]

_FIRST_S = 60.0
_LONGEST_S = 3600.0
_AT_ONCE = ("paused", "other-epoch", "not-invited")
"""What is no ordinary part of a round."""


class Waiting:
    """One wait, whatever it is for in turn."""

    def __init__(self) -> None:
        self._about: tuple[Topic, str | None] | None = None
        self._since = self._due = 0.0
        self._gap_s = _FIRST_S

    def tell(self, topic: Topic, text: str, round_id: str | None = None) -> Flow[None]:
        """Tell of it, if that is due."""
        time = yield from now()
        if self._about != (topic, round_id):
            self._about, self._since, self._gap_s = (topic, round_id), time, _FIRST_S
            self._due = time
            if topic not in _AT_ONCE:
                self._due += _FIRST_S
                yield Report(Waits(text, round_id))
        if time < self._due:
            return
        waited_s = time - self._since
        yield Report(Notice(topic, f"{text}{_for(waited_s)}", round_id, waited_s))
        self._due, self._gap_s = time + self._gap_s, min(2 * self._gap_s, _LONGEST_S)


def _for(seconds: float) -> str:
    if seconds < _FIRST_S:
        return ""
    minutes = int(seconds // 60)
    return f"; this site has waited for {f'{minutes} min' if minutes < 180 else f'{minutes // 60} h'}"
