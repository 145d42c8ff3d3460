"""Rounds that live with absences: drawn sites, pauses, late submissions, federations side by side."""

import json

import pytest
from click.testing import CliRunner

from he_agg.documents.draw import draw, invited_sites, last_counted
from he_agg.documents.record import NO_RECORD
from he_agg.errors import InputError, ProtocolError, Reason
from he_agg.ids import RoundId
from service.domain import events
from service.operator import federation, operations
from tests.support.peers import expected_sum, make_plan, prepare, read_receipt, read_sum, take_end
from tests.support.simulated import SimulatedFederation

SITES = [f"site-{i}" for i in range(8)]


@pytest.fixture
def drawn(tmp_path):
    plan = make_plan("f", max_sites=8, deadline_s=100, sample_percent=50)
    inside = SimulatedFederation(tmp_path / "data", plan, SITES)
    yield inside
    inside.end()


def test_a_round_of_drawn_sites(drawn):
    """Whoever has roster, plan and records draws the same sites, also for the attempts after the first."""
    roster, counted = drawn.members.roster, NO_RECORD
    for number, attempt in ((1, 1), (1, 2), (2, 1), (3, 1)):
        round_id = RoundId("f", number, attempt)
        with drawn.aggregator.store.read() as tx:
            invited = tx.invited(round_id)
        assert invited == draw(set(SITES), 4, round_id, roster.body_digest, counted)
        for i, site in enumerate(SITES):
            if attempt == number == 1:
                break
            if site in invited:
                drawn.submit(site, i, str(round_id))
            else:
                with pytest.raises(ProtocolError) as caught:
                    drawn.submit(site, i, str(round_id))
                assert caught.value.reason is Reason.NOT_INVITED
        if attempt == number == 1:
            drawn.clock.now += 101
            drawn.aggregator.conductor.tick_all()
        else:
            drawn.fold_one(str(round_id))
        record = drawn.record(str(round_id))
        assert record.members.keys() | record.excluded.keys() == invited
        assert invited_sites(drawn.plan.public, roster.body, record.roster, round_id, counted) == invited
        counted = last_counted(record, counted)
        assert (counted == NO_RECORD) == (record.outcome == "failed")
    (shown,) = operations.show(drawn.aggregator.store, drawn.aggregator.settings, "f")
    assert shown["sample_percent"] == 50


def stage_of(inside):
    (shown,) = operations.show(inside.aggregator.store, inside.aggregator.settings, "f")
    return shown["stage"]


def test_the_deadline_stands_still_in_a_pause(inside):
    store, conductor = inside.aggregator.store, inside.aggregator.conductor
    late = inside.submit("a", 1, "f.1.1", complete=False)
    deadline = inside.row("f.1.1").deadline_at
    operations.pause(store, conductor, "f")
    operations.pause(store, conductor, "f")
    assert stage_of(inside) == "paused"
    inside.clock.now += 5000
    inside.aggregator.conductor.tick_all()
    assert inside.row("f.1.1").phase == "open"
    # What is under way may be finished.
    assert read_receipt(take_end(inside.aggregator, "f", "a", late).encode()).site == "a"
    inside.submit("b", 2, "f.1.1")
    with store.write() as tx:
        inside.aggregator.conductor.apply_in(tx, "f", events.Resumed())
    assert 4999 <= inside.row("f.1.1").deadline_at - deadline <= 5001
    inside.clock.now = inside.row("f.1.1").deadline_at
    inside.aggregator.conductor.tick_all()
    assert inside.row("f.1.1").phase == "closed"
    operations.resume(store, conductor, "f")
    assert stage_of(inside) == "running"


def test_no_round_opens_in_a_pause(inside):
    store, conductor = inside.aggregator.store, inside.aggregator.conductor
    operations.pause(store, conductor, "f")
    for i, site in enumerate("abc"):
        inside.submit(site, i, "f.1.1")
    inside.fold_one("f.1.1")
    assert inside.record("f.1.1").outcome == "published"
    assert inside.row("f.2.1") is None
    operations.resume(store, conductor, "f")
    assert inside.row("f.2.1").phase == "open"


def test_what_has_not_begun_or_has_ended_is_not_paused(inside):
    operations.end(inside.aggregator.store, inside.aggregator.conductor, "f")
    for act in (operations.pause, operations.resume):
        with pytest.raises(InputError, match="it is ended"):
            act(inside.aggregator.store, inside.aggregator.conductor, "f")


def test_sites_are_told_of_the_end_once_the_last_sum_is_there(inside):
    """Else one that was away would stop before that."""

    def told():
        with inside.aggregator.store.read() as tx:
            state = inside.aggregator.states.of(tx, tx.federation("f")).body
        return state.stage, state.open, state.index

    for i, site in enumerate("abc"):
        inside.submit(site, i, "f.1.1")
    assert told() == ("running", None, 0)
    operations.end(inside.aggregator.store, inside.aggregator.conductor, "f")
    assert (stage_of(inside), told()) == ("ended", ("running", None, 0))
    inside.fold_one("f.1.1")
    assert told() == ("ended", None, 2)  # the sum, and the end
    operations.end(inside.aggregator.store, inside.aggregator.conductor, "f")
    assert told() == ("ended", None, 2)


def test_sites_are_told_of_a_pause(make_world):
    world = make_world()
    round_id, data_dir = world.round_id, str(world.server.data_dir)
    result = CliRunner().invoke(federation.federation_pause, [world.name, "--data-dir", data_dir, "--json"])
    assert json.loads(result.stdout)["stage"] == "paused"
    current = world.peer().current(wait=1)
    assert (current["stage"], current["round_id"]) == ("paused", None)
    assert CliRunner().invoke(federation.federation_resume, [world.name, "--data-dir", data_dir]).exit_code == 0
    assert world.peer().current(wait=5)["round_id"] == round_id


def test_federations_side_by_side(make_world):
    worlds = [make_world("ab"), make_world("ab"), make_world("abc")]
    prepared = {}
    for n, world in enumerate(worlds):
        for i, site in enumerate(world.sites):
            prepared[n, site] = prepare(world.plan, world.round_id, site, 10 * n + i)
    ids = [world.round_id for world in worlds]
    for number in range(3):  # interleaved
        for (n, site), submission in prepared.items():
            answer = worlds[n].peer(site).put(submission, number, submission.parts[number])
            assert answer.status_code == (204 if number < 2 else 200)
    for (n, _), submission in prepared.items():
        stranger = worlds[(n + 1) % 3].peer("a")
        assert stranger.status(submission).status_code == 404
    for n, world in enumerate(worlds):
        record = world.peer().record(ids[n], wait=10).json()["record"]["body"]
        mine = {site: p for (m, site), p in prepared.items() if m == n}
        assert record["members"] == {site: p.id for site, p in mine.items()}
        got = read_sum(world.plan, world.peer().sum_from(ids[n]).content)
        for one, expected in zip(got, expected_sum(world.plan, list(mine.values())), strict=True):
            assert (one == expected).all()
