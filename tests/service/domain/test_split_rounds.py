"""The state machine where keys are split: what waits for holders, and for what."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.events import (
    Completed,
    Concluded,
    Ended,
    EpochChanged,
    Extended,
    Failed,
    Federation,
    FoldBegan,
    FoldBroke,
    Folded,
    GaveUp,
    Opened,
    Paused,
    Phase,
    Published,
    Ready,
    Resumed,
    RosterChanged,
    Round,
    Settled,
    Skipped,
    Stage,
    StageChanged,
    Started,
    Stopped,
    Sum,
    Terms,
    Tick,
)
from service.domain.rounds import step

TERMS = Terms(min_sites=2, rounds=2, deadline_s=100, splits=True)
SITES = frozenset("abc")
NEW = Federation(TERMS, SITES)


def at(phase, *complete, number=1, attempt=1, stage=Stage.RUNNING, settled=False, **more):
    holders = frozenset("ht")
    round_ = Round(number, attempt, phase, 1000, 1100, SITES, frozenset(complete), settled=settled, holders=holders)
    return Federation(TERMS, SITES, stage, round_, **more)


def unready(state):
    return replace(state, ready=False)


def paused(phase, *complete, **more):
    return replace(at(phase, *complete, stage=Stage.PAUSED, **more), paused_at=1050)


AWAITED = at(Phase.PUBLISHED, "a", "b")
OPEN_1, OPEN_2 = (1, 1, Phase.OPEN), (2, 1, Phase.OPEN)
AFTER_1 = (1, 1, Phase.PUBLISHED)
# (state, event, phase and attempt afterwards, stage afterwards, kinds of actions)
EDGES: dict[str, tuple] = {
    "published": (at(Phase.FOLDING, "a", "b"), Folded(1, 1), AFTER_1, Stage.RUNNING, [Published]),
    "published last": (
        at(Phase.FOLDING, "a", "b", number=2), Folded(2, 1), (2, 1, Phase.PUBLISHED), Stage.RUNNING, [Published],
    ),
    "published after the stop": (
        at(Phase.FOLDING, "a", "b", stage=Stage.ENDED), Folded(1, 1), AFTER_1, Stage.ENDED, [Published],
    ),
    "settled": (AWAITED, Settled(1, 1), OPEN_2, Stage.RUNNING, [Concluded, Opened]),
    "skipped": (AWAITED, Skipped(1, 1), OPEN_2, Stage.RUNNING, [Concluded, Opened]),
    "settled last": (
        at(Phase.PUBLISHED, "a", "b", number=2), Settled(2, 1), (2, 1, Phase.PUBLISHED), Stage.ENDED,
        [Concluded, StageChanged, Ended],
    ),
    "another attempt is settled": (AWAITED, Settled(1, 2), AFTER_1, Stage.RUNNING, []),
    "settled twice": (at(Phase.OPEN, number=2), Settled(1, 1), OPEN_2, Stage.RUNNING, []),
    "settled before it is published": (
        at(Phase.FOLDING, "a", "b"), Skipped(1, 1), (1, 1, Phase.FOLDING), Stage.RUNNING, [],
    ),
    "settled in the pause": (
        paused(Phase.PUBLISHED, "a", "b"), Settled(1, 1), AFTER_1, Stage.PAUSED, [Concluded],
    ),
    "settled while too few have keys": (unready(AWAITED), Settled(1, 1), AFTER_1, Stage.RUNNING, [Concluded]),
    "stopped while awaited": (AWAITED, Stopped(), AFTER_1, Stage.ENDED, [StageChanged]),
    "settled after the stop": (
        at(Phase.PUBLISHED, "a", "b", stage=Stage.ENDED), Settled(1, 1), AFTER_1, Stage.ENDED, [Concluded, Ended],
    ),
    "stopped when settled": (
        unready(at(Phase.PUBLISHED, settled=True)), Stopped(), AFTER_1, Stage.ENDED, [StageChanged, Ended],
    ),
    "resumed while awaited": (paused(Phase.PUBLISHED, "a"), Resumed(), AFTER_1, Stage.RUNNING, [StageChanged]),
    "resumed when settled": (
        paused(Phase.PUBLISHED, "a", settled=True), Resumed(), OPEN_2, Stage.RUNNING, [StageChanged, Opened],
    ),
    "resumed while too few have keys": (
        unready(paused(Phase.PUBLISHED, "a", settled=True)), Resumed(), AFTER_1, Stage.RUNNING, [StageChanged],
    ),
    "resumed while open": (
        unready(paused(Phase.OPEN)), Resumed(), OPEN_1, Stage.RUNNING, [StageChanged, Extended],
    ),
    "start while too few have keys": (unready(NEW), Started(), None, Stage.RUNNING, [StageChanged]),
    "enough have keys": (replace(NEW, stage=Stage.RUNNING), Ready(), OPEN_1, Stage.RUNNING, [Opened]),
    "enough have keys before the start": (NEW, Ready(), None, Stage.CREATED, []),
    "enough have keys in the pause": (
        replace(NEW, stage=Stage.PAUSED, paused_at=1050), Ready(), None, Stage.PAUSED, [],
    ),
    "resumed with enough keys": (
        replace(NEW, stage=Stage.PAUSED, paused_at=1050), Resumed(), OPEN_1, Stage.RUNNING, [StageChanged, Opened],
    ),
    "one more has a key, still too few": (
        unready(replace(NEW, stage=Stage.RUNNING)), Ready(), None, Stage.RUNNING, [],
    ),
    "one more has a key while awaited": (AWAITED, Ready(), AFTER_1, Stage.RUNNING, []),
    "one more has a key while open": (at(Phase.OPEN), Ready(), OPEN_1, Stage.RUNNING, []),
    "one more has a key after the end": (
        at(Phase.PUBLISHED, settled=True, stage=Stage.ENDED), Ready(), AFTER_1, Stage.ENDED, [],
    ),
    "enough have keys after a failure": (at(Phase.FAILED), Ready(), (1, 2, Phase.OPEN), Stage.RUNNING, [Opened]),
    "new key": (unready(at(Phase.OPEN, "a")), EpochChanged(), (1, 1, Phase.FAILED), Stage.RUNNING, [Failed]),
    "new key while awaited": (unready(AWAITED), EpochChanged(), AFTER_1, Stage.RUNNING, []),
    "failed while too few have keys": (
        unready(at(Phase.OPEN, "a")), FoldBroke(1, 1, "a"), OPEN_1, Stage.RUNNING, [],
    ),
    "a part rotted": (
        at(Phase.FOLDING, "a", "b"), FoldBroke(1, 1, "a"), (1, 2, Phase.OPEN), Stage.RUNNING, [Failed, Opened],
    ),
    "failed under another list": (
        at(Phase.FOLDING, "a", "b", burnt=True), FoldBroke(1, 1, "a"), OPEN_2, Stage.RUNNING, [Failed, Opened],
    ),
    "another list after a failure": (at(Phase.FAILED, burnt=True), Ready(), OPEN_2, Stage.RUNNING, [Opened]),
    "published under another list": (
        at(Phase.PUBLISHED, "a", "b", burnt=True), Settled(1, 1), OPEN_2, Stage.RUNNING, [Concluded, Opened],
    ),
    "the last number is burnt": (
        at(Phase.FOLDING, "a", "b", number=2, burnt=True), FoldBroke(2, 1, "a"), (2, 1, Phase.FAILED), Stage.ENDED,
        [Failed, StageChanged, Ended],
    ),
    "a holder was removed while open": (
        at(Phase.OPEN, "a", burnt=True), RosterChanged(frozenset("t")), OPEN_2, Stage.RUNNING, [Failed, Opened],
    ),
    "a holder was removed while awaited": (
        replace(AWAITED, burnt=True), RosterChanged(frozenset("t")), AFTER_1, Stage.RUNNING, [],
    ),
    "a holder was added while open": (
        at(Phase.OPEN, "a", burnt=True), RosterChanged(frozenset()), OPEN_1, Stage.RUNNING, [],
    ),
    "a roster that fewer keys are enough for": (
        at(Phase.FAILED, burnt=True), RosterChanged(frozenset()), OPEN_2, Stage.RUNNING, [Opened],
    ),
    "a rejected sum stays": (
        replace(at(Phase.OPEN, number=2), sum=Sum(1, 1, SITES)), GaveUp(1, 1), OPEN_2, Stage.RUNNING, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDGES)
def test_edge(name):
    state, event, expected_round, stage, kinds = EDGES[name]
    after, actions = step(state, event, 1060)
    got = None if after.round is None else (after.round.number, after.round.attempt, after.round.phase)
    assert (got, after.stage, [type(action) for action in actions]) == (expected_round, stage, kinds)


def test_a_round_under_shared_keys_is_settled_as_soon_as_it_is_published():
    shared = replace(at(Phase.FOLDING, "a", "b", stage=Stage.PAUSED), terms=replace(TERMS, splits=False))
    after, (published,) = step(shared, Folded(1, 1), 1060)
    assert after.round.settled
    assert published.round.settled


def test_a_new_attempt_goes_by_the_newest_list_and_its_number_is_tried_again():
    state, _ = step(at(Phase.FAILED, burnt=True), Ready(), 1000)
    state, _ = step(state, Tick(), 10**4)
    assert (state.round.number, state.round.attempt) == (2, 2)


def test_the_end_has_the_number_after_a_burnt_one():
    *_, end = step(at(Phase.OPEN, burnt=True), Stopped(), 1050)[1]
    assert end == Ended(2, 1)


_numbers = (st.integers(1, 3), st.integers(1, 3))
_events = st.one_of(
    st.sampled_from([Started(), Tick(), Stopped(), Paused(), Resumed(), EpochChanged(), Ready()]),
    st.builds(RosterChanged, st.frozensets(st.sampled_from("abcht"), max_size=2)),
    st.builds(Completed, *_numbers, st.sampled_from("abc")),
    *(st.builds(kind, *_numbers) for kind in (FoldBegan, Folded, Settled, Skipped, GaveUp)),
    st.builds(FoldBroke, *_numbers, st.sampled_from("abc")),
)
_now_and_then = st.sampled_from([False, False, False, True])
_here = st.tuples(_events, st.floats(0, 60), st.booleans() | st.just(True), _now_and_then, st.integers(0, 3))


def _event(state, drawn, pick):
    """Return what brings the newest attempt on, two times out of three, or what was drawn."""
    if pick > 1:
        return drawn
    if state.round is None:
        return Started()
    here = (state.round.number, state.round.attempt)
    return {
        Phase.OPEN: Completed(*here, min(SITES - state.round.complete, default="a")),
        Phase.CLOSED: FoldBegan(*here),
        Phase.FOLDING: Folded(*here),
        Phase.PUBLISHED: Settled(*here) if pick else drawn,
    }.get(state.round.phase, drawn)


@given(st.lists(_here, max_size=80))
def test_promises_to_holders_hold_whatever_happens(history):
    state, now = NEW, 1000.0
    published: dict[int, int] = {}
    concluded: set[int] = set()
    lists: dict[int, int] = {}  # number -> generation of the list of holders that its attempts are under
    generation = 0
    last = None
    for drawn, delay, ready, burns, pick in history:
        now += delay
        event = _event(state, drawn, pick)
        if burns:  # the next load compares the newest roster's list with that of the newest attempt
            event, generation = RosterChanged(frozenset("t")), generation + 1
        burnt = state.round is not None and lists.get(state.round.number, generation) != generation
        state = replace(state, ready=ready and not isinstance(event, EpochChanged), burnt=burnt)
        before, (state, actions) = state, step(state, event, now)
        for action in actions:
            assert last is None, "something comes after the end"
            match action:
                case Opened(round_):
                    assert before.ready
                    assert published.keys() <= concluded, "one opened while holders are awaited"
                    assert lists.setdefault(round_.number, generation) == generation
                    assert round_.number not in published
                case Published(round_):
                    assert round_.number not in published, "two sums of a number"
                    published[round_.number] = round_.attempt
                case Concluded(round_):
                    assert published[round_.number] == round_.attempt
                    assert isinstance(event, Settled | Skipped)
                    concluded.add(round_.number)
                case Ended(number):
                    assert published.keys() <= concluded, "it ended while holders are awaited"
                    assert number not in published
                    last = action
    assert len(published) <= TERMS.rounds
    waits = state.round is not None and state.round.phase in (Phase.CLOSED, Phase.FOLDING)
    waits = waits or not published.keys() <= concluded
    assert (last is not None) == (state.stage is Stage.ENDED and not waits)
