"""A site tells what it found in a sum, once, and never fails for it."""

from __future__ import annotations

import pytest

from client_sdk._disk.verdicts import Verdicts
from client_sdk._effects import Request
from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.poll import open_round
from he_agg.documents.signed import Signed
from he_agg.documents.verdict import OPENED, REJECTED, Verdict
from he_agg.errors import ConfigError, DecryptionError, Reason
from he_agg.ids import RoundId
from tests.support.flows import (
    OPEN,
    ROUND,
    FakeAggregator,
    World,
    problem,
    session_for,
    small_plan,
    unreachable,
    update_of,
)
from tests.support.trust import identity_of

PLAN = small_plan()


@pytest.fixture
def aggregator():
    made = FakeAggregator(PLAN)
    made.others_submit()
    return made


def spoilt(aggregator):
    """The next record names a sum that nobody's submissions make."""
    aggregator.close()
    first = aggregator.sum[0]
    aggregator.republish([first[:-1] + bytes([first[-1] ^ 1]), *aggregator.sum[1:]])


def wrong_sum(aggregator):
    def meddle(request: Request, body: bytes):
        if "/record" in request.path and aggregator.record is None:
            spoilt(aggregator)

    return meddle


def test_who_opens_a_sum_says_so(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.aggregate(session, OPEN, update_of()))
    verdict = aggregator.verdicts["a"]
    assert verdict.body == Verdict(ROUND, aggregator.record.digest, "a", OPENED)
    verdict.check_signed({"a": identity_of("a").signing_key.public_key})
    assert (session.verdicts.unsent(), session.verdicts.opened(1)) == ([], ROUND)


def test_who_rejects_a_sum_says_so(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    with pytest.raises(DecryptionError):
        World(aggregator, wrong_sum(aggregator)).run(_flows.aggregate(session, OPEN, update_of()))
    assert aggregator.verdicts["a"].body == Verdict(ROUND, aggregator.record.digest, "a", REJECTED)
    assert session.verdicts.opened(1) is None


def test_nothing_is_said_of_a_record_that_no_aggregator_has_signed(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)

    def meddle(request: Request, body: bytes):
        if "/record" in request.path and aggregator.record is None:
            aggregator.close(("aggregator", identity_of("b").signing_key))

    with pytest.raises(DecryptionError):
        World(aggregator, meddle).run(_flows.aggregate(session, OPEN, update_of()))
    assert (aggregator.verdicts, session.verdicts.unsent()) == ({}, [])


def test_who_is_not_in_a_sum_says_nothing(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    aggregator.close()
    World(aggregator).run(_flows.fetch(session, ROUND))
    assert (aggregator.verdicts, session.verdicts.found(ROUND)) == ({}, None)


@pytest.mark.parametrize("answer", [unreachable, lambda: problem(503, "busy"), lambda: problem(401, "roster-expired")])
def test_what_cannot_be_delivered_goes_with_the_next_request(tmp_path, aggregator, answer):
    session = session_for(tmp_path, PLAN)

    def meddle(request: Request, body: bytes):
        return answer() if "/verdicts/" in request.path else None

    World(aggregator, meddle).run(_flows.aggregate(session, OPEN, update_of()))
    assert (aggregator.verdicts, len(session.verdicts.unsent())) == ({}, 1)
    record = aggregator.record.digest
    aggregator.open(RoundId("test", 2, 1))
    aggregator.verdicts = aggregator.past[str(ROUND)].verdicts
    later = session_for(tmp_path, PLAN)  # after a restart
    assert World(aggregator).run(open_round(later)) is not None
    assert aggregator.past[str(ROUND)].verdicts["a"].body == Verdict(ROUND, record, "a", OPENED)
    assert later.verdicts.unsent() == []


def test_a_verdict_that_is_refused_is_not_sent_again(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)

    def meddle(request: Request, body: bytes):
        return problem(409, "already-exists") if "/verdicts/" in request.path else None

    World(aggregator, meddle).run(_flows.aggregate(session, OPEN, update_of()))
    assert (session.verdicts.unsent(), session.verdicts.opened(1)) == ([], ROUND)


def test_a_verdict_is_kept_though_a_later_look_finds_otherwise(tmp_path):
    """Having opened a sum is what a site must never forget; it may find out later that a rejected one is good."""
    (tmp_path / "spool").mkdir()
    path = tmp_path / "spool" / "f.verdicts"
    verdicts = Verdicts(path, "f", "a")

    def keep(attempt, found):
        verdict = Verdict(RoundId("f", 12, attempt), "00" * 32, "a", found)
        verdicts.keep(Signed.make(verdict, identity_of("a").signing_key))

    for attempt, first, second in ((1, REJECTED, OPENED), (2, OPENED, REJECTED)):
        keep(attempt, first)
        verdicts.settle(RoundId("f", 12, attempt))
        keep(attempt, second)
        assert verdicts.found(RoundId("f", 12, attempt)) == OPENED
    assert [signed.body.round_id.attempt for signed in verdicts.unsent()] == [1]
    assert (verdicts.opened(1), verdicts.opened(12)) == (None, RoundId("f", 12, 1))
    after_a_restart = Verdicts(path, "f", "a")
    assert after_a_restart.unsent() == verdicts.unsent()
    assert after_a_restart.opened(12) == RoundId("f", 12, 1)
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(ConfigError) as caught:
        verdicts.found(RoundId("f", 12, 2))
    assert caught.value.reason is Reason.BAD_CONFIG
