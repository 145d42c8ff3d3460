"""A holder's order of steps: what it answers, what it refuses, and what it does after any crash."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from client_sdk._effects import Response
from client_sdk._protocol.hold import hold_awaited
from client_sdk._protocol.poll import next_round
from client_sdk._protocol.session import Session
from he_agg import canonical
from he_agg.documents.holding import Answer, Complaint, Echo
from he_agg.documents.signed import Signed
from he_agg.errors import ProtocolError
from he_agg.ids import RoundId
from he_agg.ring.primes import N
from he_agg.sharing.dealing import Excerpt
from he_agg.sharing.field import P, read, write
from he_agg.sharing.masks import total_mask, unmasked
from he_agg.sharing.proof import ROW_WIDTH, combinations, commit, prove
from he_agg.sharing.shamir import expand, rebuild
from he_agg.sharing.shares import Fault, convicts, read_answer
from tests.support.flows import KilledError, problem, security_log, unreachable
from tests.support.holders import (
    HOLDERS,
    SITES,
    HeldFederation,
    HolderWorld,
    begin,
    held_roster,
    holder_in,
    look,
    published,
    round_after,
    split_plan,
)
from tests.support.trust import identity_of

PLAN = split_plan()


@pytest.fixture
def aggregator():
    return HeldFederation(PLAN)


def notices(world):
    return [event.text for event in world.events if hasattr(event, "topic")]


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


# What dealers and the aggregator can do to dealings.


def proven_again(context, holders, plaintexts):
    """The public part that a cheating dealer makes of any plaintexts: all as it should be but for the rows."""
    commitments = [commit(context, index, plaintext) for index, plaintext in enumerate(plaintexts, start=1)]
    rows = np.stack([expand(plaintexts[0][32:], ROW_WIDTH), read(plaintexts[1][32:], ROW_WIDTH, "row")])
    return b"".join(
        (holders.header, *commitments, write(prove(combinations(context, holders.header, commitments), rows)))
    )


def one_bad_row(context, holders):
    def cheat(halves):
        plaintexts = list(halves[1])
        row = read(plaintexts[3][32:], ROW_WIDTH, "row").copy()
        row[5] = (int(row[5]) + 1) % P
        plaintexts[3] = plaintexts[3][:32] + write(row)
        return proven_again(context, holders, plaintexts), plaintexts

    return cheat


def higher_degree(context, holders):
    def cheat(halves):
        plaintexts = list(halves[1])
        for index in (2, 3):
            row = read(plaintexts[index][32:], ROW_WIDTH, "row").astype(np.int64)
            plaintexts[index] = plaintexts[index][:32] + write(((row + (index + 1) ** 2 * 7) % P).astype(np.uint16))
        return proven_again(context, holders, plaintexts), plaintexts

    return cheat


def wrong_plaintext(context, holders):
    return lambda halves: (halves[0], [*halves[1][:3], bytes([halves[1][3][0] ^ 1]) + halves[1][3][1:]])


def wrong_proof(context, holders):
    return lambda halves: (halves[0][:-1] + bytes([halves[0][-1] ^ 1]), halves[1])


def unreadable(at, value):
    return lambda context, holders: lambda halves: (halves[0][:at] + value + halves[0][at + len(value) :], halves[1])


SEALED, OPENED = Fault.SEALED, Fault.OPENED
CHEATS = {
    "one bad row": (one_bad_row, {"trustee": OPENED}),
    "higher degree": (higher_degree, {"c": OPENED, "trustee": OPENED}),
    "wrong plaintext": (wrong_plaintext, {"trustee": SEALED}),
    "wrong proof": (wrong_proof, dict.fromkeys(HOLDERS[1:], OPENED)),  # it is given at points, the first is right
}


@pytest.mark.parametrize("what", CHEATS)
def test_a_bad_dealing_is_complained_of_and_the_record_not_promised(tmp_path, rng, aggregator, what):
    cheat, faults = CHEATS[what]
    holders = begin(aggregator, tmp_path)
    context, listed = aggregator.context("b"), aggregator.listed.holders
    aggregator.deal(rng, "a"), aggregator.deal(rng, "b", cheat(context, listed)), aggregator.deal(rng, "c")
    aggregator.publish()
    for name, session in holders.items():
        world = HolderWorld(aggregator, site=name)
        came_back = look(session, aggregator, world)
        if name not in faults:
            assert came_back or name in aggregator.of("answers")
            continue
        assert session.promises.of(1) is None
        assert name not in aggregator.of("echoes")
        complaint = Signed.parse(Complaint, aggregator.of("complaints")[f"{name}.b"]).body
        assert (complaint.dealer, complaint.fault) == ("b", faults[name])
        convicted = complaint.plaintext is not None and convicts(
            aggregator.dealings["test.1.1", "b"], context, listed.index(name), complaint.plaintext
        )
        assert convicted == (faults[name] is OPENED)
        assert [line["dealer"] for line in security_log(session) if line["event"] == "bad-dealing"] == ["b"]
        (told,) = notices(world)
        assert "complained" in told
        look(session, aggregator, world)  # again: the same complaint, and nobody is told twice
        assert len(notices(world)) == 1
    assert {path.split(".")[0] for path in aggregator.of("complaints")} == set(faults)


class Bare:
    """What a dealer signs that nobody can read, cut for a holder without a look at it."""

    def __init__(self, dealing, at, value):
        self.dealing, self.at, self.value = dealing, at, value

    def excerpt(self, name):
        whole = self.dealing.excerpt(name).to_bytes()
        changed = whole[: self.at] + self.value + whole[self.at + len(self.value) :]
        return type("Cut", (), {"to_bytes": lambda _: changed})()

    @property
    def digest(self):
        name = HOLDERS[0]
        return Excerpt.digest_of(self.excerpt(name).to_bytes(), self.dealing.holders, name)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"HEKX"),
        (4, b"\x02"),
        (5, b"\x0b"),
        (6, b"\x01\x08"),
        (8, b"\x05\x00"),
        (10, b"\x03\x00"),
        (140, b"\xff\xff"),
    ],
    ids=["magic", "version", "R", "width", "m", "t", "no element"],
)
def test_a_dealing_that_nobody_can_read_is_complained_of(tmp_path, rng, aggregator, at, value):
    holders = published(aggregator, rng, tmp_path, resealed=lambda dealing: Bare(dealing, at, value))
    look(holders["c"], aggregator)
    complaint = Signed.parse(Complaint, aggregator.of("complaints")["c.b"]).body
    assert (complaint.fault, complaint.plaintext) == (SEALED, None)
    assert aggregator.of("echoes") == {}


def garbage(dealing):
    return dataclasses.replace(dealing, blobs=tuple(bytes(len(blob)) for blob in dealing.blobs))


def moved(dealing):
    """Shares of equal length in each other's places: of the holders 3 and 4."""
    first, second, third, fourth = dealing.blobs
    return dataclasses.replace(dealing, blobs=(first, second, fourth, third))


@pytest.mark.parametrize("resealed", [garbage, moved])
def test_shares_that_do_not_open_accuse_their_dealer(tmp_path, rng, aggregator, resealed):
    holders = published(aggregator, rng, tmp_path, resealed=resealed)
    look(holders["trustee"], aggregator)
    assert Signed.parse(Complaint, aggregator.of("complaints")["trustee.b"]).body.fault is SEALED
    assert holders["trustee"].promises.of(1) is None


@pytest.mark.parametrize(
    "facts",
    [
        {"dealer": "a"},
        {"round_id": RoundId("test", 2, 1)},
        {"round_id": RoundId("test", 1, 2)},
        {"epoch": 2},
        {"holders": "00" * 32},
        {"roster": "00" * 32},
        {"nonce": "77" * 16},
        {"key_id": "00" * 32},
        {"plan_id": "00" * 32},
    ],
    ids=lambda facts: next(iter(facts)),
)
def test_a_dealing_that_was_made_for_something_else_opens_nowhere(tmp_path, rng, aggregator, facts):
    """Such as another's that was copied, or one of an earlier round."""
    holders = published(aggregator, rng, tmp_path, **facts)
    look(holders["c"], aggregator)
    assert Signed.parse(Complaint, aggregator.of("complaints")["c.b"]).body.fault is SEALED
    assert aggregator.of("echoes") == {}


@pytest.mark.parametrize("lie", ["swapped", "another dealing", "short", "long", "gone"])
def test_an_aggregator_that_serves_other_shares_accuses_nobody(tmp_path, rng, aggregator, lie):
    holders = published(aggregator, rng, tmp_path)
    own = [aggregator.dealings["test.1.1", site].excerpt("a").to_bytes() for site in SITES]
    if lie == "another dealing":
        kept = dict(aggregator.manifests), dict(aggregator.complete)
        aggregator.deal(rng, "b")
        aggregator.manifests, aggregator.complete = kept
        own[1] = aggregator.dealings["test.1.1", "b"].excerpt("a").to_bytes()
    shown = {
        "swapped": own[1] + own[0] + own[2],
        "another dealing": b"".join(own),
        "short": b"".join(own)[:-1],
        "long": b"".join(own) + b"\x00",
        "gone": b"",
    }
    aggregator.shown["/shares"] = Response(200, {}, shown[lie])
    world = HolderWorld(aggregator, site="a")
    assert not look(holders["a"], aggregator, world)
    assert aggregator.said == {}
    assert holders["a"].promises.of(1) is None
    assert len(notices(world)) == 1


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


# Journals and sharing keys, for as long as a federation lasts.


def test_a_holder_whose_journal_is_gone_answers_nothing_until_it_has_a_new_key(tmp_path, rng, aggregator):
    """Its key still opens what it may have answered before, for another record."""
    holders = published(aggregator, rng, tmp_path)
    path = holders["a"].spool.promises_path("test")
    path.unlink()
    for _ in range(2):
        session, world = holder_in(tmp_path, PLAN, "a"), HolderWorld(aggregator, site="a")
        assert not look(session, aggregator, world)
        assert not session.promises.begun
        assert "journal" in notices(world)[0]
    assert aggregator.said == {}
    aggregator.lies = {"epoch": 2, "open": None}
    look(session, aggregator, world)
    assert session.promises.newest == 1
    assert session.sharing_keys.of(1) is None
    assert session.sharing_keys.of(2) is not None
    assert aggregator.said == {}


def test_a_first_holder_sits_nothing_out_and_a_late_one_what_is_open(tmp_path, aggregator):
    aggregator.stage = "created"
    first = holder_in(tmp_path, PLAN, "a")
    look(first, aggregator)
    assert first.promises.newest == 0
    aggregator.stage = "running"
    late = holder_in(tmp_path, PLAN, "b")
    look(late, aggregator)
    assert late.promises.newest == 1


def test_a_new_epoch_has_a_new_key_and_the_old_one_goes(tmp_path, aggregator):
    session = holder_in(tmp_path, PLAN, "trustee")
    look(session, aggregator)
    kept = session.sharing_keys.of(1)
    aggregator.lies = {"epoch": 2, "open": None}
    look(session, aggregator)
    assert session.sharing_keys.of(1).to_bytes() == kept.to_bytes()  # a sum of that epoch may come yet
    assert sorted(epoch for epoch, _ in aggregator.sharing) == [1, 2]
    aggregator.lies = {"epoch": 2}
    look(session, aggregator)
    assert session.sharing_keys.of(1) is None
    assert session.sharing_keys.of(2) is not None
    requests = len(aggregator.sharing)
    world = HolderWorld(aggregator, site="trustee")
    look(session, aggregator, world)
    assert world.paths("PUT") == []  # the aggregator has it
    assert len(aggregator.sharing) == requests


def test_a_member_that_is_no_holder_makes_no_key(tmp_path, aggregator):
    session = holder_in(tmp_path, PLAN, "c")
    without = held_roster(2, ("a", "b", "trustee"))
    aggregator.rosters.append(without)
    aggregator.roster = without.body_digest
    world = HolderWorld(aggregator, site="c")
    look(session, aggregator, world)
    assert aggregator.sharing == {}
    assert not session.promises.begun
    assert world.run(hold_awaited(session, aggregator.state)) is False


def test_the_answer_is_as_long_as_it_must_be(tmp_path, rng, aggregator):
    holders = published(aggregator, rng, tmp_path)
    for name in ("a", "b", "c"):
        look(holders[name], aggregator)
    (body,) = aggregator.of("answers").values()
    assert read_answer(Signed.parse(Answer, body).body.shares).shape == (N,)
