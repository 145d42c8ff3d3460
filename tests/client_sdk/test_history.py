"""The chain of records and the rosters over several rounds: missed ones, failed ones, restarts, other histories."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from client_sdk._disk.chain import Chain, Link
from client_sdk._effects import Request, Response
from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.poll import last_published, next_round, open_round
from he_agg import canonical
from he_agg.documents.record import MAX_RECORD_BYTES, NO_RECORD
from he_agg.documents.roster import Member, Role, Roster
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, DecryptionError, KeystoreError, ProtocolError, Reason, TransportError, WireError
from he_agg.ids import RoundId
from he_agg.signing import SigningKey
from keys import Identity
from tests.support.flows import (
    AGGREGATOR_KEY,
    CONSORTIUM,
    ROUND,
    FakeAggregator,
    World,
    answer_of,
    assert_mean_of,
    roster_after,
    security_log,
    session_for,
    small_plan,
    unreachable,
    update_of,
)
from tests.support.trust import AGGREGATOR, COORDINATOR, identity_of, roster_of

PLAN = small_plan()
ALL = [update_of(0), update_of(1), update_of(2)]
MEMBERS = dict(CONSORTIUM.roster.body.members)


def rounds_of(*ids):
    return [RoundId("test", *map(int, name.split("."))) for name in ids]


def take_part(session, server, meddle=None):
    """One round of site a as it really goes: ask what is open, aggregate."""
    world = World(server, meddle)
    opened = world.run(open_round(session))
    if len(server.complete) < 2:
        server.others_submit()
    return world, world.run(_flows.aggregate(session, opened, update_of(may_repeat=True)))


def without_us(server):
    """A round in which this site takes no part."""
    server.others_submit()
    server.close()


def test_chain_grows_with_every_round(tmp_path):
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    for number in range(1, 4):
        if number > 1:
            server.open(RoundId("test", number, 1))
        world, mean = take_part(session, server)
        assert_mean_of(mean, PLAN, ALL)
        assert not any("/records/" in path for path in world.paths("GET")), "it has seen them all"
        assert server.manifests["a"].body.previous == session.chain.head(number - 1)
    assert [session.chain.head(i) for i in range(4)] == [NO_RECORD, *(record.digest for record in server.chain)]
    assert security_log(session) == []


@pytest.mark.parametrize(
    ("missed", "due"),
    [
        (["1.1"], "2.1"),
        (["1.1", "2.1", "3.1"], "4.1"),
        (["1.1", "failed 2.1", "failed 2.2", "2.3"], "3.1"),
        (["failed 1.1"], "1.2"),
    ],
)
def test_missed_rounds_are_caught_up_with(tmp_path, missed, due):
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    for name in missed:
        server.open(*rounds_of(name.removeprefix("failed ")))
        if name.startswith("failed"):
            server.fail()
        else:
            without_us(server)
    server.open(*rounds_of(due))
    world, mean = take_part(session, server)
    assert_mean_of(mean, PLAN, ALL)
    wanted = [f"/v1/federations/test/records/{i}" for i in range(1, len(missed) + 1)]
    assert [path for path in world.paths("GET") if "/records/" in path] == wanted
    assert len(session.chain) == len(missed) + 1
    first_put = next(i for i, (line, _) in enumerate(world.sent) if line.startswith("PUT") and "/submissions/" in line)
    assert all("/records/" not in line for line, _ in world.sent[first_put:]), "before anything is encrypted"


def test_failed_round_and_the_next_attempt(tmp_path):
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    world = World(server)
    opened = world.run(open_round(session))
    world.run(_flows.submit(session, opened, update_of()))
    server.others_submit("b")
    server.fail()
    with pytest.raises(ProtocolError, match="too few sites"):
        world.run(_flows.resume(session, opened))
    server.open(RoundId("test", 1, 2))
    again, mean = take_part(session, server)
    assert_mean_of(mean, PLAN, ALL)
    assert not any("/records/" in path for path in again.paths("GET"))
    assert server.manifests["a"].body.previous == server.chain[0].digest


def test_restarted_site_goes_on_with_its_chain(tmp_path):
    server = FakeAggregator(PLAN)
    take_part(session_for(tmp_path, PLAN), server)
    server.open(RoundId("test", 2, 1))
    world, mean = take_part(session_for(tmp_path, PLAN), server)
    assert_mean_of(mean, PLAN, ALL)
    assert not any("/records/" in path for path in world.paths("GET"))


def test_torn_last_line_counts_as_not_written(tmp_path):
    """Power cut while the line of record 2 was written: that record is fetched again."""
    server = FakeAggregator(PLAN)
    take_part(session_for(tmp_path, PLAN), server)
    server.open(RoundId("test", 2, 1))
    take_part(session_for(tmp_path, PLAN), server)
    path = tmp_path / "spool" / "a" / "test.chain"
    whole = path.read_bytes()
    server.open(RoundId("test", 3, 1))
    for cut in (1, 40, len(whole.splitlines()[1])):
        path.write_bytes(whole[:-cut])
        session = session_for(tmp_path, PLAN)
        assert len(session.chain) == 1
        World(server).run(_flows.fetch(session, RoundId("test", 2, 1)))
        assert path.read_bytes() == whole


def test_damaged_chain_is_not_taken_for_a_short_one(tmp_path):
    chain = Chain(tmp_path / "x.chain")
    for index in (1, 2, 3):
        chain.append(index, Link(f"{index:064x}"))
    whole = (tmp_path / "x.chain").read_bytes()
    lines = whole.splitlines(keepends=True)
    for damaged in (lines[0] + lines[2], lines[1], b"\n" + whole, whole.replace(b'"index":2', b'"index":7'), b"{}\n"):
        (tmp_path / "x.chain").write_bytes(damaged)
        with pytest.raises(ConfigError, match="is damaged") as caught:
            len(Chain(tmp_path / "x.chain"))
        assert caught.value.reason == Reason.CHAIN_MISMATCH
    (tmp_path / "x.chain").write_bytes(whole)
    assert Chain(tmp_path / "x.chain").head() == f"{3:064x}"


def test_chain_takes_nothing_back(tmp_path):
    path = tmp_path / "x.chain"
    chain, other = Chain(path), Chain(path)  # two processes
    assert (len(chain), chain.head(), chain.head(0)) == (0, NO_RECORD, NO_RECORD)
    chain.append(1, Link("1" * 64))
    other.append(1, Link("1" * 64))
    other.append(2, Link("2" * 64))
    assert (len(chain), chain.head()) == (2, "2" * 64)
    for index, digest in ((1, "f" * 64), (2, "f" * 64), (4, "4" * 64), (4, "2" * 64)):
        with pytest.raises(WireError) as caught:
            chain.append(index, Link(digest))
        assert caught.value.reason == Reason.CHAIN_MISMATCH
    assert len(path.read_bytes().splitlines()) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_line_is_durable_before_the_sum_is_opened(tmp_path, monkeypatch):
    import os

    session, server, log = session_for(tmp_path, PLAN), FakeAggregator(PLAN), []
    fsync, opening = os.fsync, type(session.codec).opening

    def note(fd):
        log.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        return fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(type(session.codec), "opening", lambda *a, **k: (log.append("open"), opening(*a, **k))[1])
    take_part(session, server)
    assert log.index("test.chain") < log.index("open")


def reign(server, root, session):
    """Two rounds that this site has seen, and the beginning of the third."""
    take_part(session, server)
    server.open(RoundId("test", 2, 1))
    take_part(session, server)
    server.open(RoundId("test", 3, 1))


def refuse_before_encrypting(session, server, what, meddle=None):
    world = World(server, meddle)
    with pytest.raises(ProtocolError, match=what) as caught:
        world.run(_flows.aggregate(session, world.run(open_round(session)), update_of()))
    assert [path for path in world.paths("PUT") if "/submissions/" in path] == []
    assert session.pending() == []
    (line,) = security_log(session)
    assert line["what"].startswith(what)
    assert str(session.log.path) in caught.value.hint
    return caught.value, line


def test_aggregator_that_takes_records_back(tmp_path):
    """Restored from a backup, or worse: it has fewer records than this site has seen."""
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    reign(server, tmp_path, session)
    server.lies = {"index": 1, "head": server.chain[0].digest}
    error, line = refuse_before_encrypting(session, server, "number of records")
    assert (error.reason, line["expected"], line["got"]) == (Reason.CHAIN_MISMATCH, "at least 2", "1")
    server.lies = {}
    assert_mean_of(take_part(session, server)[1], PLAN, ALL)


def forked(server, at, **changed):
    """The chain with another record at an index, and all later ones chained to that one."""
    chain = server.chain[: at - 1]
    for signed in server.chain[at - 1 :]:
        record = dataclasses.replace(signed.body, previous=chain[-1].digest if chain else NO_RECORD)
        if record.index == at:
            record = dataclasses.replace(record, **changed)
        chain.append(Signed.make(record, AGGREGATOR_KEY, AGGREGATOR))
    return chain


def test_another_history_while_this_site_was_away(tmp_path):
    """Record 1 is another one than this site saw; what it is shown of records 2 and 3 hangs on that."""
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    take_part(session, server)
    server.open(RoundId("test", 2, 1))
    without_us(server)
    server.open(RoundId("test", 3, 1))
    honest = server.chain
    server.chain = forked(server, 1, closed_at=2)
    error, line = refuse_before_encrypting(session, server, "record 2, previous")
    assert (error.reason, line["expected"]) == (Reason.CHAIN_MISMATCH, honest[0].digest)
    assert len(session.chain) == 1
    server.chain = honest
    server.previous = server.head
    assert_mean_of(take_part(session, server)[1], PLAN, ALL)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda r: Signed.make(r.body, SigningKey.generate(), AGGREGATOR), "record, signature"),
        (lambda r: Signed.make(r.body, identity_of("b").signing_key, "b"), "record, signature"),
        (lambda r: Signed(r.body), "record, signature"),
        (lambda r: signed_record(r, index=3), "record, index"),
        (lambda r: signed_record(r, index=1, previous=NO_RECORD), "record, index"),
        (lambda r: signed_record(r, previous="ab" * 32), "record 2, previous"),
        (lambda r: signed_record(r, round_id=RoundId("other", 2, 1)), "record 2, federation"),
    ],
)
def test_missed_record_that_is_not_to_be_believed(tmp_path, change, what):
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    take_part(session, server)
    server.open(RoundId("test", 2, 1))
    without_us(server)
    server.open(RoundId("test", 3, 1))
    honest = server.chain[1]
    server.chain[1] = change(honest)
    refuse_before_encrypting(session, server, what)
    server.chain[1] = honest
    assert_mean_of(take_part(session, server)[1], PLAN, ALL)


def given_up(tmp_path):
    """Round 1 has a sum of a and b, which the record of the failed round 2.1 gives up; 1.2 is open for the two."""
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    World(server).run(_flows.submit(session, server.opened, update_of()))
    server.others_submit("b")
    server.close()
    server.open(RoundId("test", 2, 1))
    server.fail(gives_up=server.chain[0].digest)
    server.open(RoundId("test", 1, 2))
    opened = server.attempt
    assert opened is not None
    server.attempt = dataclasses.replace(opened, invited=("a", "b"))
    return session, server


def test_sum_that_was_given_up_is_tried_again_by_its_members(tmp_path):
    session, server = given_up(tmp_path)
    assert World(server).run(last_published(session)) is None
    world = World(server)
    world.run(_flows.submit(session, world.run(open_round(session)), update_of()))
    server.others_submit("b")
    server.close(excluded={})
    assert_mean_of(world.run(_flows.fetch(session, RoundId("test", 1, 2))), PLAN, ALL[:2])
    server.open(RoundId("test", 2, 2))
    server.fail()
    server.open(RoundId("test", 2, 3))
    assert World(server).run(last_published(session)) == RoundId("test", 1, 2)
    assert_mean_of(take_part(session, server)[1], PLAN, ALL)  # all three are in it again
    assert security_log(session) == []


@pytest.mark.parametrize(
    ("attempt", "what"),
    [
        ({"invited": ("a", "b", "c")}, "state, invited sites"),
        ({"invited": ("a", "c")}, "state, invited sites"),
        ({"number": 2, "attempt": 2}, "state, round and attempt"),
    ],
)
def test_another_set_or_round_after_a_sum_that_was_given_up(tmp_path, attempt, what):
    session, server = given_up(tmp_path)
    server.attempt = dataclasses.replace(server.attempt, **attempt)
    with pytest.raises(ProtocolError, match=what):
        World(server).run(open_round(session))
    assert [line["what"] for line in security_log(session)] == [what]


@pytest.mark.parametrize(
    ("members", "excluded", "what"),
    [("bc", ["a"], "invited sites"), ("b", ["a"], "members after a sum was given up")],
)
def test_record_of_another_set_after_a_sum_that_was_given_up(tmp_path, members, excluded, what):
    session, server = given_up(tmp_path)
    server.others_submit(members)
    server.close(excluded=dict.fromkeys(excluded, "absent"))
    server.open(RoundId("test", 2, 2))
    with pytest.raises(ProtocolError, match=f"record 3, {what}"):
        World(server).run(open_round(session))
    assert len(session.chain) == 2


@pytest.mark.parametrize("which", ["none such", "an older one", "twice"])
def test_record_that_gives_up_another_sum_than_the_newest(tmp_path, which):
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    for number in (1, 2):
        server.open(RoundId("test", number, 1))
        without_us(server)
    server.open(RoundId("test", 3, 1))
    if which == "twice":
        server.fail(gives_up=server.chain[1].digest)
        server.open(RoundId("test", 2, 2))
    other = {"none such": "ab" * 32, "an older one": server.chain[0].digest}.get(which, server.chain[1].digest)
    server.fail(gives_up=other, excluded=dict.fromkeys("bc" if which == "twice" else "abc", "absent"))
    server.open(RoundId("test", 2, 3))
    index = len(server.chain)
    with pytest.raises(ProtocolError, match=f"record {index}, sum that it gives up"):
        World(server).run(open_round(session))
    assert len(session.chain) == index - 1


def signed_record(signed, **changed):
    return Signed.make(dataclasses.replace(signed.body, **changed), AGGREGATOR_KEY, AGGREGATOR)


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b"\xff"])
def test_missed_record_that_is_none(tmp_path, body):
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    without_us(server)
    server.open(RoundId("test", 2, 1))
    spoil = lambda request, _: Response(200, {}, body) if "/records/" in request.path else None  # noqa: E731
    refuse_before_encrypting(session, server, "record", spoil)
    assert_mean_of(take_part(session, server)[1], PLAN, ALL)


def test_split_view_is_found_out_at_the_next_round(tmp_path):
    """The aggregator showed sites a and b two records of round 1, both signed. In round 2 the manifests tell."""
    server = FakeAggregator(PLAN)
    a, b = session_for(tmp_path, PLAN), session_for(tmp_path, PLAN, "b")
    server.others_submit("bc")
    World(server).run(_flows.submit(a, server.opened, update_of()))
    server.close()
    mine = server.chain[-1]
    assert_mean_of(World(server).run(_flows.fetch(a, ROUND)), PLAN, ALL)
    server.chain.remove(mine)
    server.write(dataclasses.replace(mine.body, closed_at=2))  # what b is shown
    assert_mean_of(World(server, site="b").run(_flows.fetch(b, ROUND)), PLAN, ALL)
    assert a.chain.head() != b.chain.head()
    # Round 2: to a it must go on telling a's story, or a's manifest would not fit; b's manifest has b's.
    server.chain = [mine]
    server.open(RoundId("test", 2, 1))
    server.others_submit("b", previous=b.chain.head())
    server.others_submit("c")
    world = World(server)
    with pytest.raises(DecryptionError) as caught:
        world.run(_flows.aggregate(a, world.run(open_round(a)), update_of(may_repeat=True)))
    assert caught.value.reason == Reason.SUM_REJECTED
    (line,) = security_log(a)
    assert (line["what"], line["expected"], line["got"]) == ("manifest of b, previous", mine.digest, b.chain.head())


def test_published_record_that_is_replaced_later(tmp_path):
    """Fetched once and seen; then the aggregator shows another record of the same round, well signed."""
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    take_part(session, server)
    first = server.record
    server.rewrite(closed_at=2)
    with pytest.raises(DecryptionError):
        World(server).run(_flows.fetch(session, ROUND))
    (line,) = security_log(session)
    assert (line["what"], line["expected"], line["got"]) == ("record 1, digest", first.digest, server.record.digest)
    server.record = first
    assert_mean_of(World(server).run(_flows.fetch(session, ROUND)), PLAN, ALL)


@pytest.mark.parametrize("whole", [True, False])
def test_old_record_again(tmp_path, whole):
    """The record of round 1 in the place of that of round 2, with the manifests of its own or of the new one."""
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    take_part(session, server)
    old = server.ended() if whole else server.record
    server.open(RoundId("test", 2, 1))
    server.others_submit()

    def replay(request: Request, body: bytes):
        if "test.2.1/record" not in request.path:
            return None
        server(request, body)
        return old if whole else answer_of(old.encode(), [server.manifests[site].encode() for site in "abc"])

    with pytest.raises(DecryptionError):
        take_part(session, server, replay)
    assert security_log(session)[0]["what"] == "record, round"
    assert_mean_of(World(server).run(_flows.resume(session, server.opened)), PLAN, ALL)


@pytest.mark.parametrize("where", ["/records/", "/record?", "/submissions/", "/sum?"])
def test_killed_at_the_new_steps_and_run_again(tmp_path, where):
    """The files as SIGKILL leaves them when each kind of answer comes; the next process finishes."""
    server = FakeAggregator(PLAN)
    without_us(server)
    server.open(RoundId("test", 2, 1))
    server.others_submit()
    session = session_for(tmp_path / "first", PLAN)

    def freeze(request: Request, body: bytes):
        if where in request.path and not (tmp_path / "second").exists():
            server(request, body)
            shutil.copytree(tmp_path / "first", tmp_path / "second")
            return unreachable()
        return None

    impatient = dataclasses.replace(session, retries=session_for(tmp_path, PLAN, patience_s=0.0).retries)
    with pytest.raises(TransportError):
        take_part(impatient, server, freeze)
    again = session_for(tmp_path / "second", PLAN)
    world = World(server)
    # As long as the round is open the loop comes to it again; later `resume` does.
    opened = server.opened if server.record else world.run(open_round(again))
    assert_mean_of(world.run(_flows.aggregate(again, opened, update_of())), PLAN, ALL)
    assert len(again.chain) == 2
    assert len([m for m in server.manifests.values() if m.body.site == "a"]) == 1


def pin(tmp_path):
    return tmp_path / "a.roster.json"


def test_newer_rosters_are_followed_one_after_the_other(tmp_path):
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    for _ in range(3):
        server.rosters.append(roster_after(server.rosters[-1]))
    server.open(ROUND)
    pin(tmp_path).chmod(0o640)
    world, mean = take_part(session, server)
    assert_mean_of(mean, PLAN, ALL)
    assert [path for path in world.paths("GET") if "/rosters/" in path] == [
        f"/v1/federations/test/rosters/{n}" for n in (2, 3, 4)
    ]
    assert pin(tmp_path).read_bytes() == server.rosters[3].encode()
    assert pin(tmp_path).stat().st_mode & 0o777 == 0o640
    assert server.manifests["a"].body.roster == server.rosters[3].body_digest
    # After a restart it knows all of them, and asks for none.
    server.open(RoundId("test", 2, 1))
    session = session_for(tmp_path, PLAN)
    assert session.rosters.newest.body.version == 4
    assert session.rosters.named(server.rosters[1].body_digest) is not None
    world, _ = take_part(session, server)
    assert not any("/rosters/" in path for path in world.paths("GET"))
    assert list(tmp_path.glob(".a.roster*")) == []


def test_site_is_told_when_a_roster_that_it_follows_allows_small_groups(tmp_path):
    server = FakeAggregator(PLAN)
    server.rosters = [CONSORTIUM.roster, roster_after(CONSORTIUM.roster, min_sites=3)]
    server.rosters.append(roster_after(server.rosters[-1], min_sites=2))
    server.open(ROUND)
    pin(tmp_path).write_bytes(server.rosters[1].encode())
    session = session_for(tmp_path, PLAN)
    assert_mean_of(take_part(session, server)[1], PLAN, ALL)
    (line,) = security_log(session)
    assert line["event"] == "small-groups-allowed"
    assert "computes the other's update and weight by subtraction" in line["what"]


def test_round_that_opened_under_the_roster_before(tmp_path):
    """A roster comes while the round is open: its record names the one from before, which this site still knows."""
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    server.rosters.append(roster_after(CONSORTIUM.roster))
    assert_mean_of(take_part(session, server)[1], PLAN, ALL)
    assert session.rosters.newest.body.version == 2
    assert server.record.body.roster == CONSORTIUM.roster.body_digest


def test_record_of_a_newer_roster_makes_the_site_follow(tmp_path):
    """Fetching alone, without asking for the open round, finds the newer roster, too."""
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    server.rosters.append(roster_after(CONSORTIUM.roster))
    server.open(ROUND)
    server.others_submit()
    server.close()
    mean = World(server).run(_flows.fetch(session, ROUND))
    assert_mean_of(mean, PLAN, ALL[1:])
    assert session.rosters.newest.body.version == 2


def test_new_site_believes_records_from_before_its_time(tmp_path):
    """Pinned at version 3, it does not know the rosters that records 1 and 2 name; its own aggregator signed them."""
    server = FakeAggregator(PLAN)
    without_us(server)
    server.rosters.append(roster_after(server.rosters[-1]))
    server.open(RoundId("test", 2, 1))
    without_us(server)
    server.rosters.append(roster_after(server.rosters[-1]))
    server.open(RoundId("test", 3, 1))
    pin(tmp_path).write_bytes(server.rosters[2].encode())
    session = session_for(tmp_path, PLAN)
    assert_mean_of(take_part(session, server)[1], PLAN, ALL)
    assert len(session.chain) == 3


STRANGER = Identity.create("stranger")
WITH_STRANGER = {**MEMBERS, "stranger": STRANGER.member([Role.COORDINATOR])}


def forged(version=2, federation="test", members=None, signers=(), **changed):
    """A roster signed by whoever is named."""
    now = CONSORTIUM.roster.body
    fields = {"issued_at": now.issued_at, "expires_at": now.expires_at, "threshold": 1, "min_sites": 2} | changed
    roster = roster_of(federation, version, members=members or MEMBERS, **fields)
    document = Signed(roster)
    for name, key in signers:
        document = document.signed_by(name, key)
    return document.encode()


HONEST = (COORDINATOR, identity_of(COORDINATOR).signing_key)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (forged(signers=[HONEST]), None),
        (forged(), Reason.BAD_SIGNATURE),
        (forged(signers=[(COORDINATOR, AGGREGATOR_KEY)]), Reason.BAD_SIGNATURE),
        (forged(signers=[(AGGREGATOR, AGGREGATOR_KEY)]), Reason.BAD_SIGNATURE),
        (forged(signers=[("b", identity_of("b").signing_key)]), Reason.BAD_SIGNATURE),
        (forged(members=WITH_STRANGER, signers=[("stranger", STRANGER.signing_key)]), Reason.BAD_SIGNATURE),
        (forged(3, signers=[HONEST]), Reason.ROSTER_MISMATCH),
        (forged(1, signers=[HONEST]), Reason.ROSTER_MISMATCH),
        (forged(federation="other", signers=[HONEST]), Reason.ROSTER_MISMATCH),
        (CONSORTIUM.roster.encode(), Reason.ROSTER_MISMATCH),
        (b"", Reason.BAD_FIELD),
        (forged(signers=[HONEST])[:-1], Reason.BAD_FIELD),
    ],
)
def test_roster_that_does_not_chain_to_the_pinned_one(tmp_path, body, reason):
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    server.lies = {"roster_version": 2}
    if reason is None:
        server.lies["roster"] = Signed.parse(Roster, body).body_digest
    world = World(server, lambda r, b: Response(200, {}, body) if "/rosters/" in r.path else None)
    if reason is None:  # the honest path
        assert world.run(next_round(session, None)).id == ROUND
        assert pin(tmp_path).read_bytes() == body
        return
    with pytest.raises(ProtocolError, match="version 2 of the roster") as caught:
        world.run(next_round(session, None))
    assert caught.value.reason == reason
    assert "not only the operator" in caught.value.hint
    assert pin(tmp_path).read_bytes() == CONSORTIUM.roster.encode()
    assert session.rosters.newest.body.version == 1
    assert security_log(session)[0]["event"] == "roster-rejected"


def test_forged_roster_behind_a_record_is_refused_like_any_lie(tmp_path):
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    server.others_submit()
    server.close(roster="ab" * 32)
    world = World(server, lambda r, b: Response(200, {}, forged()) if "/rosters/" in r.path else None)
    with pytest.raises(DecryptionError) as caught:
        world.run(_flows.fetch(session, ROUND))
    assert caught.value.reason == Reason.SUM_REJECTED
    assert security_log(session)[0]["what"] == "version 2 of the roster"


def test_aggregator_that_goes_back_to_an_older_roster(tmp_path):
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    session.rosters.follow(roster_after(CONSORTIUM.roster))
    error, line = refuse_before_encrypting(session, server, "version of the roster")
    assert (error.reason, line["expected"], line["got"]) == (Reason.ROSTER_MISMATCH, "2", "1")


def test_expired_roster(tmp_path):
    """Refused when a round opens, before encrypting, and before a sum is accepted; a newer one heals it."""
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    later = CONSORTIUM.roster.body.expires_at
    expired = dataclasses.replace(session, clock=lambda: later)
    without_us(server)
    for flow in (
        next_round(expired, None),
        open_round(expired),
        _flows.aggregate(expired, server.opened, update_of()),
        _flows.fetch(expired, ROUND),
    ):
        with pytest.raises(ConfigError, match="has expired, and the aggregator has no newer one") as caught:
            World(server).run(flow)
        assert caught.value.reason == Reason.ROSTER_EXPIRED
        assert "he-agg roster" in caught.value.hint
    assert session.pending() == []
    server.rosters.append(roster_after(CONSORTIUM.roster, expires_at=later + 1000))
    server.open(RoundId("test", 2, 1))
    assert_mean_of(take_part(expired, server)[1], PLAN, ALL)


def test_roster_without_this_site(tmp_path):
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    members = {name: member for name, member in MEMBERS.items() if name != "a"}
    server.rosters.append(roster_after(CONSORTIUM.roster, members))
    server.open(ROUND)
    told = "site a is not among the sites of version 2 of the roster of test: version 1 was the last that listed it"
    with pytest.raises(ConfigError, match=told) as caught:
        World(server).run(next_round(session, None))
    assert caught.value.reason == Reason.NO_LONGER_MEMBER
    # And so it is after a restart: the new roster is in its place.
    with pytest.raises(ConfigError, match=told) as caught:
        session_for(tmp_path, PLAN)
    assert caught.value.reason == Reason.NO_LONGER_MEMBER


def test_roster_with_another_key_for_this_site(tmp_path):
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    members = MEMBERS | {
        "a": Member("a", STRANGER.signing_key.public_key.hex(), frozenset({Role.SITE}), STRANGER.member().receiving)
    }
    server.rosters.append(roster_after(CONSORTIUM.roster, members))
    server.open(ROUND)
    with pytest.raises(KeystoreError, match="lists the key with fingerprint"):
        World(server).run(next_round(session, None))


def test_pin_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    import os

    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    server.rosters.append(roster_after(CONSORTIUM.roster))
    server.open(ROUND)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(full))
    with pytest.raises(ConfigError, match="No space left"):
        World(server).run(next_round(session, None))
    assert pin(tmp_path).read_bytes() == CONSORTIUM.roster.encode()
    assert session.rosters.newest.body.version == 1
    monkeypatch.undo()
    assert_mean_of(take_part(session, server)[1], PLAN, ALL)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_answer_about_a_round_is_bounded(tmp_path):
    """What a record and as many honest manifests as the plan has sites can be, and no more, is read."""
    session, server = session_for(tmp_path, PLAN), FakeAggregator(PLAN)
    seen = []

    def look(request: Request, body: bytes):
        if "/record?" in request.path:
            manifests = len(server(request, body).body) - len(server.record.encode())
            seen.append((request.max_bytes - MAX_RECORD_BYTES, manifests))

    take_part(session, server, look)
    ((limit, length),) = seen
    assert 5 * length < 3 * limit
    assert limit < 33_000


def test_lines_of_the_chain_are_canonical(tmp_path):
    chain = Chain(tmp_path / "x.chain")
    chain.append(1, Link("a" * 64, "b" * 64, 7, 3, 1, number=4, attempt=5, later=6, ended=True))
    line = (tmp_path / "x.chain").read_bytes()
    assert json.loads(line) == {
        "index": 1,
        "digest": "a" * 64,
        "counted": "b" * 64,
        "roster": 7,
        "epoch": 3,
        "published": 1,
        "again": 0,
        "number": 4,
        "attempt": 5,
        "later": 6,
        "ended": True,
    }
    assert canonical.encode(json.loads(line)) + b"\n" == line
