"""The state machine alone: a table of every edge of its diagram, and invariants under random events."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg.documents.draw import draw, members_digest
from he_agg.documents.record import NO_RECORD
from he_agg.ids import RoundId
from service.domain.events import (
    Accepted,
    Closed,
    Completed,
    Ended,
    EpochChanged,
    Extended,
    Failed,
    Federation,
    FoldBegan,
    FoldBroke,
    Folded,
    Folding,
    GaveUp,
    GivenUp,
    Opened,
    Paused,
    Phase,
    Published,
    Resumed,
    RosterChanged,
    Round,
    Stage,
    StageChanged,
    Started,
    Stopped,
    Sum,
    Terms,
    Tick,
)
from service.domain.rounds import exclusions, step

TERMS = Terms(min_sites=2, rounds=2, deadline_s=100)
SITES = frozenset("abc")


def at(phase, *complete, number=1, attempt=1, stage=Stage.RUNNING):
    settled = phase is Phase.PUBLISHED
    round_ = Round(number, attempt, phase, 1000, 1100, SITES, frozenset(complete), settled=settled)
    return Federation(TERMS, SITES, stage, round_)


def paused(phase, *complete, **more):
    return replace(at(phase, *complete, stage=Stage.PAUSED, **more), paused_at=1050)


def after_sum(state, given_up=False):
    return replace(state, sum=Sum(1, 1, SITES, given_up))


NEW = Federation(TERMS, SITES)
# (state, event, now, phase and attempt afterwards, stage afterwards, kinds of actions)
EDGES: dict[str, tuple] = {
    "start": (NEW, Started(), 1000, (1, 1, Phase.OPEN), Stage.RUNNING, [StageChanged, Opened]),
    "start with too few": (replace(NEW, sites=frozenset("a")), Started(), 1000, None, Stage.CREATED, []),
    "start again": (at(Phase.OPEN), Started(), 1001, (1, 1, Phase.OPEN), Stage.RUNNING, []),
    "start after the end": (replace(NEW, stage=Stage.ENDED), Started(), 1000, None, Stage.ENDED, []),
    "a rejected sum is given up": (
        after_sum(at(Phase.OPEN, "a", number=2)), GaveUp(1, 1), 1001, (1, 2, Phase.OPEN), Stage.RUNNING,
        [GivenUp, Failed, Opened],
    ),
    "given up at rest": (
        after_sum(paused(Phase.OPEN, number=2)), GaveUp(1, 1), 1060, (2, 1, Phase.FAILED), Stage.PAUSED,
        [GivenUp, Failed],
    ),
    "resumed after it was given up": (
        after_sum(paused(Phase.FAILED, number=2), given_up=True), Resumed(), 1060, (1, 2, Phase.OPEN), Stage.RUNNING,
        [StageChanged, Opened],
    ),
    "given up twice": (
        after_sum(at(Phase.OPEN, attempt=2), given_up=True), GaveUp(1, 1), 1001, (1, 2, Phase.OPEN), Stage.RUNNING, [],
    ),
    "tried again without success": (
        after_sum(at(Phase.OPEN, attempt=2), given_up=True), Tick(), 1100, (1, 3, Phase.OPEN), Stage.RUNNING,
        [Failed, Opened],
    ),
    "given up while the next is being folded": (
        after_sum(at(Phase.CLOSED, "a", "b", number=2)), GaveUp(1, 1), 1001, (2, 1, Phase.CLOSED), Stage.RUNNING, [],
    ),
    "given up when others have gone on": (
        after_sum(at(Phase.OPEN, number=2)), GaveUp(2, 1), 1001, (2, 1, Phase.OPEN), Stage.RUNNING, [],
    ),
    "another attempt than that of the sum is given up": (
        after_sum(at(Phase.OPEN, number=2)), GaveUp(1, 2), 1001, (2, 1, Phase.OPEN), Stage.RUNNING, [],
    ),
    "the next round after it was tried again": (
        replace(at(Phase.FOLDING, "a", "b", attempt=2), later=1), Folded(1, 2), 1150, (2, 2, Phase.OPEN),
        Stage.RUNNING, [Published, Opened],
    ),
    "nothing happens": (at(Phase.OPEN, "a"), Tick(), 1099.9, (1, 1, Phase.OPEN), Stage.RUNNING, []),
    "first completes": (at(Phase.OPEN), Completed(1, 1, "a"), 1001, (1, 1, Phase.OPEN), Stage.RUNNING, [Accepted]),
    "quorum is not all": (
        at(Phase.OPEN, "a"), Completed(1, 1, "b"), 1001, (1, 1, Phase.OPEN), Stage.RUNNING, [Accepted],
    ),
    "last completes": (
        at(Phase.OPEN, "a", "b"), Completed(1, 1, "c"), 1001, (1, 1, Phase.CLOSED), Stage.RUNNING, [Accepted, Closed],
    ),
    "completes twice": (at(Phase.OPEN, "a"), Completed(1, 1, "a"), 1001, (1, 1, Phase.OPEN), Stage.RUNNING, []),
    "a stranger completes": (at(Phase.OPEN), Completed(1, 1, "z"), 1001, (1, 1, Phase.OPEN), Stage.RUNNING, []),
    "completes another attempt": (
        at(Phase.OPEN, attempt=2), Completed(1, 1, "a"), 1001, (1, 2, Phase.OPEN), Stage.RUNNING, [],
    ),
    "completes when closed": (
        at(Phase.CLOSED, "a", "b"), Completed(1, 1, "c"), 1001, (1, 1, Phase.CLOSED), Stage.RUNNING, [],
    ),
    "deadline with quorum": (
        at(Phase.OPEN, "a", "b"), Tick(), 1100, (1, 1, Phase.CLOSED), Stage.RUNNING, [Closed],
    ),
    "deadline without quorum": (
        at(Phase.OPEN, "a"), Tick(), 1100, (1, 2, Phase.OPEN), Stage.RUNNING, [Failed, Opened],
    ),
    "completes after the deadline": (
        at(Phase.OPEN, "a", "b"), Completed(1, 1, "c"), 1100, (1, 1, Phase.CLOSED), Stage.RUNNING, [Closed],
    ),
    "completes after a deadline that failed": (
        at(Phase.OPEN, "a"), Completed(1, 1, "b"), 1100, (1, 2, Phase.OPEN), Stage.RUNNING, [Failed, Opened],
    ),
    "folding begins": (
        at(Phase.CLOSED, "a", "b"), FoldBegan(1, 1), 1200, (1, 1, Phase.FOLDING), Stage.RUNNING, [Folding],
    ),
    "folding begins again": (
        at(Phase.FOLDING, "a", "b"), FoldBegan(1, 1), 1200, (1, 1, Phase.FOLDING), Stage.RUNNING, [],
    ),
    "folded": (
        at(Phase.FOLDING, "a", "b"), Folded(1, 1), 1200, (2, 1, Phase.OPEN), Stage.RUNNING, [Published, Opened],
    ),
    "folded without having begun": (
        at(Phase.CLOSED, "a", "b"), Folded(1, 1), 1200, (1, 1, Phase.CLOSED), Stage.RUNNING, [],
    ),
    "folded last round": (
        at(Phase.FOLDING, "a", "b", number=2), Folded(2, 1), 1200, (2, 1, Phase.PUBLISHED), Stage.ENDED,
        [Published, StageChanged, Ended],
    ),
    "folded twice": (at(Phase.OPEN, number=2), Folded(1, 1), 1001, (2, 1, Phase.OPEN), Stage.RUNNING, []),
    "a part rotted": (
        at(Phase.FOLDING, "a", "b"), FoldBroke(1, 1, "b"), 1200, (1, 2, Phase.OPEN), Stage.RUNNING, [Failed, Opened],
    ),
    "stopped while open": (
        at(Phase.OPEN, "a", "b"), Stopped(), 1001, (1, 1, Phase.FAILED), Stage.ENDED, [StageChanged, Failed, Ended],
    ),
    "stopped while closed": (
        at(Phase.CLOSED, "a", "b"), Stopped(), 1200, (1, 1, Phase.CLOSED), Stage.ENDED, [StageChanged],
    ),
    "folded after the stop": (
        at(Phase.FOLDING, "a", "b", stage=Stage.ENDED), Folded(1, 1), 1200, (1, 1, Phase.PUBLISHED), Stage.ENDED,
        [Published, Ended],
    ),
    "stopped twice": (at(Phase.FAILED, stage=Stage.ENDED), Stopped(), 1200, (1, 1, Phase.FAILED), Stage.ENDED, []),
    "stopped before the start": (NEW, Stopped(), 1000, None, Stage.ENDED, [StageChanged, Ended]),
    "stopped between two rounds": (
        paused(Phase.PUBLISHED, "a", "b"), Stopped(), 1500, (1, 1, Phase.PUBLISHED), Stage.ENDED, [StageChanged, Ended],
    ),
    "broken after the stop": (
        at(Phase.FOLDING, "a", "b", stage=Stage.ENDED), FoldBroke(1, 1, "a"), 1200, (1, 1, Phase.FAILED), Stage.ENDED,
        [Failed, Ended],
    ),
    "paused": (at(Phase.OPEN, "a"), Paused(), 1001, (1, 1, Phase.OPEN), Stage.PAUSED, [StageChanged]),
    "paused twice": (paused(Phase.OPEN), Paused(), 1060, (1, 1, Phase.OPEN), Stage.PAUSED, []),
    "paused before the start": (NEW, Paused(), 1000, None, Stage.CREATED, []),
    "the deadline stands still": (paused(Phase.OPEN, "a"), Tick(), 1500, (1, 1, Phase.OPEN), Stage.PAUSED, []),
    "last completes in the pause": (
        paused(Phase.OPEN, "a", "b"), Completed(1, 1, "c"), 1500, (1, 1, Phase.CLOSED), Stage.PAUSED,
        [Accepted, Closed],
    ),
    "published in the pause": (
        paused(Phase.FOLDING, "a", "b"), Folded(1, 1), 1500, (1, 1, Phase.PUBLISHED), Stage.PAUSED, [Published],
    ),
    "broken in the pause": (
        paused(Phase.FOLDING, "a", "b"), FoldBroke(1, 1, "a"), 1500, (1, 1, Phase.FAILED), Stage.PAUSED, [Failed],
    ),
    "the last one published in the pause": (
        paused(Phase.FOLDING, "a", "b", number=2), Folded(2, 1), 1500, (2, 1, Phase.PUBLISHED), Stage.ENDED,
        [Published, StageChanged, Ended],
    ),
    "resumed while open": (
        paused(Phase.OPEN, "a"), Resumed(), 1500, (1, 1, Phase.OPEN), Stage.RUNNING, [StageChanged, Extended],
    ),
    "resumed while folding": (
        paused(Phase.FOLDING, "a"), Resumed(), 1500, (1, 1, Phase.FOLDING), Stage.RUNNING, [StageChanged],
    ),
    "resumed after a sum": (
        paused(Phase.PUBLISHED, "a", "b"), Resumed(), 1500, (2, 1, Phase.OPEN), Stage.RUNNING, [StageChanged, Opened],
    ),
    "resumed after a failure": (
        paused(Phase.FAILED, "a"), Resumed(), 1500, (1, 2, Phase.OPEN), Stage.RUNNING, [StageChanged, Opened],
    ),
    "resumed while running": (at(Phase.OPEN), Resumed(), 1001, (1, 1, Phase.OPEN), Stage.RUNNING, []),
    "new key while open": (
        at(Phase.OPEN, "a", "b"), EpochChanged(), 1001, (1, 2, Phase.OPEN), Stage.RUNNING, [Failed, Opened],
    ),
    "new key while closed": (
        at(Phase.CLOSED, "a", "b"), EpochChanged(), 1001, (1, 1, Phase.CLOSED), Stage.RUNNING, [],
    ),
    "new key while folding": (
        at(Phase.FOLDING, "a", "b"), EpochChanged(), 1001, (1, 1, Phase.FOLDING), Stage.RUNNING, [],
    ),
    "new key before the start": (NEW, EpochChanged(), 1001, None, Stage.CREATED, []),
    "new key in the pause": (
        paused(Phase.OPEN, "a"), EpochChanged(), 1060, (1, 1, Phase.FAILED), Stage.PAUSED, [Failed],
    ),
    "a site was removed while open": (
        at(Phase.OPEN, "a"), RosterChanged(frozenset("cz")), 1001, (1, 2, Phase.OPEN), Stage.RUNNING, [Failed, Opened],
    ),
    "a site that was not invited was removed": (
        at(Phase.OPEN, "a"), RosterChanged(frozenset("z")), 1001, (1, 1, Phase.OPEN), Stage.RUNNING, [],
    ),
    "a site was added": (
        at(Phase.OPEN, "a"), RosterChanged(frozenset()), 1001, (1, 1, Phase.OPEN), Stage.RUNNING, [],
    ),
    "a site was removed while folding": (
        at(Phase.FOLDING, "a", "b"), RosterChanged(frozenset("a")), 1001, (1, 1, Phase.FOLDING), Stage.RUNNING, [],
    ),
    "a site was removed before the start": (NEW, RosterChanged(frozenset("a")), 1001, None, Stage.CREATED, []),
    "stopped in the pause": (
        paused(Phase.OPEN, "a", "b"), Stopped(), 1500, (1, 1, Phase.FAILED), Stage.ENDED, [StageChanged, Failed, Ended],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDGES)
def test_edge(name):
    state, event, now, expected_round, stage, kinds = EDGES[name]
    after, actions = step(state, event, now)
    got = None if after.round is None else (after.round.number, after.round.attempt, after.round.phase)
    assert (got, after.stage, [type(action) for action in actions]) == (expected_round, stage, kinds)


@pytest.mark.parametrize(
    ("state", "event", "next_"),
    [
        (NEW, Stopped(), (1, 1)),
        (at(Phase.OPEN, "a"), Stopped(), (1, 2)),
        (at(Phase.FOLDING, "a", "b", number=2), Folded(2, 1), (3, 1)),
        (replace(at(Phase.FOLDING, "a", "b", number=1, stage=Stage.ENDED), later=2), Folded(1, 1), (2, 3)),
        (replace(paused(Phase.FAILED, number=2), sum=Sum(1, 1, SITES, given_up=True)), Stopped(), (1, 2)),
    ],
)
def test_the_end_has_the_id_of_what_would_have_opened_next(state, event, next_):
    *_, end = step(state, event, 1050)[1]
    assert end == Ended(*next_)


def test_the_next_round_invites_whoever_is_registered_then():
    state = replace(at(Phase.FOLDING, "a", "b"), sites=SITES | {"d"})
    after, _ = step(state, Folded(1, 1), 1200.5)
    assert after.round.invited == SITES | {"d"}
    assert (after.round.opened_at, after.round.deadline_at) == (1200, 1301)  # never shorter than deadline_s
    assert not after.round.complete


@pytest.mark.parametrize(
    ("event", "why"), [(EpochChanged(), "epoch-changed"), (RosterChanged(frozenset("b")), "roster-changed")]
)
def test_whoever_was_complete_under_the_old_terms_is_told_why_it_was_for_nothing(event, why):
    state = replace(at(Phase.OPEN, "a"), sites=frozenset("ac"))
    after, (failed, _) = step(state, event, 1001)
    assert isinstance(failed, Failed)
    assert exclusions(failed.round, {"a", "b"}, failed) == {"a": why, "b": "incomplete", "c": "absent"}
    assert after.round.invited == frozenset("ac")


def test_a_later_roster_asks_for_more_sites_but_never_for_fewer():
    opened = replace(at(Phase.OPEN, "a", "b").round, min_sites=3)
    less = Federation(TERMS, SITES, Stage.RUNNING, opened)
    assert [type(action) for action in step(less, Tick(), 1100)[1]] == [Failed, Opened]
    more = replace(at(Phase.OPEN, "a", "b"), terms=replace(TERMS, min_sites=3))
    assert [type(action) for action in step(more, Tick(), 1100)[1]] == [Failed, Opened]


def test_a_resumed_round_has_as_long_as_it_had_left():
    after, _ = step(paused(Phase.OPEN), Resumed(), 1500.5)
    assert after.round.deadline_at == 1100 + 451  # 50 s were left; never fewer than that
    assert step(after, Tick(), 1550.5)[0] == after


def test_a_percentage_of_the_sites_is_drawn_from_what_was_known_before():
    sites, terms = frozenset(f"site-{i}" for i in range(20)), replace(TERMS, sample_percent=50)
    state = Federation(terms, sites, name="f", roster="ab" * 32, counted=NO_RECORD)
    state, _ = step(state, Started(), 1000)
    invited = state.round.invited
    assert len(invited) == 10
    assert invited == draw(sites, 10, RoundId("f", 1, 1), "ab" * 32, NO_RECORD)
    failed, _ = step(state, Tick(), 10**6)
    assert failed.round.invited == draw(sites, 10, RoundId("f", 1, 2), "ab" * 32, NO_RECORD) != invited
    for site in sorted(invited):
        state, _ = step(state, Completed(1, 1, site), 1001)
    state, _ = step(state, FoldBegan(1, 1), 1002)
    state, _ = step(replace(state, submitted={site: f"id of {site}" for site in sites}), Folded(1, 1), 1003)
    counted = members_digest({site: f"id of {site}" for site in invited})
    assert state.round.invited == draw(sites, 10, RoundId("f", 2, 1), "ab" * 32, counted)


def test_who_was_in_a_sum_that_is_given_up_tries_it_again_and_nobody_else():
    sites, terms = frozenset(f"site-{i}" for i in range(20)), replace(TERMS, sample_percent=50)
    members = frozenset(f"site-{i}" for i in range(7))
    state = Federation(terms, sites, name="f", roster="ab" * 32, counted=NO_RECORD)
    opened = Round(2, 1, Phase.OPEN, 1000, 1100, sites)
    state = replace(state, stage=Stage.RUNNING, round=opened, sum=Sum(1, 1, members))
    state, _ = step(state, GaveUp(1, 1), 1001)
    assert (state.round.number, state.round.attempt, state.round.invited) == (1, 2, members)
    state, _ = step(replace(state, sites=sites - {"site-3"} | {"new"}), Tick(), 10**4)
    assert (state.round.number, state.round.attempt, state.round.invited) == (1, 3, members - {"site-3"})
    state, _ = step(state, Tick(), 10**5)
    assert (state.round.attempt, state.round.invited) == (4, members - {"site-3"})
    for site in sorted(state.round.invited)[1:]:
        state, _ = step(state, Completed(1, 4, site), 10**5)
    without_one, _ = step(state, Tick(), 10**6)
    assert (without_one.round.number, without_one.round.attempt) == (1, 5)
    state, _ = step(state, Completed(1, 4, min(state.round.invited)), 10**5)
    state, _ = step(replace(state, submitted=dict.fromkeys(sites, "id")), FoldBegan(1, 4), 10**5)
    state, _ = step(state, Folded(1, 4), 10**5)
    assert (state.round.number, len(state.round.invited)) == (2, 10)
    assert state.round.invited - members  # drawn of all again


def test_a_draw_never_invites_too_few():
    state = replace(NEW, terms=replace(TERMS, sample_percent=1))
    after, _ = step(state, Started(), 1000)
    assert len(after.round.invited) == TERMS.min_sites


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Published(at(Phase.PUBLISHED, "a").round), {"b": "incomplete", "c": "absent"}),
        (
            Failed(at(Phase.FAILED, "a").round, "round-failed"),
            {"a": "round-failed", "b": "incomplete", "c": "absent"},
        ),
        (
            Failed(at(Phase.FAILED, "a", "b").round, "round-failed", corrupt="a"),
            {"a": "part-corrupt", "b": "round-failed", "c": "absent"},
        ),
    ],
)
def test_whoever_is_not_in_is_named_with_a_reason(outcome, expected):
    assert exclusions(outcome.round, {"a", "b"}, outcome) == expected


_site = st.sampled_from("abcz")
_events = st.one_of(
    st.just(Started()),
    st.just(Tick()),
    st.just(Stopped()),
    st.just(Paused()),
    st.just(Resumed()),
    st.just(EpochChanged()),
    st.builds(RosterChanged, st.frozensets(st.sampled_from("abcz"), max_size=2)),
    st.builds(Completed, st.integers(1, 3), st.integers(1, 3), _site),
    st.builds(FoldBegan, st.integers(1, 3), st.integers(1, 3)),
    st.builds(Folded, st.integers(1, 3), st.integers(1, 3)),
    st.builds(FoldBroke, st.integers(1, 3), st.integers(1, 3), _site),
)


@given(st.lists(st.tuples(_events, st.floats(0, 120)), max_size=60))
def test_promises_hold_whatever_happens(history):
    state, now = NEW, 1000.0
    accepted: dict[tuple[int, int], set[str]] = {}
    ended: dict[tuple[int, int], Published | Failed] = {}
    opened: list[tuple[int, int]] = []
    last: Ended | None = None
    for event, delay in history:
        now += delay
        before = state
        state, actions = step(state, event, now)
        assert step(before, event, now) == (state, actions)
        for action in actions:
            assert last is None, "something comes after the end"
            if isinstance(action, Ended):
                last = action
            if isinstance(action, StageChanged | Ended):
                continue
            key = (action.round.number, action.round.attempt)
            if isinstance(action, Opened):
                opened.append(key)
            elif isinstance(action, Accepted):
                assert key not in ended
                assert action.site not in accepted.setdefault(key, set())
                accepted[key].add(action.site)
            elif isinstance(action, Published | Failed):
                assert key not in ended
                ended[key] = action
    assert opened == sorted(set(opened))
    pending = state.round is not None and state.round.phase in (Phase.CLOSED, Phase.FOLDING)
    assert (last is not None) == (state.stage is Stage.ENDED and not pending)
    if last is not None:
        assert (last.number, last.attempt) > max(opened, default=(0, 0))
        assert last.number <= TERMS.rounds + 1
    assert len([key for key, end in ended.items() if isinstance(end, Published)]) <= TERMS.rounds
    for key, end in ended.items():
        # A receipt is in the set, or the set was given up as a whole.
        assert end.round.complete == frozenset(accepted.get(key, set()))
        if isinstance(end, Published):
            assert len(end.round.complete) >= TERMS.min_sites
        else:
            assert exclusions(end.round, set(), end).keys() == end.round.invited
