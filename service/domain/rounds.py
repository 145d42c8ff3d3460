"""The life of a round, as a pure function: (state, event, now) -> (state, actions). No store, no clock, no files.

::

     federation started, or               all invited complete, or
     the round before published           deadline with >= min_sites            the whole sum is durable
    ────────────────────────────> OPEN ─────────────────────────────> CLOSED ──> FOLDING ──────────────> PUBLISHED
              deadline with fewer, │                                     │          │                        │
              federation ended,    │                                     └────┬─────┘                        │
              new group key, or an │                     a stored part is not │                              │
              invited site removed ▼                     what was received    ▼                              ▼
                                 FAILED <─────────────────────────────────────┘          once it is settled:
                                   │                                                     next number, attempt 1: OPEN
                                   └──> same number, next attempt: OPEN                  after plan.rounds: the end
                                        its list of holders is another: next number

A new group key and a new roster hold at once for rounds that open. An open round that they touch fails, and its next
attempt opens under the new ones; a closed one is finished under those that it opened under.

Where one-time keys are split among holders, a published round is *awaited* until it is *settled*: so many holders have
answered that the sum opens, or the operator has skipped it. Nothing opens before, and the federation does not end. Nor
does anything open while too few holders have a sharing key of the epoch; it does as soon as there are enough. Each
number has one list of holders for all its attempts: if an attempt fails and the newest roster has another list, the
number is burnt, and the next one opens.

The operator may give up a published sum that its sites have rejected, as long as nobody has gone on from it: the open
round after it fails, and another attempt at its own number opens, for the members of that sum, all of them or none.
Where keys are split he cannot: holders answer for one record of a number, and never for another.

While a federation is paused its deadline stands still and no round opens; an open one goes on taking what is under way,
and a closed one gets its sum. Resuming moves the deadline by the length of the pause, or opens the round that is due.

The end is a record as well, the last one, under the id of what would have opened next. It comes with the last sum, or
when the operator ends the federation; if a closed set still gets its sum, since its sites hold receipts and wait for
it, it comes with that, and if holders are still awaited, when they are not any more.

Closing is the one moment that decides who is in: from CLOSED on, the set is immutable and the sum is a function of
it. Time passes before anything else happens: an event that comes after the deadline finds the round closed, however
late somebody looked at the clock. Whoever persists the actions does so in the transaction that read the state.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import replace

from he_agg.documents.draw import draw, drawn_number, members_digest
from he_agg.ids import RoundId
from service.domain.events import (
    Accepted,
    Action,
    Closed,
    Completed,
    Concluded,
    Ended,
    EpochChanged,
    Event,
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
)

__all__ = ["exclusions", "step"]


def step(state: Federation, event: Event, now: float) -> tuple[Federation, list[Action]]:
    """Let time pass, then let `event` happen.

    Args:
        event: what happens. An event about another attempt than the newest changes nothing.
        now: Units: seconds since 1970, UTC.

    Returns:
        The state afterwards, and what has to be written down in the same transaction, in order.
    """
    state, actions = _pass_time(state, now)
    state, more = _happen(state, event, now)
    return state, actions + more


def exclusions(round_: Round, begun: Set[str], outcome: Failed | Published) -> dict[str, str]:
    """Tell why each invited site that is not in the sum is missing.

    Args:
        begun: sites that have begun to submit.
    """
    reasons = {site: "incomplete" if site in begun else "absent" for site in round_.invited - round_.complete}
    if isinstance(outcome, Failed):
        reasons |= dict.fromkeys(round_.complete, outcome.why)
        if outcome.corrupt is not None:
            reasons[outcome.corrupt] = "part-corrupt"
    return reasons


def _pass_time(state: Federation, now: float) -> tuple[Federation, list[Action]]:
    current = state.round
    if state.stage is Stage.PAUSED:
        return state, []
    if current is None or current.phase is not Phase.OPEN or now < current.deadline_at:
        return state, []
    if len(current.complete) >= max(state.terms.min_sites, current.min_sites):
        return _close(state, current)
    return _fail(state, current, "round-failed", now)


def _happen(state: Federation, event: Event, now: float) -> tuple[Federation, list[Action]]:
    current = state.round
    match event:
        case Started() if state.stage is Stage.CREATED and len(state.sites) >= state.terms.min_sites:
            return _go_on(replace(state, stage=Stage.RUNNING), [StageChanged(Stage.RUNNING)], now)
        case Stopped() if state.stage is not Stage.ENDED:
            state = replace(state, stage=Stage.ENDED)
            more: list[Action] = []
            if current is not None and current.phase is Phase.OPEN:
                state, more = _fail(state, current, "federation-ended", now)
            elif _is_over(current):
                more = [_end(state)]
            return state, [StageChanged(Stage.ENDED), *more]
        case Paused() if state.stage is Stage.RUNNING:
            state = replace(state, stage=Stage.PAUSED, paused_at=int(now))
            return state, [StageChanged(Stage.PAUSED, int(now))]
        case Resumed() if state.stage is Stage.PAUSED:
            return _resume(state, now)
        case Completed(number, attempt, site) if current is not None and _is(current, number, attempt, Phase.OPEN):
            if site not in current.invited or site in current.complete:
                return state, []
            current = replace(current, complete=current.complete | {site})
            state = replace(state, round=current)
            accepted = Accepted(current, site)
            if current.complete != current.invited:
                return state, [accepted]
            state, closed = _close(state, current)
            return state, [accepted, *closed]
        case FoldBegan(number, attempt) if current is not None and _is(current, number, attempt, Phase.CLOSED):
            current = replace(current, phase=Phase.FOLDING)
            return replace(state, round=current), [Folding(current)]
        case Folded(number, attempt) if current is not None and _is(current, number, attempt, Phase.FOLDING):
            return _publish(state, current, now)
        case FoldBroke(number, attempt, site) if (
            current is not None
            and _is(current, number, attempt, Phase.CLOSED, Phase.FOLDING)
            and site in current.complete
        ):
            return _fail(state, current, "round-failed", now, corrupt=site)
        case Settled(number, attempt) | Skipped(number, attempt) if (
            current is not None and _is(current, number, attempt, Phase.PUBLISHED) and not current.settled
        ):
            current = replace(current, settled=True)
            return _go_on(replace(state, round=current), [Concluded(current)], now)
        case Ready() if state.stage is Stage.RUNNING and _is_over(current):
            return _go_on(state, [], now)
        case GaveUp(number, attempt) if (
            not state.terms.splits
            and current is not None
            and current.phase is Phase.OPEN
            and current.number == number + 1
            and state.stage in (Stage.RUNNING, Stage.PAUSED)
            and state.sum is not None
            and (state.sum.number, state.sum.attempt, state.sum.given_up) == (number, attempt, False)
        ):
            state = replace(state, sum=replace(state.sum, given_up=True))
            state, failed = _fail(state, current, "round-disputed", now, gives_up=(number, attempt))
            return state, [GivenUp(number, attempt), *failed]
        case EpochChanged() if current is not None and current.phase is Phase.OPEN:
            return _fail(state, current, "epoch-changed", now)
        case RosterChanged(removed) if current is not None and current.phase is Phase.OPEN:
            touched = removed & (current.invited | current.holders)
            return _fail(state, current, "roster-changed", now) if touched else (state, [])
        case RosterChanged() if state.stage is Stage.RUNNING and _is_over(current):
            return _go_on(state, [], now)  # another list of holders may be one that enough sharing keys are there for
        case _:
            return state, []


def _is(current: Round, number: int, attempt: int, *phases: Phase) -> bool:
    return (current.number, current.attempt) == (number, attempt) and current.phase in phases


def _open(state: Federation, number: int, attempt: int, now: float) -> tuple[Federation, list[Action]]:
    deadline_at = math.ceil(now + state.terms.deadline_s)  # never earlier than promised
    least = state.terms.min_sites
    if state.sum is not None and state.sum.is_tried_again(number):
        invited = state.sites & state.sum.members
        least = state.sum.least(number, invited, least)
    else:
        many = drawn_number(len(state.sites), state.terms.sample_percent, least)
        invited = draw(state.sites, many, RoundId(state.name, number, attempt), state.roster, state.counted)
    opened = Round(number, attempt, Phase.OPEN, int(now), deadline_at, invited, min_sites=least)
    return replace(state, round=opened, burnt=False), [Opened(opened)]


def _resume(state: Federation, now: float) -> tuple[Federation, list[Action]]:
    current, rested = state.round, max(0, math.ceil(now - (state.paused_at or now)))
    state = replace(state, stage=Stage.RUNNING, paused_at=None)
    actions: list[Action] = [StageChanged(Stage.RUNNING)]
    if current is not None and current.phase is Phase.OPEN:
        current = replace(current, deadline_at=current.deadline_at + rested)
        return replace(state, round=current), [*actions, Extended(current)]
    return _go_on(state, actions, now) if _is_over(current) else (state, actions)


def _close(state: Federation, current: Round) -> tuple[Federation, list[Action]]:
    closed = replace(current, phase=Phase.CLOSED)
    return replace(state, round=closed), [Closed(closed)]


def _publish(state: Federation, current: Round, now: float) -> tuple[Federation, list[Action]]:
    published = replace(current, phase=Phase.PUBLISHED, settled=not state.terms.splits)
    state = replace(state, round=published, sum=Sum(current.number, current.attempt, current.complete))
    if state.terms.sample_percent < 100:
        state = replace(state, counted=members_digest({site: state.submitted[site] for site in current.complete}))
    actions: list[Action] = [Published(published)]
    return _go_on(state, actions, now) if published.settled else (state, actions)


def _fail(
    state: Federation,
    current: Round,
    why: str,
    now: float,
    corrupt: str | None = None,
    gives_up: tuple[int, int] | None = None,
) -> tuple[Federation, list[Action]]:
    failed = replace(current, phase=Phase.FAILED)
    state = replace(state, round=failed)
    actions: list[Action] = [Failed(failed, why, corrupt, gives_up)]
    return _go_on(state, actions, now)


def _is_over(current: Round | None) -> bool:
    """Tell whether nothing is open, closed, being folded or awaited."""
    return current is None or current.phase is Phase.FAILED or (current.phase is Phase.PUBLISHED and current.settled)


def _go_on(state: Federation, actions: list[Action], now: float) -> tuple[Federation, list[Action]]:
    """Let follow what comes next, where nothing is under way."""
    number, attempt = _next(state)
    if number > state.terms.rounds and state.stage is not Stage.ENDED:
        state, actions = replace(state, stage=Stage.ENDED), [*actions, StageChanged(Stage.ENDED)]
    if state.stage is Stage.ENDED:
        return state, [*actions, _end(state)]
    if state.stage is Stage.PAUSED or not state.ready:
        return state, actions
    state, opened = _open(state, number, attempt, now)
    return state, actions + opened


def _next(state: Federation) -> tuple[int, int]:
    """Return number and attempt of what opens next, while nothing is under way."""
    current, before = state.round, state.sum
    if current is None:
        return 1, 1
    if current.phase is Phase.PUBLISHED or state.burnt:
        return current.number + 1, state.later + 1
    if before is not None and before.given_up and current.number == before.number + 1:
        return before.number, before.attempt + 1
    return current.number, current.attempt + 1


def _end(state: Federation) -> Ended:
    return Ended(*_next(state))
