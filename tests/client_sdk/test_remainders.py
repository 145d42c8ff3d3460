"""What a power cut leaves of a submission, and what an older spool brings back, is no submission of this site."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from client_sdk import Site
from client_sdk._disk.stored import Begun, Stored
from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.outgoing import Made
from client_sdk._protocol.session import Session
from client_sdk._protocol.submit import deliver
from client_sdk.site import Round
from he_agg.errors import InputError, Reason
from tests.support.flows import (
    OPEN,
    ROUND,
    FakeAggregator,
    KilledError,
    World,
    assert_mean_of,
    session_for,
    small_plan,
    update_of,
)

PLAN = small_plan()
ALL = [update_of(i) for i in range(3)]


@pytest.fixture
def aggregator() -> FakeAggregator:
    return FakeAggregator(PLAN)


def told(session: Session) -> tuple[list[str], bool]:
    """What a site says of itself: its pending rounds, and whether it has submitted to this one."""
    site = Site(session, None)
    return site.pending(), Round(site, OPEN).submitted


def killed_before_sending(session: Session, hot: int = 0) -> Path:
    """A submission that is whole, and has never left."""
    world = World(FakeAggregator(PLAN))

    def kill(number: int) -> None:
        if (session.spool.entry(ROUND).path / "submission.json").exists():
            raise KilledError

    world.before = kill
    with pytest.raises(KilledError):
        world.run(_flows.submit(session, OPEN, update_of(hot)))
    assert session.ledger.sent(ROUND) is None
    return session.spool.entry(ROUND).path


def submitted_elsewhere(tmp_path: Path, aggregator: FakeAggregator) -> None:
    World(aggregator).run(_flows.submit(session_for(tmp_path / "elsewhere", PLAN), OPEN, update_of()))
    aggregator.others_submit()


def test_remainder_is_neither_pending_nor_submitted(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    (killed_before_sending(session) / "part-00001").unlink()
    assert told(session) == ([], False)
    site = Site(session, None)
    with pytest.raises(InputError, match="expected an update, or a submission to finish, got neither"):
        Round(site, OPEN).take_part()
    submitted_elsewhere(tmp_path, aggregator)
    outcome = World(aggregator).run(_flows.take_part(session, OPEN, update_of(weight=0)))
    assert (outcome.counted, outcome.reason, outcome.why) == (
        False,
        None,
        f"round {ROUND}: this site has no samples in it",
    )
    assert_mean_of(outcome.mean, PLAN, ALL)


def test_remainder_beside_what_was_begun_is_none_either(tmp_path, aggregator):
    """It was sent in part: the update is needed again."""
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    place = session.spool.entry(ROUND).path
    assert told(session) == ([str(ROUND)], True)
    (place / "part-00001").unlink()
    assert told(session) == ([str(ROUND)], True)  # that is damage
    (place / "begun").write_bytes(b"")
    assert told(session) == ([str(ROUND)], True)
    (place / "begun").write_bytes(Begun("12" * 16, "34" * 32, "56" * 32, "78" * 32).to_bytes())
    assert told(session) == ([], False)


def test_whole_submission_that_never_left_is_pending(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    killed_before_sending(session)
    assert told(session) == ([str(ROUND)], True)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    assert aggregator.complete["a"] == session.stored(session.spool.entry(ROUND)).submission_id


@pytest.mark.parametrize("whole", [True, False])
def test_what_never_left_does_not_keep_a_site_from_the_mean(tmp_path, aggregator, whole):
    """The sum has what the same site has sent from another machine: that is no contradiction."""
    session = session_for(tmp_path, PLAN)
    place = killed_before_sending(session, hot=3)
    if not whole:
        (place / "part-00000").unlink()
    submitted_elsewhere(tmp_path, aggregator)
    world = World(aggregator)
    assert_mean_of(world.run(_flows.fetch(session, ROUND)), PLAN, ALL)
    assert not any("/submissions/" in line for line, _ in world.sent), "it asked for what it has never sent"


@pytest.fixture
def put_back(tmp_path: Path, aggregator: FakeAggregator) -> Session:
    """A site that has sent one submission, with another one for the same round in its spool: from a backup, say."""
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    older = killed_before_sending(session_for(tmp_path / "older", PLAN), hot=3)
    shutil.rmtree(session.spool.entry(ROUND).path)
    shutil.copytree(older, session.spool.entry(ROUND).path)
    return session


def refusal_of(session: Session, aggregator: FakeAggregator, flow: Any) -> InputError:
    """The refusal of a flow that sends nothing of a submission, and changes nothing."""
    place, world = session.spool.entry(ROUND).path, World(aggregator)
    before, lines = sorted(place.iterdir()), session.spool.ledger_path("test").read_bytes()
    with pytest.raises(InputError, match="not in this spool any more") as caught:
        world.run(flow)
    assert not any("/submissions/" in line for line, _ in world.sent)
    assert (sorted(place.iterdir()), session.spool.ledger_path("test").read_bytes()) == (before, lines)
    assert caught.value.reason is Reason.SECOND_SUBMISSION
    assert "round.fetch() waits for the mean" in caught.value.hint
    assert "he-agg fetch" in caught.value.shell
    return caught.value


@pytest.mark.parametrize("hot", [0, 3])
def test_another_submission_than_the_one_that_was_sent_is_never_sent(put_back, aggregator, hot):
    upload = put_back.ledger.sent(ROUND).upload[:12]
    assert told(put_back) == ([], False)
    for flow in (
        _flows.submit(put_back, OPEN, update_of(hot)),
        _flows.aggregate(put_back, OPEN, update_of(hot, may_repeat=True)),
        _flows.resume(put_back, OPEN),
    ):
        assert upload in refusal_of(put_back, aggregator, flow).message
    aggregator.others_submit()
    outcome = World(aggregator).run(_flows.take_part(put_back, OPEN, update_of(hot)))
    assert (outcome.counted, outcome.reason) == (False, Reason.SECOND_SUBMISSION)
    assert_mean_of(outcome.mean, PLAN, ALL)


def test_delivery_itself_looks_into_the_ledger(put_back, aggregator):
    entry = put_back.spool.entry(ROUND)
    stored = Stored.parse((entry.path / "submission.json").read_bytes())
    refusal_of(put_back, aggregator, deliver(put_back, OPEN, entry, Made(stored)))


def test_mean_can_be_had_beside_another_submission(put_back, aggregator):
    aggregator.others_submit()
    assert_mean_of(World(aggregator).run(_flows.fetch(put_back, ROUND)), PLAN, ALL)
