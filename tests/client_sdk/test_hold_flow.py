"""A holder's order of steps: what it answers, what it refuses, and what it does after any crash."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from client_sdk._effects import Response
from client_sdk._protocol.poll import next_round
from client_sdk._protocol.session import Session
from he_agg import canonical
from he_agg.documents.holding import Answer, Echo
from he_agg.documents.signed import Signed
from he_agg.errors import ProtocolError
from he_agg.ids import RoundId
from he_agg.sharing.masks import total_mask, unmasked
from he_agg.sharing.shamir import rebuild
from he_agg.sharing.shares import read_answer
from tests.support.flows import AGGREGATOR_KEY, KilledError, answer_of, problem, security_log, unreachable
from tests.support.holders import (
    SITES,
    HeldFederation,
    HolderWorld,
    begin,
    held_roster,
    holder_in,
    look,
    notices,
    published,
    round_after,
    split_plan,
)
from tests.support.trust import AGGREGATOR, identity_of

PLAN = split_plan()


@pytest.fixture
def aggregator():
    return HeldFederation(PLAN)


def test_enough_answers_give_the_sum_of_keys(tmp_path, rng, aggregator):
    holders = begin(aggregator, tmp_path)
    keys = [aggregator.deal(rng, site) for site in SITES]
    aggregator.publish()
    assert [look(holders[name], aggregator) for name in ("a", "trustee")] == [True, True]
    assert aggregator.of("answers") == {}  # two of four have seen it, of whom three have to
    assert look(holders["b"], aggregator) is False
    assert sorted(aggregator.of("answers")) == ["b"]
    assert not look(holders["a"], aggregator)
    answers = {
        name: read_answer(Signed.parse(Answer, body).body.shares) for name, body in aggregator.of("answers").items()
    }
    assert sorted(answers) == ["a", "b"]
    total = rebuild({aggregator.listed.holders.index(name): rows for name, rows in answers.items()})
    masks = total_mask(aggregator.key.mask_key, [aggregator.context(site) for site in SITES])
    found = unmasked(total, masks, 3)
    assert found is not None
    assert np.array_equal(found, np.sum(keys, axis=0, dtype=np.int32))
    assert aggregator.state.awaited is None
    sent = dict(aggregator.said)
    for session in holders.values():
        assert not look(session, aggregator)  # settled: nobody is asked any more
    assert aggregator.said == sent


def test_a_holder_that_is_killed_anywhere_goes_on_with_the_same_bytes(tmp_path, rng, aggregator):
    holders = published(aggregator, rng, tmp_path)
    for name in ("a", "c"):
        look(holders[name], aggregator)
    before = dict(aggregator.said)
    seen = set()
    for killed_at in range(200):
        aggregator.said = dict(before)
        root = tmp_path / f"again-{killed_at}"
        session, world = restored(tmp_path, root, "b"), HolderWorld(aggregator, site="b")

        def kill(number, killed_at=killed_at):
            if number == killed_at:
                raise KilledError

        world.before = kill
        try:
            look(session, aggregator, world)
        except KilledError:
            # A new process: it knows what is on disk. What the aggregator has heard stays heard.
            session = holder_in(root, PLAN, "b")
            assert not look(session, aggregator)
            ended = False
        else:
            ended = True
        journal = session.spool.promises_path("test").read_bytes()
        seen.add((aggregator.of("echoes")["b"], aggregator.of("answers")["b"], journal))
        if ended:
            break
    else:
        raise AssertionError("it never came to its end")
    assert killed_at > 10
    assert len(seen) == 1


def restored(old, root, name):
    """A holder with the files of another folder: its key and its journal as they were before the round."""
    root.mkdir()
    first, session = holder_in(old, PLAN, name), holder_in(root, PLAN, name)
    session.promises.begin(0)
    kept = session.spool.sharing_keys_path("test")
    kept.mkdir(mode=0o700)
    path = first.spool.sharing_keys_path("test") / "1"
    (kept / "1").write_bytes(path.read_bytes())
    (kept / "1").chmod(0o600)
    return session


@pytest.mark.parametrize("after_restart", [False, True])
@pytest.mark.parametrize("again", ["another set", "another attempt"])
def test_a_second_record_for_a_number_is_refused(tmp_path, rng, aggregator, again, after_restart):
    holders = published(aggregator, rng, tmp_path)
    for name in ("a", "b"):
        look(holders[name], aggregator)
    said = dict(aggregator.said)
    # The same federation, told otherwise; the holder's chain does not know better, as after a restored backup.
    if again == "another set":
        aggregator.deal(rng, "a")
        aggregator.rewrite(members=dict(aggregator.complete))
    else:
        aggregator.chain.clear()
        failed = {"outcome": "failed", "members": {}, "sum_digests": ()}
        aggregator.publish(**failed, excluded=dict.fromkeys(SITES, "too-few-sites"))
        aggregator.open(RoundId("test", 1, 2))
        for site in SITES:
            aggregator.deal(rng, site)
        aggregator.publish()
    session = holders["a"]
    session.spool.chain_path("test").unlink()
    if after_restart:
        session = holder_in(tmp_path, PLAN, "a")
    else:
        session = dataclasses.replace(session, chain=holder_in(tmp_path, PLAN, "a").chain)
    world = HolderWorld(aggregator, site="a")
    look(session, aggregator, world)
    assert aggregator.said == said
    (refused,) = [line for line in security_log(session) if line["event"] == "not-answered"]
    assert "answers once" in refused["what"]
    assert len(notices(world)) == 1


def test_older_numbers_are_not_answered_later(tmp_path, rng, aggregator):
    holders = published(aggregator, rng, tmp_path)
    first = aggregator.chain[-1]
    aggregator.said |= {f"rounds/{aggregator.round_id}/answers/{name}": b"" for name in ("a", "b")}
    aggregator.open(round_after(aggregator.round_id))
    for site in SITES:
        aggregator.deal(rng, site)
    aggregator.publish()
    look(holders["trustee"], aggregator)
    assert holders["trustee"].promises.newest == 2
    session = holders["trustee"]
    aggregator.chain = [first]
    aggregator.record, aggregator.round_id = first, first.body.round_id
    session.spool.chain_path("test").unlink()
    session = holder_in(tmp_path, PLAN, "trustee")
    aggregator.said.clear()
    assert not look(session, aggregator)
    assert aggregator.said == {}


def echoes_of(*signed):
    return Response(200, {}, canonical.encode({"v": 1, "echoes": [json.loads(one.encode()) for one in signed]}))


def test_only_so_many_distinct_listed_holders_who_saw_this_record_count(tmp_path, rng, aggregator):
    holders = published(aggregator, rng, tmp_path)
    record = aggregator.record.digest

    def echo(name, digest=record, round_id=aggregator.round_id, signer=None):
        return Signed.make(Echo(round_id, digest, name), identity_of(signer or name).signing_key)

    wrong = {
        "one holder twice": [echo("a"), echo("a"), echo("b")],
        "forged": [echo("a"), echo("b"), echo("c", signer="b")],
        "of another record": [echo("a"), echo("b"), echo("c", "00" * 32)],
        "of another attempt": [echo("a"), echo("b"), echo("c", round_id=RoundId("test", 1, 2))],
        "of no holder": [echo("a"), echo("b"), echo("coordinator")],
        "too few": [echo("a"), echo("b")],
    }
    for what, shown in wrong.items():
        aggregator.shown["/echoes"] = echoes_of(*shown)
        assert look(holders["a"], aggregator), what
        assert aggregator.of("answers") == {}, what
    for nothing in (b"", b"{}", b'{"echoes":[{}],"v":1}'):
        aggregator.shown["/echoes"] = Response(200, {}, nothing)
        assert look(holders["a"], aggregator)
        assert aggregator.of("answers") == {}
    aggregator.said |= {f"rounds/{aggregator.round_id}/echoes/{name}": echo(name).encode() for name in "bc"}
    aggregator.shown["/echoes"] = echoes_of(echo("a"), echo("b"), echo("c"))
    assert not look(holders["a"], aggregator)
    assert sorted(aggregator.of("answers")) == ["a"]


def test_two_halves_that_are_shown_two_records_answer_neither(tmp_path, rng, aggregator):
    """A failed record to one half, the published one to the other: two of four are no quorum."""
    holders = published(aggregator, rng, tmp_path)
    for name in ("a", "b"):
        look(holders[name], aggregator)
    failed = {"outcome": "failed", "members": {}, "sum_digests": ()}
    aggregator.rewrite(**failed, excluded=dict.fromkeys(SITES, "too-few-sites"))
    for name in ("c", "trustee"):
        assert not look(holders[name], aggregator)
    aggregator.open(RoundId("test", 1, 2))
    for site in SITES:
        aggregator.deal(rng, site)
    aggregator.publish()
    for name in ("c", "trustee"):
        assert look(holders[name], aggregator)
    assert sorted(path for path in aggregator.said if "answers" in path) == []
    assert sorted(path for path in aggregator.said if "echoes" in path) == [
        "rounds/test.1.1/echoes/a",
        "rounds/test.1.1/echoes/b",
        "rounds/test.1.2/echoes/c",
        "rounds/test.1.2/echoes/trustee",
    ]


@pytest.mark.parametrize("division", ["".join(which) for which in itertools.product("AB", repeat=3)])
def test_no_division_of_honest_holders_gives_answers_for_two_records(tmp_path, rng, division):
    """One holder of four lies and sees both records; the aggregator shows each honest one what it likes, twice."""
    shown = {"A": HeldFederation(PLAN), "B": HeldFederation(PLAN)}
    begin(shown["A"], tmp_path)
    shown["B"].sharing = shown["A"].sharing
    for aggregator in shown.values():
        for site in SITES:
            aggregator.deal(rng, site)
        aggregator.publish()
        liar = Echo(aggregator.round_id, aggregator.record.digest, "trustee")
        path = f"rounds/{aggregator.round_id}/echoes/trustee"
        aggregator.said[path] = Signed.make(liar, identity_of("trustee").signing_key).encode()
    assert shown["A"].record.digest != shown["B"].record.digest
    holders = {name: restored(tmp_path, tmp_path / f"again-{name}", name) for name in SITES}
    for _ in range(2):
        for name, which in zip(SITES, division, strict=True):
            look(holders[name], shown[which])
    # Then the other record, to machines whose chain was set back; the journal was not.
    for name, which in zip(SITES, division, strict=True):
        holders[name].spool.chain_path("test").unlink()
        holders[name] = holder_in(tmp_path / f"again-{name}", PLAN, name)
        look(holders[name], shown["B" if which == "A" else "A"])
    answered = {which for which, aggregator in shown.items() if aggregator.of("answers")}
    two_alike = max(division, key=division.count)
    assert answered == {two_alike}
    assert not set(shown["A"].of("answers")) & set(shown["B"].of("answers"))


def test_a_list_with_another_key_of_this_holder_is_refused(tmp_path, rng, aggregator):
    thief = holder_in(tmp_path / "thief", PLAN, "a")  # a copy of the identity, on another machine
    look(thief, aggregator)
    world = HolderWorld(aggregator, site="a")
    session = holder_in(tmp_path, PLAN, "a")
    aggregator.stage = "created"
    look(session, aggregator, world)
    assert "was lost here" in notices(world)[0]
    begin(aggregator, tmp_path, without="a")
    for site in SITES:
        aggregator.deal(rng, site)
    aggregator.publish()
    assert not look(session, aggregator, world)
    assert aggregator.said == {}
    assert [line["what"] for line in security_log(session)] == ["holders, sharing key of a"]


@pytest.mark.parametrize("answer", [problem(404, "unknown-round"), problem(410, "sum-gone"), unreachable()])
def test_what_keeps_a_holder_from_answering_fails_nothing_else(tmp_path, rng, aggregator, answer):
    holders = published(aggregator, rng, tmp_path)
    world = HolderWorld(aggregator, lambda request, _: answer if request.path.endswith("/shares") else None, site="b")
    assert not look(holders["b"], aggregator, world)
    assert aggregator.said == {}
    gone = isinstance(answer, Response) and b"sum-gone" in answer.body
    assert len(notices(world)) == (not gone)
    world.meddle = lambda *_: None
    assert look(holders["b"], aggregator, world)
    assert sorted(aggregator.of("echoes")) == ["b"]


def test_a_record_that_is_refused_is_not_looked_at_again(tmp_path, rng, aggregator):
    holders = published(aggregator, rng, tmp_path)
    aggregator.manifests["b"] = aggregator.manifests["c"]
    world = HolderWorld(aggregator, site="a")
    for _ in range(3):
        assert not look(holders["a"], aggregator, world)
    assert aggregator.said == {}
    assert holders["a"].promises.of(1) is None
    assert [line["event"] for line in security_log(holders["a"])] == ["sum-rejected"]
    assert len(notices(world)) == 1


@pytest.mark.parametrize("lie", ["another record", "no record", "not yet"])
def test_a_round_that_is_told_otherwise_than_its_chain_is_not_answered(tmp_path, rng, aggregator, lie):
    """The chain has one record, and the answer about the round another, signed as well, or none."""
    holders = published(aggregator, rng, tmp_path)
    other = Signed.make(dataclasses.replace(aggregator.record.body, closed_at=2), AGGREGATOR_KEY, AGGREGATOR)
    manifests = [aggregator.manifests[site].encode() for site in SITES]
    aggregator.shown["/record"] = {
        "another record": answer_of(other.encode(), manifests),
        "no record": answer_of(b"{}", manifests),
        "not yet": Response(204),
    }[lie]
    world = HolderWorld(aggregator, site="a")
    assert not look(holders["a"], aggregator, world)
    assert aggregator.said == {}
    assert holders["a"].promises.of(1) is None
    expected = {"another record": ["record 1, digest"], "no record": ["record"], "not yet": []}[lie]
    assert [line["what"] for line in security_log(holders["a"])] == expected
    assert len(notices(world)) == 1
    del aggregator.shown["/record"]
    assert look(holders["a"], aggregator, world)  # it was the answer, and not the record


def test_who_does_not_hold_does_not_ask(tmp_path, rng):
    """A site beside the holders polls the state of an awaited sum, and fetches no manifests for it each time."""
    aggregator = HeldFederation(PLAN)
    aggregator.rosters.append(held_roster(2, holders=("a", "b", "trustee")))
    aggregator.roster = aggregator.rosters[-1].body_digest
    holders = begin(aggregator, tmp_path, without="c")
    for site in SITES:
        aggregator.deal(rng, site)
    aggregator.publish()
    for name, asked in (("a", 1), ("c", 0)):
        world = HolderWorld(aggregator, site=name)
        session = holders.get(name) or holder_in(tmp_path, PLAN, name)
        look(session, aggregator, world)
        assert sum(path.endswith("/record") for path in world.paths("GET")) == asked


def test_a_site_that_waits_for_a_round_holds_meanwhile(tmp_path, rng, aggregator):
    """Also one that was not in the sum: it is a holder all the same."""
    holders = begin(aggregator, tmp_path)
    for site in SITES:
        aggregator.deal(rng, site)
    aggregator.publish()
    look(holders["b"], aggregator)
    look(holders["trustee"], aggregator)
    session, polls = holders["a"], []
    assert isinstance(session, Session)

    def meddle(request, _):
        if "/state" in request.path:
            polls.append(request.path)
            if len(polls) == 2:
                assert sorted(aggregator.of("answers")) == ["a"]
                look(holders["b"], aggregator)
                aggregator.open(round_after(aggregator.round_id))

    opened = HolderWorld(aggregator, meddle, site="a").run(next_round(session, "test.1.1"))
    assert opened is not None
    assert str(opened.id) == "test.2.1"
    assert len(polls) == 2


@pytest.mark.parametrize("awaited", [RoundId("test", 1, 2), RoundId("test", 2, 1)])
def test_an_awaited_round_that_is_not_the_newest_sum_is_not_believed(tmp_path, rng, aggregator, awaited):
    holders = published(aggregator, rng, tmp_path)
    aggregator.lies = {"awaited": awaited}
    with pytest.raises(ProtocolError, match="state, awaited"):
        look(holders["a"], aggregator)
    aggregator.open(round_after(aggregator.round_id))
    aggregator.lies = {"awaited": RoundId("test", 1, 1), "open": None}  # of the newest sum: the aggregator may say so
    assert look(holders["a"], aggregator)


def test_what_is_kept_of_another_record_is_not_sent(tmp_path, rng, aggregator):
    holders = published(aggregator, rng, tmp_path)
    other = Signed.make(Answer(aggregator.round_id, "00" * 32, "a", bytes(4096)), identity_of("a").signing_key)
    for stale in (other.encode(), b"damaged"):
        holders["a"].promises.keep_answer(aggregator.round_id, stale)
        assert look(holders["a"], aggregator)
        assert aggregator.of("answers") == {}
