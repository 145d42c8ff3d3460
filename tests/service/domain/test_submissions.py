"""The state machine of submissions alone: every event in every state."""

from itertools import product

import pytest

from he_agg.protocol.messages import SubmissionState
from service.domain.submissions import AWAITED, Event, State, step, told

EDGES = {
    Event.COMPLETED: {State.OPEN: State.COMPLETE},
    Event.ABANDONED: {State.OPEN: State.EXPIRING, State.EXPIRING: State.EXPIRING},
    Event.EMPTIED: {State.EXPIRING: State.OPEN, State.EXCLUDED: State.EXCLUDED},
    Event.ROUND_CLOSED: {
        State.OPEN: State.EXCLUDED,
        State.EXPIRING: State.EXCLUDED,
        State.COMPLETE: State.COMPLETE,
    },
    Event.ROUND_FAILED: dict.fromkeys(State, State.EXCLUDED),
}


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_event_in_every_state(state, event):
    if state in EDGES[event]:
        assert step(state, event) is EDGES[event][state]
    else:
        with pytest.raises(RuntimeError, match=f"is {state} cannot be"):
            step(state, event)


@pytest.mark.parametrize("event", Event)
def test_nobody_comes_back_from_exclusion(event):
    assert EDGES[event].get(State.EXCLUDED, State.EXCLUDED) is State.EXCLUDED


def test_only_a_failed_round_takes_a_receipt_back():
    """And then the record says so."""
    leaving = [event for event, edges in EDGES.items() if edges.get(State.COMPLETE, State.COMPLETE) != State.COMPLETE]
    assert leaving == [Event.ROUND_FAILED]


def test_what_is_awaited_can_be_abandoned_and_nothing_else():
    assert EDGES[Event.ABANDONED].keys() == AWAITED


def test_what_sites_are_told():
    assert {state: told(state) for state in State} == {
        State.OPEN: SubmissionState.OPEN,
        State.EXPIRING: SubmissionState.OPEN,
        State.COMPLETE: SubmissionState.COMPLETE,
        State.EXCLUDED: SubmissionState.EXCLUDED,
    }
