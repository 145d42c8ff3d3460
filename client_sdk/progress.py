"""Progress: what a listener is told while a round runs. Counts of bytes and seconds, never a value or a weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Event",
    "Listener",
    "Notice",
    "Phase",
    "PhaseFinished",
    "PhaseProgress",
    "PhaseStarted",
    "Retrying",
    "Topic",
    "Waits",
]

Phase = Literal["encrypt", "upload", "wait", "hold", "download", "decrypt"]
"""`hold`: where keys are split, this site's part as a holder. Waiting for answers is part of `decrypt`."""


Topic = Literal[
    "paused", "waiting", "other-epoch", "not-invited", "missed", "left-out", "disputed", "ended-early", "holding"
]
"""`waiting`: for a round to open, or for its record. `other-epoch`: until keystore and federation are in one epoch.
`missed`: a round that this site sent nothing to. `left-out`: one that it did send something to, and whose sum is
without that. `disputed`: a sum that a site could not open. `holding`: this member did not answer as a holder."""


@dataclass(frozen=True)
class PhaseStarted:
    """A phase of a round begins.

    Attributes:
        round_id: which round.
        phase: one of `Phase`.
        total_bytes: how much it will handle; 0 when that is not known beforehand.
    """

    round_id: str
    phase: Phase
    total_bytes: int


@dataclass(frozen=True)
class PhaseProgress:
    """A phase got on.

    Attributes:
        round_id: which round.
        phase: one of `Phase`.
        done_bytes: handled so far.
        total_bytes: what it will be in the end.
    """

    round_id: str
    phase: Phase
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class PhaseFinished:
    """A phase is done.

    Attributes:
        round_id: which round.
        phase: one of `Phase`.
        seconds: how long it took. Units: seconds.
        sent_bytes: bodies of requests that were answered in this phase, re-sent ones included.
        received_bytes: bodies of answers that were used in this phase.
    """

    round_id: str
    phase: Phase
    seconds: float
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(frozen=True)
class Retrying:
    """A request failed and will be sent again.

    Attributes:
        why: what happened, for people.
        failures: how many times in a row.
        wait_s: pause before the next try. Units: seconds.
        left_s: how long it will be tried at most, from now on. Units: seconds.
    """

    why: str
    failures: int
    wait_s: float
    left_s: float


@dataclass(frozen=True)
class Notice:
    """Something that people should know, although it is no error of a call.

    Attributes:
        topic: one of `Topic`.
        text: one sentence.
        round_id: which round, if it is about one.
        waited_s: for how long already, if it is a wait. Units: seconds.
    """

    topic: Topic
    text: str
    round_id: str | None = None
    waited_s: float = 0.0


@dataclass(frozen=True)
class Waits:
    """A wait that is an ordinary part of a federation: for a round to open, or for the sum of all sites.

    Attributes:
        text: a sentence without its full stop.
        round_id: which round, if it is about one.
        left_s: how long it will be at most, if that is known, else 0. Units: seconds.
    """

    text: str
    round_id: str | None = None
    left_s: float = 0.0


Event = PhaseStarted | PhaseProgress | PhaseFinished | Retrying | Notice | Waits

Listener = Callable[[Event], None]
"""Called between two steps of a round, in the thread or event loop that drives it: be quick."""
