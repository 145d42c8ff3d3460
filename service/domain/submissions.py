"""The life of a submission, as a pure function: (state, event) -> state. No store, no clock, no files.

::

     begun                      all parts are here, and its manifest
    ───────────> OPEN ────────────────────────────────────────────────> COMPLETE
                 │ ▲ │                                                      │
       abandoned │ │ │ the round closes or fails                            │ the round fails
                 ▼ │ └────────────────────────> EXCLUDED <──────────────────┘
            EXPIRING                               ▲
                 └─────────────────────────────────┘
                    the round closes or fails

An abandoned upload loses its parts and is then open again. One that is open or expiring may also go, for another upload
of its site for the attempt.
While it is expiring no part of it is marked as stored, so that no mark outlives its file.

Closing a round decides who is in: what is complete then stays so, and has its receipt; everything else is excluded.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto

from he_agg.protocol.messages import SubmissionState

__all__ = ["AWAITED", "Event", "State", "step", "told"]


class State(StrEnum):
    """Where a submission stands."""

    OPEN = "open"
    EXPIRING = "expiring"
    COMPLETE = "complete"
    EXCLUDED = "excluded"


class Event(Enum):
    """What can happen to a submission."""

    COMPLETED = auto()
    """All its parts are here, and its round has accepted its manifest."""

    ABANDONED = auto()
    """Nobody goes on with it: its parts are going to be removed."""

    EMPTIED = auto()
    """Its parts have been removed."""

    ROUND_CLOSED = auto()
    """The set of its round is final."""

    ROUND_FAILED = auto()
    """Its round has failed."""


AWAITED = frozenset({State.OPEN, State.EXPIRING})
"""Those of which parts are still to come."""

_EDGES = {
    (State.OPEN, Event.COMPLETED): State.COMPLETE,
    (State.OPEN, Event.ABANDONED): State.EXPIRING,
    (State.EXPIRING, Event.ABANDONED): State.EXPIRING,  # the removal was interrupted, and begins again
    (State.EXPIRING, Event.EMPTIED): State.OPEN,
    (State.EXCLUDED, Event.EMPTIED): State.EXCLUDED,  # its round ended in the meantime
    (State.OPEN, Event.ROUND_CLOSED): State.EXCLUDED,
    (State.EXPIRING, Event.ROUND_CLOSED): State.EXCLUDED,
    (State.COMPLETE, Event.ROUND_CLOSED): State.COMPLETE,
    (State.OPEN, Event.ROUND_FAILED): State.EXCLUDED,
    (State.EXPIRING, Event.ROUND_FAILED): State.EXCLUDED,
    (State.COMPLETE, Event.ROUND_FAILED): State.EXCLUDED,
    (State.EXCLUDED, Event.ROUND_FAILED): State.EXCLUDED,  # since its round closed
}


def step(state: State, event: Event) -> State:
    """Let an event happen.

    Raises:
        RuntimeError: it cannot happen in this state. Whoever asks has looked, in the same transaction.
    """
    after = _EDGES.get((state, event))
    if after is None:
        raise RuntimeError(f"a submission that is {state} cannot be {event.name.lower()}")
    return after


def told(state: State) -> SubmissionState:
    """Say where a submission stands, to its site. One that expires is open for it: all of its parts are missing."""
    return SubmissionState.OPEN if state is State.EXPIRING else SubmissionState(state)
