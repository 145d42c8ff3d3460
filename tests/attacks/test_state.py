"""Lies about where a federation stands: unsigned ones decide nothing, signed ones end nothing in silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from he_agg import HeAggError, Reason
from he_agg.documents.state import FederationState
from tests.attacks.malicious import Exchange, Lies
from tests.support.real import SITES

A, B, C = SITES


def rewritten(change: Callable[[bytes], bytes]) -> Lies:
    """Alter every state on its way, without the aggregator's key."""

    def answer(exchange: Exchange, status: int, body: bytes) -> tuple[int, bytes]:
        if not exchange.path.endswith("/state"):
            return status, body
        changed = change(body)
        assert changed != body
        return status, changed

    return Lies(answer=answer)


def closed(body: bytes) -> bytes:
    before, _, rest = body.partition(b'"open":')
    return before + b'"open":null' + rest[rest.index(b"}") + 1 :]


UNSIGNED = {
    "ended": lambda body: closed(body).replace(b'"running"', b'"ended"'),
    "paused": lambda body: closed(body).replace(b'"running"', b'"paused"'),
    "waiting": closed,
    "not invited": lambda body: body.replace(f'"{A}",'.encode(), b""),
    "ended, by a doubled key": lambda body: body.replace(b'"stage":', b'"stage":"ended","stage":'),
    "ended, by a doubled document": lambda body: b'{"body":{"stage":"ended"},' + body[1:],
    "more time": lambda body: body.replace(b'"deadline_at":', b'"deadline_at":1'),
    "words of an older aggregator": lambda body: b'{"state":"ended"}',
}


@pytest.mark.parametrize("lie", UNSIGNED)
def test_an_unsigned_state_decides_nothing(world, lie):
    """It is an error and a line in the security log; with the truth, the same site goes on."""
    site = world.open_sites[A]
    world.liar.lies = rewritten(UNSIGNED[lie])
    for ask in (lambda: next(site.rounds(), None), site.current, site.status, site.fetch):
        with pytest.raises(HeAggError) as caught:
            ask()
        assert caught.value.reason in (Reason.BAD_SIGNATURE, Reason.BAD_ANSWER)
    assert (world.directory(A) / "security.log").read_text().count('"state-rejected"') == 4
    assert site.notices == ()
    world.liar.lies = Lies()
    world.assert_honest(A, world.submit(*SITES))


def test_a_pause_without_end_is_told_of(world):
    """The aggregator may refuse service; the site says so, and waits no longer than its own setting."""
    site = world.open(A, round_s=1.5)
    world.liar.lies = Lies(state=lambda state: replace(state, stage="paused", open=None))
    with pytest.raises(HeAggError, match="was invited to no round within") as caught:
        next(site.rounds())
    assert caught.value.reason is Reason.NOT_INVITED
    assert "paused" in [notice.topic for notice in site.notices]
    world.liar.lies = Lies()
    world.assert_honest(A, world.submit(*SITES))


@pytest.mark.parametrize("invited", [(B, C), (A, B)], ids=["without this site", "without another"])
def test_an_invitation_of_other_sites_than_all_is_refused(world, invited):
    """Where none are drawn, a state that leaves a site of the roster out is no state: every site sees it at once."""
    site = world.open_sites[A]
    world.liar.lies = Lies(state=lambda state: replace(state, open=state.open and replace(state.open, invited=invited)))
    for ask in (site.current, lambda: next(site.rounds())):
        with pytest.raises(HeAggError, match="invited sites: expected those of a roster"):
            ask()
    world.liar.lies = Lies()
    world.assert_honest(A, world.submit(*SITES))


def test_no_deadline_is_longer_than_the_plans(world):
    def later(state: FederationState) -> FederationState:
        return replace(state, open=state.open and replace(state.open, deadline_at=2**40))

    world.liar.lies = Lies(state=later)
    round = world.open_sites[A].current()
    assert round._opened.closes_at <= time.monotonic() + world.plan.public.deadline_s


def test_an_older_state_is_refused_and_the_newest_sum_is_by_the_records(world):
    """`fetch` returned round 1 as the newest, although the site's own chain had more."""
    kept: list[bytes] = []

    def keep(exchange: Exchange, status: int, body: bytes) -> tuple[int, bytes]:
        if exchange.path.endswith("/state"):
            kept.append(body)
        return status, body

    world.liar.lies = Lies(answer=keep)
    for number in (1, 2):
        round_id = world.submit(*SITES, number=number)
        for name in SITES:
            world.fetch(name, round_id)
    site: Any = world.open_sites[A]
    assert site.last_published() == round_id
    assert site.fetch().n_sites == 3
    world.liar.lies = rewritten(lambda body: kept[0])
    for ask in (site.fetch, site.last_published, site.status):
        with pytest.raises(HeAggError) as caught:
            ask()
        assert caught.value.reason is Reason.CHAIN_MISMATCH
    assert '"number of records"' in (world.directory(A) / "security.log").read_text()
