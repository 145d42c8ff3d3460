"""Opening a sum with holders' answers, without a network: too few, wrong ones, forged ones, and in any order."""

from __future__ import annotations

import numpy as np
import pytest

from client_sdk._effects import Request, Response
from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.answers import Told
from he_agg.codecs.hybrid import HybridCodec
from he_agg.documents.holding import Answer, Echo
from he_agg.documents.roster import Role
from he_agg.documents.verdict import REJECTED
from he_agg.errors import DecryptionError, ProtocolError, Reason
from he_agg.ids import RoundId
from he_agg.sharing.field import P, read, write
from he_agg.sharing.shares import ANSWER_BYTES
from tests.support.flows import (
    ROUND,
    World,
    assert_mean_of,
    security_log,
    spooled,
    update_of,
)
from tests.support.split import HOLDERS, TRUSTEE, SplitAggregator, session_of, split_plan

PLAN = split_plan()
ALL = [update_of(i) for i in range(3)]
N = ANSWER_BYTES // 2


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A round with its record, and what site a needs to open it."""
    aggregator, root = SplitAggregator(PLAN), tmp_path_factory.mktemp("played")
    aggregator.others_deal(root, "abc")
    aggregator.close()
    return aggregator


@pytest.fixture
def aggregator(played):
    """The same round for every test: what holders say begins anew."""
    played.echoes, played.answers, played.verdicts = {}, {}, {}
    return played


def fetch(tmp_path, aggregator, meddle=None):
    session, world = session_of(tmp_path, PLAN), World(aggregator, meddle)
    return session, world, world.run(_flows.fetch(session, ROUND))


def wrong(aggregator, holder, off=1):
    """An answer that is one off in one place."""
    row = read(aggregator.share_of(holder), N, "answer").copy()
    row[7] = (int(row[7]) + off) % P
    aggregator.say(Answer(ROUND, aggregator.record.digest, holder, write(row)))


def liars(session):
    return [line["holder"] for line in security_log(session) if line["event"] == "holder-lied"]


@pytest.mark.parametrize("answering", [HOLDERS[:2], HOLDERS[1:3], ("a", TRUSTEE), HOLDERS[:3], HOLDERS])
def test_any_holders_that_are_enough_open_the_sum(tmp_path, aggregator, answering):
    aggregator.hear(*HOLDERS[:3])
    aggregator.answer(*answering)
    session, _, mean = fetch(tmp_path, aggregator)
    assert_mean_of(mean, PLAN, ALL)
    assert security_log(session) == []
    assert spooled(tmp_path) == []


@pytest.mark.parametrize("liar", HOLDERS)
@pytest.mark.parametrize("off", [1, P // 2])
def test_one_liar_of_four_is_named_and_the_sum_is_right(tmp_path, aggregator, liar, off):
    aggregator.hear(*HOLDERS)
    aggregator.answer(*HOLDERS)
    wrong(aggregator, liar, off)
    session, _, mean = fetch(tmp_path, aggregator)
    assert_mean_of(mean, PLAN, ALL)
    assert liars(session) == [liar]
    (line,) = security_log(session)
    assert (line["round"], line["site"]) == (str(ROUND), "a")


def test_an_answer_that_is_no_numbers_is_a_lie(tmp_path, aggregator):
    aggregator.hear(*HOLDERS)
    aggregator.answer("a", "b")
    aggregator.say(Answer(ROUND, aggregator.record.digest, TRUSTEE, b"\xff" * ANSWER_BYTES))
    session, _, mean = fetch(tmp_path, aggregator)
    assert_mean_of(mean, PLAN, ALL)
    assert liars(session) == [TRUSTEE]


@pytest.mark.parametrize("later", [["b"], ["b", "c"]])
def test_when_too_few_answer_rightly_it_waits_for_more(tmp_path, aggregator, later):
    """Two of four would do, and one of them lies: the sum opens with the next."""
    aggregator.hear(*HOLDERS)
    aggregator.answer(TRUSTEE)
    wrong(aggregator, "a")
    left, asked = list(later), []

    def meddle(request: Request, body: bytes):
        if "/answers" in request.path:
            asked.append(request.path.partition("more_than=")[2])
            if len(asked) > 2 and left:
                aggregator.answer(left.pop(0))

    session, _, mean = fetch(tmp_path, aggregator, meddle)
    assert_mean_of(mean, PLAN, ALL)
    assert liars(session) == ["a"]
    assert asked[:3] == ["0", "2", "2"]


def test_too_few_answers_are_waited_for_and_nothing_is_lost(tmp_path, aggregator):
    aggregator.hear(*HOLDERS)
    aggregator.answer("b")
    session, world = session_of(tmp_path, PLAN), World(aggregator)
    with pytest.raises(ProtocolError, match=r"fewer than 2 of 4 holders have answered .* nothing is lost") as caught:
        world.run(_flows.fetch(session, ROUND))
    assert caught.value.reason == Reason.SUM_NOT_READY
    assert "fetch" in caught.value.hint
    assert 3600 < world.time < 3700
    assert aggregator.verdicts == {}
    aggregator.answer("c")
    again = World(aggregator)
    assert_mean_of(again.run(_flows.fetch(session, ROUND)), PLAN, ALL)
    assert not any("/sum" in path for path in again.paths("GET")), "it was here already"


@pytest.mark.parametrize(
    "said", ["too few", "of another record", "of another round", "forged", "of no holder", "twice"]
)
def test_without_a_quorum_of_echoes_nothing_is_opened(tmp_path, aggregator, said, monkeypatch):
    """Three of four holders have to have seen this very record."""
    digest, third = aggregator.record.digest, Echo(ROUND, aggregator.record.digest, "c")
    aggregator.hear("a", "b")
    aggregator.answer(*HOLDERS)
    if said == "of another record":
        aggregator.say(Echo(ROUND, "00" * 32, "c"))
    elif said == "of another round":
        aggregator.say(Echo(RoundId("test", 1, 2), digest, "c"))
    elif said == "forged":
        aggregator.say(third, signer="b")
    elif said == "of no holder":
        aggregator.say(Echo(ROUND, digest, "auditor"))
    elif said == "twice":
        aggregator.hear("b")
        aggregator.echoes["c"] = aggregator.echoes["b"]
    monkeypatch.setattr(HybridCodec, "decrypt", None)  # nobody asks for it
    session, world = session_of(tmp_path, PLAN), World(aggregator)
    with pytest.raises(ProtocolError) as caught:
        world.run(_flows.fetch(session, ROUND))
    assert caught.value.reason == Reason.SUM_NOT_READY
    monkeypatch.undo()
    aggregator.echoes.pop("c", None)
    aggregator.hear("c")
    assert_mean_of(World(aggregator).run(_flows.fetch(session, ROUND)), PLAN, ALL)


@pytest.mark.parametrize("said", ["of another record", "of another round", "forged", "of no holder"])
def test_answers_of_others_count_for_nothing(tmp_path, aggregator, said):
    """Nor do they accuse the holder in whose name they are."""
    aggregator.hear(*HOLDERS)
    aggregator.answer("a", "b")
    digest, share = aggregator.record.digest, bytes(ANSWER_BYTES)
    if said == "of another record":
        aggregator.say(Answer(ROUND, "00" * 32, "c", share))
    elif said == "of another round":
        aggregator.say(Answer(RoundId("test", 1, 2), digest, "c", share))
    elif said == "forged":
        aggregator.say(Answer(ROUND, digest, "c", share), signer="b")
    else:
        aggregator.say(Answer(ROUND, digest, "auditor", share))
    session, _, mean = fetch(tmp_path, aggregator)
    assert_mean_of(mean, PLAN, ALL)
    assert liars(session) == []


def test_when_all_have_answered_and_too_many_lie_the_sum_is_refused_at_once(tmp_path, aggregator):
    aggregator.hear(*HOLDERS)
    aggregator.answer(*HOLDERS)
    for place, holder in enumerate(HOLDERS[:3]):
        wrong(aggregator, holder, off=1000 + place)
    session, world = session_of(tmp_path, PLAN), World(aggregator)
    with pytest.raises(DecryptionError, match="its sum failed the checks of this site; nothing was released") as caught:
        world.run(_flows.fetch(session, ROUND))
    assert caught.value.reason == Reason.SUM_REJECTED
    assert world.time == 60, "one wait for the record, one for answers"
    assert aggregator.verdicts["a"].body.verdict == REJECTED
    assert [line["what"] for line in security_log(session)] == ["answers of holders"]
    assert spooled(tmp_path) == []


def together(aggregator, holders):
    """Lie along one polynomial: the shares of a key that is one larger in one place."""
    for holder in holders:
        wrong(aggregator, holder)


def test_a_wrong_sum_that_is_plausible_does_not_open_and_more_answers_mend_it(tmp_path, aggregator):
    """Both holders that have answered lie alike, and give a sum of keys that is one off."""
    aggregator.hear(*HOLDERS)
    together(aggregator, ["a", "b"])
    late = iter([(), (), ("c",), (TRUSTEE,)])

    def meddle(request: Request, body: bytes):
        if "/answers" in request.path:
            aggregator.answer(*next(late, ()))

    session, _, mean = fetch(tmp_path, aggregator, meddle)
    assert_mean_of(mean, PLAN, ALL)
    assert liars(session) == ["a", "b"]


def test_what_agrees_beyond_doubt_is_not_waited_for(tmp_path, aggregator, monkeypatch):
    """Three of four agree, one may lie: the sum itself is bad, and the fourth could not mend it."""
    aggregator.hear(*HOLDERS)
    aggregator.answer(*HOLDERS[:3])

    def decrypt(*args: object, **named: object) -> None:
        raise DecryptionError(Reason.OFF_GRID, "the sum did not open to integers")

    monkeypatch.setattr(HybridCodec, "decrypt", decrypt)
    session, world = session_of(tmp_path, PLAN), World(aggregator)
    with pytest.raises(DecryptionError):
        world.run(_flows.fetch(session, ROUND))
    assert world.time == 60, "one wait for the record, one for answers"
    assert [line["what"] for line in security_log(session)] == ["sum, opened"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"answers":[],"echoes":[{}],"v":1}', b"\xff"])
def test_answers_that_cannot_be_read_are_refused(tmp_path, aggregator, body):
    session = session_of(tmp_path, PLAN)
    world = World(aggregator, lambda request, _: Response(200, {}, body) if "/answers" in request.path else None)
    with pytest.raises(DecryptionError):
        world.run(_flows.fetch(session, ROUND))
    assert [line["what"] for line in security_log(session)] == ["answers"]


@pytest.mark.parametrize("opens", [True, False])
def test_the_sum_of_keys_is_wiped(tmp_path, aggregator, monkeypatch, opens):
    aggregator.hear(*HOLDERS)
    aggregator.answer(*HOLDERS)
    real, given = HybridCodec.decrypt, []

    def decrypt(self, *args, key_sum, **named):
        given.append(key_sum)
        assert 0 < np.abs(key_sum).max() <= 63
        if not opens:
            raise DecryptionError(Reason.OFF_GRID, "the sum did not open to integers")
        return real(self, *args, key_sum=key_sum, **named)

    monkeypatch.setattr(HybridCodec, "decrypt", decrypt)
    session = session_of(tmp_path, PLAN)
    if opens:
        World(aggregator).run(_flows.fetch(session, ROUND))
    else:
        with pytest.raises(DecryptionError):
            World(aggregator).run(_flows.fetch(session, ROUND))
    assert len(given) == 1
    assert not given[0].any()


def test_it_asks_no_faster_than_once_a_second(tmp_path, aggregator):
    """An aggregator that answers at once that it has nothing."""
    session = session_of(tmp_path, PLAN)
    world = World(aggregator)

    def meddle(request: Request, body: bytes):
        if "/answers" not in request.path:
            return None
        world.time -= 30.0 if "wait=30" in request.path else 0.0
        return Response(204)

    world.meddle = meddle
    with pytest.raises(ProtocolError):
        world.run(_flows.fetch(session, ROUND))
    assert len([path for path in world.paths("GET") if "/answers" in path]) <= 3603


def test_when_answers_are_final(aggregator):
    """With four holders of whom one may lie: all have answered, or three agree."""
    keys = aggregator.rosters[0].body.keys_of(Role.HOLDER)
    digest = aggregator.record.digest

    def told(right: str, lying: str = "", malformed: str = "") -> Told:
        aggregator.answers = {}
        for holder in HOLDERS:
            if holder[0] in right:
                aggregator.answer(holder)
            if holder[0] in lying:
                wrong(aggregator, holder, off=ord(holder[0]))
            if holder[0] in malformed:
                aggregator.say(Answer(ROUND, digest, holder, b"\xff" * ANSWER_BYTES))
        told = Told(aggregator.holders, keys, aggregator.record.body, digest)
        told.take(aggregator._answers().body)
        return told

    assert not told("ab").is_final
    assert told("abc").is_final
    assert not told("ab", lying="c").is_final
    assert told("ab", lying="ct").is_final
    assert told("abc", malformed="t").is_final
    assert not told("ab", malformed="t").is_final
    assert told("ab", malformed="t").rows.keys() == {1, 2}
