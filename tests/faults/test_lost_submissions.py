"""Power cuts at a site, at every fsync of a round: what has left it is on its disk, whatever else is lost.

* What has left is in its ledger, and the same update goes on with the very same bytes: never a second encryption.
* Once its manifest has left, all of the submission is there: it goes on without the update.
* Once it has a mean, it knows which sum it has opened.
* Whatever was lost, the sum is exact: sites send zeros and a single 1.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from client_sdk._disk import lines
from client_sdk._protocol import encrypt as _encrypt
from client_sdk._protocol import submit as _submit
from client_sdk._protocol import verbs as _flows
from he_agg import Plan
from he_agg.host import files
from tests.faults.power import power_cuts
from tests.support.federation import plan_of
from tests.support.flows import N_VALUES, OPEN, ROUND, FakeAggregator, World, assert_mean_of, session_for, update_of

CUTS = [
    *(("hybrid", streamed, how) for streamed in (True, False) for how in ("none", "some")),
    ("ckks", False, "some"),
    *(pytest.param("hybrid", streamed, how, marks=pytest.mark.slow) for streamed in (1, 0) for how in ("all", "torn")),
    *(pytest.param("ckks", False, how, marks=pytest.mark.slow) for how in ("all", "none", "torn")),
]
UPDATES = [update_of(i) for i in range(3)]


@cache
def plan(codec: str) -> Plan:
    """`hybrid` can begin to send while it encrypts, `ckks` makes everything first."""
    return plan_of(N_VALUES, codec=codec, part_bytes=2**16, weight_cap=10)


@cache
def of_the_others(codec: str) -> FakeAggregator:
    aggregator = FakeAggregator(plan(codec))
    aggregator.others_submit()
    return aggregator


@pytest.mark.parametrize(("codec", "streamed", "how"), CUTS)
def test_nothing_is_lost_that_has_left(monkeypatch, codec, streamed, how):
    lives: list[FakeAggregator] = []
    finished: list[FakeAggregator] = []
    ends = set()
    monkeypatch.setattr(_submit, "_RUN_BYTES", 1)  # part by part
    if streamed:
        monkeypatch.setattr(_encrypt, "_SHORT_BYTES", 0)

    def live(home: Path) -> None:
        lives.append(aggregator := FakeAggregator(plan(codec)))
        others = of_the_others(codec)
        for site, signed in others.manifests.items():
            aggregator.replace(site, signed, list(others.parts[signed.digest].values()))
        World(aggregator).run(_flows.aggregate(session_for(home, plan(codec)), OPEN, UPDATES[0]))
        finished.append(aggregator)

    def before(home: Path) -> None:
        session_for(home, plan(codec))

    for home in power_cuts(monkeypatch, (lines, files), how, before, live):
        aggregator, session = lives[-1], session_for(home, plan(codec))
        entry, sent = session.spool.entry(ROUND), session.ledger.sent(ROUND)
        left, complete = dict(aggregator.uploads), "a" in aggregator.complete
        assert not left or (sent is not None and list(left) == [sent.upload]), "what has left is forgotten"
        stored = session.stored(entry)
        if complete and not len(session.chain):
            assert stored is not None, "a submission that has left is lost"
            assert stored.submission_id == aggregator.complete["a"]
            (parts,) = left.values()
            assert parts == {number: entry.part_path(number).read_bytes() for number in parts}
        if aggregator in finished:
            assert session.verdicts.opened(1) == ROUND, "it does not know what it has opened"
        ends.add((len(next(iter(left.values()), ())), complete, stored is not None, len(session.chain)))
        world = World(aggregator)
        if stored is not None and complete:
            mean = world.run(_flows.resume(session, OPEN))
        elif len(session.chain):
            mean = world.run(_flows.fetch(session, ROUND))
        else:
            mean = world.run(_flows.aggregate(session, OPEN, UPDATES[0]))
        assert_mean_of(mean, plan(codec), UPDATES)
        assert len(aggregator.uploads) == 1, "it was encrypted a second time"
    assert len(ends) > 3, "hardly anything was different"
