"""Show people what a site waits for: plain lines on stderr, by themselves in a terminal and in notebooks.

A line when a round's update is sent and what is waited for now, one when the mean is there, and in between whatever
takes longer than a few seconds, less and less often. No control codes: lines read the same in a log, in a notebook,
and beside what the user's own program prints.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

from client_sdk.progress import Event, Phase, PhaseFinished, PhaseProgress, PhaseStarted, Retrying, Waits

__all__ = ["Lines", "somebody_watches"]

_FIRST_S = 3.0
_LONGEST_S = 300.0
_DOING: dict[Phase, str] = {
    "encrypt": "encrypting",
    "upload": "sending",
    "hold": "answering as a holder",
    "download": "receiving",
    "decrypt": "decrypting",
}


def somebody_watches() -> bool:
    """Tell whether this process writes to a terminal or a notebook."""
    if "IPython" in sys.modules and hasattr(sys.modules["IPython"].get_ipython(), "kernel"):
        return True
    return sys.stderr is not None and sys.stderr.isatty()


class Lines:
    """A listener that prints.

    Args:
        name: what lines begin with, if several sites may write to the same terminal.
        only_retries: whether to print nothing but that nobody answers.
        out: where; the process's stderr of that moment if None.
    """

    def __init__(self, name: str = "", *, only_retries: bool = False, out: TextIO | None = None) -> None:
        self._start = f"{name}: " if name else ""
        self._only_retries, self._out = only_retries, out
        self._seconds: dict[Phase, float] = {}
        self._round: str | None = None
        self._about, self._due, self._gap_s = "", 0.0, _FIRST_S

    def say(self, text: str) -> None:
        """Print a line."""
        print(f"{self._start}{text}", file=self._out or sys.stderr, flush=True)

    def __call__(self, event: Event) -> None:
        """Print what is worth a line. Of notices the logger tells."""
        if isinstance(event, Retrying):
            self._retrying(event)
        if self._only_retries:
            return
        match event:
            case PhaseStarted(round_id=round_id, phase=phase):
                if round_id != self._round:
                    self._round, self._seconds = round_id, {}
                self._begin(f"{round_id} {phase}")
            case PhaseProgress(round_id=round_id, phase=phase, done_bytes=done, total_bytes=total):
                if total and self._is_due():
                    self.say(f"round {round_id}: {_DOING[phase]}, {100 * done // total} % of {_size(total)}")
            case PhaseFinished(round_id=round_id, phase=phase, seconds=seconds):
                self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds
                if phase == "decrypt":
                    took = ", ".join(f"{name} {took:.1f}" for name, took in self._seconds.items())
                    self.say(f"round {round_id}: the mean is there; seconds: {took}")
            case Waits(text=text, left_s=left_s):
                if text != self._about:
                    self._begin(text)
                    self._due = 0.0
                    if left_s <= 0:
                        self.say(text)
                if left_s > 0 and self._is_due():
                    self.say(f"{text}, {_time(left_s)} at most")

    def _retrying(self, event: Retrying) -> None:
        if event.failures == 1:
            self.say(f"{event.why}; trying again for {_time(event.left_s)} at most")
        else:
            self.say(f"{event.why}; {event.failures} tries, giving up in {_time(event.left_s)}")

    def _begin(self, about: str) -> None:
        self._about, self._due, self._gap_s = about, time.monotonic() + _FIRST_S, _FIRST_S

    def _is_due(self) -> bool:
        if time.monotonic() < self._due:
            return False
        self._due, self._gap_s = time.monotonic() + self._gap_s, min(2 * self._gap_s, _LONGEST_S)
        return True


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _size(n_bytes: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} bytes"
