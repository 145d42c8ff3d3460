"""Rounds under split keys, without a network: dealing and delivering, against every kind of lie and accident."""

from __future__ import annotations

import dataclasses

import pytest

from client_sdk._disk.dealt import Dealt
from client_sdk._effects import Request, Response
from client_sdk._protocol import verbs as _flows
from he_agg.documents.manifest import Manifest
from he_agg.documents.sharing import HolderList, SharingKey
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, DecryptionError, InputError, ProtocolError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.sharing.dealing import Dealing
from he_agg.sharing.thresholds import Thresholds
from tests.support.flows import (
    CONSORTIUM,
    OPEN,
    ROUND,
    KilledError,
    World,
    assert_mean_of,
    damage_file,
    problem,
    security_log,
    spooled,
    update_of,
)
from tests.support.split import (
    HOLDERS,
    TRUSTEE,
    SplitAggregator,
    answering,
    list_of,
    session_of,
    sharing_key_of,
    split_plan,
    split_roster,
)
from tests.support.trust import identity_of

PLAN = split_plan()
ALL = [update_of(i) for i in range(3)]
NEXT, AGAIN = RoundId("test", 2, 1), RoundId("test", 1, 2)
FIVE = (*HOLDERS, "uncle")


@pytest.fixture
def aggregator():
    return SplitAggregator(PLAN)


def submitted(tmp_path, aggregator, **policy):
    session, world = session_of(tmp_path, PLAN, **policy), World(aggregator)
    world.run(_flows.submit(session, aggregator.opened, update_of()))
    return session, world


def test_whole_round_is_exact(tmp_path, aggregator):
    aggregator.others_deal(tmp_path / "others")
    session, world = session_of(tmp_path, PLAN), World(aggregator, answering(aggregator, *HOLDERS))
    mean = world.run(_flows.aggregate(session, OPEN, update_of()))
    assert_mean_of(mean, PLAN, ALL)
    assert spooled(tmp_path) == []
    assert security_log(session) == []


def test_the_dealing_is_sent_before_the_parts_and_is_the_manifests(tmp_path, aggregator):
    _, world = submitted(tmp_path, aggregator)
    dealt, *parts = [line for line, _ in world.sent if not line.startswith("GET")]
    signed = aggregator.manifests["a"]
    path = f"/v1/rounds/{ROUND}/submissions/{signed.body.nonce}"
    assert dealt == f"PUT {path}/dealing"
    assert parts == [f"PUT {path}"]
    assert signed.body.holders == aggregator.holders.digest
    dealing = Dealing.parse(world.sent[1][1], aggregator.holders.holders)
    assert signed.body.dealing == dealing.digest
    assert len(dealing.to_bytes()) == aggregator.holders.holders.dealing_bytes


def test_two_dealings_of_one_update_have_nothing_in_common(tmp_path, aggregator):
    dealt = []
    for place in ("first", "second"):
        session, _ = submitted(tmp_path / place, SplitAggregator(PLAN))
        dealt.append(Dealing.parse(session.spool.entry(ROUND).dealing(), aggregator.holders.holders))
    assert not set(dealt[0].commitments) & set(dealt[1].commitments)
    assert not set(dealt[0].blobs) & set(dealt[1].blobs)


def test_killed_anywhere_it_deals_once_for_what_it_has_announced(tmp_path):
    """After any effect: whatever was announced is finished with the very dealing that was stored for it."""
    for step in range(60):
        root, aggregator = tmp_path / str(step), SplitAggregator(PLAN)
        root.mkdir()

        def kill(number: int, step: int = step) -> None:
            if number == step:
                raise KilledError

        session, world = session_of(root, PLAN), World(aggregator)
        world.before = kill
        try:
            world.run(_flows.submit(session, OPEN, update_of()))
        except KilledError:
            sent = [body for line, body in world.sent if line.endswith("/dealing")]
            honest = World(aggregator)
            honest.run(_flows.submit(session_of(root, PLAN), OPEN, update_of()))
            sent += [body for line, body in honest.sent if line.endswith("/dealing")]
            assert len(set(sent)) == 1
            assert list(aggregator.dealings) == list(aggregator.complete.values())
        else:
            assert step > 20
            return
    pytest.fail("it never ended")


@pytest.mark.parametrize("damage", ["changed", "shorter", "missing"])
def test_a_dealing_that_this_sites_disk_damaged_is_not_blamed_on_the_aggregator(tmp_path, aggregator, damage):
    session = session_of(tmp_path, PLAN)
    world = World(aggregator, lambda request, _: problem(409, "bad-request") if request.method == "PUT" else None)
    with pytest.raises(ProtocolError):
        world.run(_flows.submit(session, OPEN, update_of()))
    damage_file(session.spool.entry(ROUND).path / "dealing", damage)
    with pytest.raises(WireError, match="damaged") as caught:
        World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    assert caught.value.reason == Reason.BAD_DIGEST


def test_a_dealing_that_is_damaged_on_the_way_is_sent_again(tmp_path, aggregator):
    left = 2

    def meddle(request: Request, body: bytes):
        nonlocal left
        if request.path.endswith("/dealing") and left:
            left -= 1
            return problem(400, "bad-digest")
        return None

    world = World(aggregator, meddle)
    world.run(_flows.submit(session_of(tmp_path, PLAN), OPEN, update_of()))
    sent = [body for line, body in world.sent if line.endswith("/dealing")]
    assert len(sent) == 3
    assert len(set(sent)) == 1


def test_a_dealing_that_the_aggregator_has_lost_is_sent_again(tmp_path, aggregator):
    lost = False

    def meddle(request: Request, body: bytes):
        nonlocal lost
        if request.method == "PUT" and not request.path.endswith("/dealing") and not lost:
            lost = True
            aggregator.dealt.clear()
        return

    world = World(aggregator, meddle)
    receipt = world.run(_flows.submit(session_of(tmp_path, PLAN), OPEN, update_of()))
    assert aggregator.complete == {"a": receipt.id}
    assert len([line for line, _ in world.sent if line.endswith("/dealing")]) == 2


def test_a_dealing_that_was_damaged_after_the_round_closed_is_sent_again(tmp_path, aggregator):
    aggregator.others_deal(tmp_path / "others")
    holding, asked = answering(aggregator, *HOLDERS), 0

    def meddle(request: Request, body: bytes):
        nonlocal asked
        if "/record" in request.path:
            asked += 1
            if asked == 1:
                del aggregator.dealings[aggregator.complete["a"]]
            if len(aggregator.dealings) < 3:
                return Response(204)
        return holding(request, body)

    world = World(aggregator, meddle)
    mean = world.run(_flows.aggregate(session_of(tmp_path, PLAN), OPEN, update_of()))
    assert_mean_of(mean, PLAN, ALL)
    assert len({body for line, body in world.sent if line.endswith("/dealing")}) == 1


def test_a_renewed_manifest_keeps_list_and_dealing(tmp_path, aggregator):
    """The round has opened under the first roster; the site knows the second when it announces."""
    second = split_roster(FIVE, version=2)

    def meddle(request: Request, body: bytes):
        if request.method == "PUT" and not request.path.endswith("/dealing") and len(aggregator.rosters) == 1:
            aggregator.rosters.append(second)
            return problem(422, "roster-mismatch")
        return None

    world = World(aggregator, meddle)
    world.run(_flows.submit(session_of(tmp_path, PLAN), OPEN, update_of()))
    *_, (_, sent), _ = [sent for sent in world.sent if sent[0].startswith("PUT")]
    first = Signed.parse(Manifest, sent[PLAN.public.wire_bytes :].rstrip(b" ")).body
    renewed = aggregator.manifests["a"].body
    assert renewed == dataclasses.replace(first, roster=second.body_digest)
    assert renewed.holders == aggregator.holders.digest


def rewritten(aggregator, change):
    """The list, with changed keys."""
    keys = dict(aggregator.holders.keys)
    change(keys)
    return dataclasses.replace(aggregator.holders, keys=keys)


def foreign_key(keys):
    """The operator's own key in the name of a holder."""
    body = SharingKey("test", 1, "b", sharing_key_of("nobody").public)
    keys["b"] = Signed.make(body, identity_of("nobody").signing_key, "b")


def key_of_another_epoch(keys):
    body = SharingKey("test", 2, "b", sharing_key_of("b", 2).public)
    keys["b"] = Signed.make(body, identity_of("b").signing_key)


def key_of_no_holder(keys):
    body = SharingKey("test", 1, "uncle", sharing_key_of("uncle").public)
    keys["uncle"] = Signed.make(body, identity_of("uncle").signing_key)


def too_few_keys(keys):
    del keys["a"], keys[TRUSTEE]


def nothing_was_dealt(session, world):
    assert world.paths("PUT") == []
    assert session.pending() == []
    assert not (session.spool.entry(ROUND).path / "dealing").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (foreign_key, Reason.BAD_SIGNATURE),
        (key_of_another_epoch, Reason.BAD_FIELD),
        (key_of_no_holder, Reason.BAD_FIELD),
        (too_few_keys, Reason.BAD_ANSWER),
    ],
)
def test_nothing_is_dealt_to_a_list_that_is_not_the_rosters(tmp_path, aggregator, change, reason):
    session = session_of(tmp_path, PLAN)
    aggregator.holders = rewritten(aggregator, change)
    world = World(aggregator)
    with pytest.raises(ProtocolError) as caught:
        world.run(_flows.submit(session, OPEN, update_of()))
    assert caught.value.reason == reason
    nothing_was_dealt(session, world)
    (line,) = security_log(session)
    assert (line["event"], line["reason"]) == ("holders-rejected", str(reason))


@pytest.mark.parametrize("named", ["unknown", "without holders", "older than the last record"])
def test_nothing_is_dealt_to_the_holders_of_a_roster_that_cannot_be(tmp_path, aggregator, named):
    session = session_of(tmp_path, PLAN)
    if named == "unknown":
        aggregator.holders = list_of(split_roster(FIVE))
    elif named == "without holders":
        (tmp_path / "plain").mkdir()
        (tmp_path / "plain" / "a.roster.json").write_bytes(CONSORTIUM.roster.encode())
        session = session_of(tmp_path / "plain", PLAN)
        aggregator.rosters = [CONSORTIUM.roster]
        aggregator.holders = dataclasses.replace(aggregator.holders, roster=CONSORTIUM.roster.body_digest)
    else:
        old, aggregator.rosters = aggregator.holders, [*aggregator.rosters, split_roster(version=2)]
        aggregator.open(ROUND)
        aggregator.fail()
        aggregator.open(AGAIN)
        aggregator.holders = old
    world = World(aggregator)
    with pytest.raises(ProtocolError) as caught:
        world.run(_flows.submit(session, aggregator.opened, update_of()))
    assert caught.value.reason == Reason.ROSTER_MISMATCH
    nothing_was_dealt(session, world)


def test_a_round_that_opened_under_an_older_roster_is_dealt_to_by_that(tmp_path, aggregator):
    """The newest roster names another trustee; this attempt's list is that of the roster before."""
    aggregator.rosters.append(split_roster(FIVE, version=2))
    session, world = session_of(tmp_path, PLAN), World(aggregator)
    world.run(_flows.submit(session, OPEN, update_of()))
    assert aggregator.manifests["a"].body.holders == aggregator.holders.digest
    assert aggregator.holders.names == HOLDERS


@pytest.mark.parametrize("change", ["names", "quorum", "threshold"])
@pytest.mark.parametrize("restart", [False, True])
def test_within_a_number_nothing_is_dealt_to_another_list(tmp_path, aggregator, change, restart):
    session, _ = submitted(tmp_path, aggregator)
    aggregator.fail()
    other = {
        "names": split_roster(FIVE, version=2),
        "quorum": split_roster(version=2, thresholds=Thresholds(4, 4, 2)),
        "threshold": split_roster(version=2, thresholds=Thresholds(4, 3, 3)),
    }[change]
    aggregator.rosters.append(other)
    aggregator.open(AGAIN)
    aggregator.stage = "running"
    if restart:
        session = session_of(tmp_path, PLAN)
    world = World(aggregator)
    with pytest.raises(ProtocolError, match="holders of round number 1") as caught:
        world.run(_flows.submit(session, aggregator.opened, update_of()))
    assert caught.value.reason == Reason.ROSTER_MISMATCH
    assert world.paths("PUT") == []
    assert not session.is_stored(AGAIN)
    assert [line["event"] for line in security_log(session)] == ["holders-rejected"]
    aggregator.open(NEXT)  # the number is burnt
    World(aggregator).run(_flows.submit(session, aggregator.opened, update_of()))
    assert aggregator.manifests["a"].body.holders == aggregator.holders.digest


def test_within_a_number_keys_of_the_same_holders_may_be_others(tmp_path, aggregator):
    """Somebody has lost a sharing key, or was late with it; and the roster was renewed."""
    session, _ = submitted(tmp_path, aggregator)
    aggregator.fail()
    aggregator.rosters.append(split_roster(version=2))
    aggregator.open(AGAIN)
    aggregator.holders = list_of(aggregator.rosters[-1], without=[TRUSTEE])
    World(aggregator).run(_flows.submit(session, aggregator.opened, update_of()))
    assert aggregator.manifests["a"].body.holders == aggregator.holders.digest


def test_lists_are_pinned_by_number(tmp_path):
    lists = [split_roster().body, split_roster(FIVE).body, split_roster(version=2).body]
    members = dict(lists[0].members)
    members["b"] = dataclasses.replace(members["b"], signing_key="00" * 32)
    other_key = dataclasses.replace(lists[0], members=members)
    path = tmp_path / "test.dealt"
    dealt = Dealt(path)
    assert dealt.pin(1, lists[0])
    assert dealt.pin(1, lists[2])
    assert not dealt.pin(1, lists[1])
    assert not dealt.pin(1, other_key)
    assert dealt.pin(2, lists[1])
    again = Dealt(path)
    assert again.pin(2, lists[1])
    assert not again.pin(2, lists[0])
    assert not again.pin(1, lists[1])
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes() + b'{"holders":"')  # what a crash left
    assert Dealt(path).pin(3, lists[0])
    assert [line.count(b"{") for line in path.read_bytes().splitlines()] == [1, 1, 1]
    assert (dealt.version(1), Dealt(path).version(2), dealt.version(4)) == (1, 1, None)
    path.write_bytes(b'{"holders":"00","roster":1,"round":1}\n')
    with pytest.raises(ConfigError, match="to which holders it has dealt"):
        Dealt(path).pin(1, lists[0])


def test_a_list_is_read_with_the_roster_that_it_names():
    holders = list_of(split_roster())
    assert HolderList.roster_of(holders.encode()) == split_roster().body_digest
    for body in (b"", b"[]", b"{}", b'{"roster":"00"}', holders.encode()[:-1]):
        with pytest.raises(WireError):
            HolderList.roster_of(body)


def test_a_member_that_has_dealt_to_another_list_is_in_no_sum(tmp_path, aggregator):
    """Step 4: one of them answers for records that this site knows nothing of."""
    aggregator.others_deal(tmp_path / "others", "b")
    mine = aggregator.holders
    aggregator.holders = list_of(aggregator.rosters[0], without=["b"])
    aggregator.others_deal(tmp_path / "others", "c")
    aggregator.holders = mine
    session, world = session_of(tmp_path, PLAN), World(aggregator)
    with pytest.raises(DecryptionError) as caught:
        world.run(_flows.aggregate(session, OPEN, update_of()))
    assert caught.value.reason == Reason.SUM_REJECTED
    (line,) = [line for line in security_log(session) if line["event"] == "sum-rejected"]
    assert line["what"] == "manifest of c, holders"
    assert not any("/answers" in path for path in world.paths("GET"))


def test_an_update_in_a_sum_that_was_never_opened_is_not_sent_again(tmp_path, aggregator):
    """Two sums over the same updates, of which one site is in one only, would give that one away."""
    aggregator.others_deal(tmp_path / "others")
    session = session_of(tmp_path, PLAN)
    with pytest.raises(ProtocolError, match="fewer than 2 of 4 holders"):
        World(aggregator).run(_flows.aggregate(session, OPEN, update_of()))
    aggregator.open(NEXT)  # the operator has skipped it
    for site in (session, session_of(tmp_path, PLAN)):
        world = World(aggregator)
        with pytest.raises(InputError, match=r"the sum of round test\.1\.1, which this site has not") as caught:
            world.run(_flows.submit(site, aggregator.opened, update_of()))
        assert caught.value.reason == Reason.REPEATED_UPDATE
        assert "difference of two sums" in caught.value.hint
        assert world.paths("PUT") == []
    World(aggregator).run(_flows.submit(session, aggregator.opened, update_of(may_repeat=True)))
    assert len(aggregator.complete) == 1
