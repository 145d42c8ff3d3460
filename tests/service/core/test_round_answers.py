"""What is told of a round is what was signed, joined once for all who ask, and never another thing than is stored."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update

from he_agg.ids import RoundId
from service.core.event_loop import OffLoopError
from service.core.round_answers import RoundAnswers
from service.store.schema import submissions
from tests.support.peers import make_plan, read_ended
from tests.support.simulated import SimulatedFederation

ONE, TWO = "f.1.1", "f.2.1"


def publish(inside, round_id):
    sent = [inside.submit(site, seed, round_id) for seed, site in enumerate("cab")]
    inside.fold()
    return sorted((one.manifest for one in sent), key=lambda text: text[text.index(b'"site"') :])


def ask(inside, answers, round_id):
    with inside.aggregator.store.read() as tx:
        row = tx.round(RoundId.parse(round_id))
        return answers.of(tx, row, row.record, row.record_digest)


def spoil(inside):
    """Change all manifests in the database: whoever reads them again is found out."""
    with inside.aggregator.store.write() as tx:
        tx._run(update(submissions).values(manifest=b"spoilt"), {})


def is_spoilt(answer):
    return answer.startswith(b'{"manifests":[spoilt,spoilt,spoilt],"record":{')


def test_the_answer_is_the_documents_as_they_were_signed(inside):
    manifests = publish(inside, ONE)
    answer = ask(inside, RoundAnswers(), ONE)
    assert answer == b'{"manifests":[%b],"record":%b,"v":1}' % (b",".join(manifests), inside.row(ONE).record)
    ended = read_ended(answer)
    assert [one.body.site for one in ended.manifests] == ["a", "b", "c"]
    assert {one.body.site: one.digest for one in ended.manifests} == ended.record.members


def test_a_round_without_a_sum_has_no_manifests_though_some_were_complete(inside):
    inside.submit("a", 1, ONE)
    inside.clock.now += 101
    inside.look()
    ended = read_ended(ask(inside, RoundAnswers(), ONE))
    assert (ended.record.outcome, ended.record.members, ended.manifests) == ("failed", {}, [])


def test_manifests_are_read_once_for_all_sites(inside):
    publish(inside, ONE)
    answers = inside.aggregator.round_answers
    first = inside.at("a").record(ONE)
    spoil(inside)
    assert [inside.at(site).record(ONE).content for site in "bca"] == [first.content] * 3
    assert ask(inside, answers, ONE) == first.content
    assert is_spoilt(ask(inside, RoundAnswers(), ONE))
    # Who has it already needs none.
    known = inside.at("b").request("GET", f"/v1/rounds/{ONE}/record", {"If-None-Match": first.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")


@pytest.mark.parametrize(("room", "kept"), [(0.0, []), (1.5, [TWO]), (3.0, [ONE, TWO])])
def test_what_there_is_no_room_for_is_read_again(inside, room, kept):
    publish(inside, ONE)
    publish(inside, TWO)
    answers = RoundAnswers(int(room * len(ask(inside, RoundAnswers(), ONE))))
    found = {round_id: ask(inside, answers, round_id) for round_id in (ONE, TWO)}
    spoil(inside)
    for round_id in (TWO, ONE):
        again = ask(inside, answers, round_id)
        assert is_spoilt(again) == (again != found[round_id]) == (round_id not in kept)


def test_the_one_that_was_asked_for_last_stays(inside):
    publish(inside, ONE)
    publish(inside, TWO)
    answers = RoundAnswers(int(1.5 * len(ask(inside, RoundAnswers(), ONE))))
    for round_id in (ONE, TWO, ONE):
        ask(inside, answers, round_id)
    spoil(inside)
    assert not is_spoilt(ask(inside, answers, ONE))
    assert is_spoilt(ask(inside, answers, TWO))


@pytest.mark.parametrize("sites", [3, 90])
def test_many_manifests_are_not_read_on_the_event_loop(tmp_path, sites):
    """Three sites' are: to find a thread takes longer."""
    names = [f"s{i:02}" for i in range(sites)]
    inside = SimulatedFederation(tmp_path / "data", make_plan("f", max_sites=sites), names)
    for seed, name in enumerate(names):
        inside.submit(name, seed, ONE)
    inside.fold()
    answers = RoundAnswers()

    async def on_the_loop():
        return ask(inside, answers, ONE)

    if sites == 90:
        with pytest.raises(OffLoopError):
            asyncio.run(on_the_loop())
    told = ask(inside, answers, ONE) if sites == 90 else asyncio.run(on_the_loop())
    assert len(read_ended(told).manifests) == sites
    assert asyncio.run(on_the_loop()) == told  # and then out of memory
    assert inside.at(names[-1]).record(ONE).content == told
    inside.end()
