"""Power cuts at a holder, at every fsync: what others have heard of is on its disk, whatever else is lost.

* Once the aggregator has a sharing key, the holder has it: nothing is sealed to a key that nobody can open with.
* Once it has an echo, the promise is in the journal: no other record of that number is answered.
* Afterwards the holder goes on, with the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from client_sdk._disk import lines
from client_sdk._protocol.session import MemberSession
from he_agg.errors import Reason, WireError
from he_agg.host import files
from he_agg.ids import RoundId
from tests.faults.power import power_cuts
from tests.support.holders import HeldFederation, HolderWorld, held_roster, holder_in, look, published, split_plan

PLAN = split_plan()
HOW = [pytest.param("all", marks=pytest.mark.slow), "none", "some", "torn"]


def pin(home: Path) -> None:
    (home / "trustee.roster.json").write_bytes(held_roster().encode())


@pytest.mark.parametrize("how", HOW)
def test_nobody_seals_to_a_key_that_was_lost(monkeypatch, how):
    aggregator = HeldFederation(PLAN)

    def live(home: Path) -> None:
        aggregator.sharing.clear()
        aggregator.stage = "created"
        look(holder_in(home, PLAN, "trustee"), aggregator)

    heard = []
    for home in power_cuts(monkeypatch, (lines, files), how, pin, live):
        before = dict(aggregator.sharing)
        session = holder_in(home, PLAN, "trustee")
        world = HolderWorld(aggregator, site="trustee")
        look(session, aggregator, world)
        (key,) = aggregator.sharing.values()
        assert session.sharing_keys.of(1) is not None
        assert session.sharing_keys.of(1).public == key.body.key, "the aggregator has a key that is lost"
        assert session.promises.begun
        assert 1 in session.holding.keyed
        heard.append(bool(before))
    assert heard[-1]
    assert not heard[0]


@pytest.mark.parametrize("how", HOW)
def test_no_promise_is_lost_that_anybody_has_heard_of(tmp_path, rng, monkeypatch, how):
    aggregator = HeldFederation(PLAN)
    holders = published(aggregator, rng, tmp_path)
    for name in ("a", "c"):
        look(holders[name], aggregator)
    said, key = dict(aggregator.said), holders["b"].sharing_keys.of(1)
    number, digest = aggregator.round_id, aggregator.chain[-1].digest
    first = holders["b"].spool.sharing_keys_path("test") / "1"

    def with_its_key(home: Path) -> None:
        session = holder_in(home, PLAN, "b")
        session.promises.begin(0)
        folder = session.spool.sharing_keys_path("test")
        folder.mkdir(mode=0o700)
        (folder / "1").write_bytes(first.read_bytes())
        (folder / "1").chmod(0o600)

    def live(home: Path) -> None:
        aggregator.said = dict(said)
        assert not look(holder_in(home, PLAN, "b"), aggregator)

    seen, heard = set(), []
    for home in power_cuts(monkeypatch, (lines, files), how, with_its_key, live):
        session = holder_in(home, PLAN, "b")
        assert session.sharing_keys.of(1).to_bytes() == key.to_bytes()
        heard.append("b" in aggregator.of("echoes"))
        if heard[-1]:
            promised = session.promises.of(number.number)
            assert promised is not None, "an echo was sent, and its promise is lost"
            assert promised.record == digest
            assert_nothing_else_is_promised(session, number)
        world = HolderWorld(aggregator, site="b")
        assert not look(session, aggregator, world), world.events
        assert "b" in aggregator.of("answers"), world.events
        seen.add((aggregator.of("echoes")["b"], aggregator.of("answers")["b"]))
    assert True in heard
    assert False in heard
    assert len(seen) == 1, "an answer has changed"


def assert_nothing_else_is_promised(session: MemberSession, round_id: RoundId) -> None:
    for attempt in (1, 2):
        other = RoundId(round_id.federation, round_id.number, attempt)
        with pytest.raises(WireError) as caught:
            session.promises.make(other, "ab" * 32)
        assert caught.value.reason == Reason.CHAIN_MISMATCH
