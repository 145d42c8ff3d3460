"""Epochs that people survive: old keystores open old sums, new ones are taken up, and nobody is accused in between.

The aggregator here is in memory; tests/e2e/test_lives.py has a training that goes through all of it.
"""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.poll import next_round, open_round
from client_sdk._protocol.state import federation_state
from client_sdk.progress import Notice
from he_agg.documents.roster import Role
from he_agg.errors import ConfigError, DecryptionError, InputError, KeystoreError, ProtocolError, Reason
from he_agg.ids import RoundId
from keys import GroupKey
from keys.keystores import Keystores, kept_epochs, kept_path
from keys.passphrase import Once
from tests.support.flows import (
    CONSORTIUM,
    FakeAggregator,
    World,
    assert_mean_of,
    keystores_of,
    roster_after,
    security_log,
    session_for,
    small_plan,
    update_of,
)
from tests.support.trust import identity_of

PLAN = small_plan()
SECOND = RoundId("test", 2, 1)


def new_epoch(tmp_path, server) -> GroupKey:
    """A new key at the aggregator, and beside this site's keystore in the file that brings it."""
    key = GroupKey.create(PLAN, server.key.epoch + 1)
    key.save(tmp_path / f"epoch-{key.epoch}")
    server.key = key
    return key


def accept(tmp_path, epoch: int) -> None:
    """What `epoch accept` does to the files."""
    path = tmp_path / "a.keystore"
    path.rename(kept_path(path, GroupKey.header(path)["epoch"]))
    shutil.copy(tmp_path / f"epoch-{epoch}", path)


def round_of(server, others: str = "abc") -> None:
    """A round comes to its end."""
    server.others_submit(others)
    server.close()


def sum_of(server):
    return [update_of("abc".index(site)) for site in sorted(server.record.body.members)]


@pytest.fixture
def server():
    return FakeAggregator(PLAN)


def two_epochs(tmp_path, server) -> None:
    """A round of epoch 1 and one of epoch 2, both published."""
    session_for(tmp_path, PLAN)
    round_of(server)
    server.open(SECOND)
    new_epoch(tmp_path, server)
    round_of(server)


def test_rounds_of_an_old_epoch_open_with_its_kept_keystore(tmp_path, server):
    two_epochs(tmp_path, server)
    accept(tmp_path, 2)
    session = session_for(tmp_path, PLAN)
    assert session.key.epoch == 2
    for number in (1, 2, 1):
        mean = World(server).run(_flows.fetch(session, RoundId("test", number, 1)))
        assert_mean_of(mean, PLAN, [update_of(i) for i in range(3)])
    assert security_log(session) == []


def test_a_sum_of_an_epoch_without_a_keystore_is_not_refused_but_explained(tmp_path, server):
    two_epochs(tmp_path, server)
    session = session_for(tmp_path, PLAN)
    with pytest.raises(KeystoreError, match="no keystore of epoch 2") as caught:
        World(server).run(_flows.fetch(session, SECOND))
    assert (caught.value.reason, "he-agg epoch accept" in caught.value.hint) == (Reason.NOT_MY_EPOCH, True)
    accept(tmp_path, 2)
    kept_path(tmp_path / "a.keystore", 1).unlink()
    session = session_for(tmp_path, PLAN)
    with pytest.raises(KeystoreError, match="no keystore of epoch 1") as caught:
        World(server).run(_flows.fetch(session, RoundId("test", 1, 1)))
    assert (caught.value.reason, "a.keystore.epoch-1" in caught.value.hint) == (Reason.NOT_MY_EPOCH, True)
    # Nobody was accused: no alarm in the log, no verdict at the aggregator.
    assert (security_log(session), server.verdicts, server.past["test.1.1"].verdicts) == ([], {}, {})
    # What is not true of an epoch is an alarm all the same.
    server.rewrite(members=server.record.body.members, epoch=7)
    with pytest.raises((DecryptionError, ProtocolError)):
        World(server).run(_flows.fetch(session, SECOND))
    assert security_log(session)


def test_a_running_site_takes_up_a_key_that_comes_meanwhile(tmp_path, server):
    session = session_for(tmp_path, PLAN)
    opened = World(server).run(next_round(session, None))
    round_of(server)
    server.open(SECOND)
    new_epoch(tmp_path, server)
    world = World(server)

    def come(_: int) -> None:
        if world.time > 3000 and session.key.epoch == 1 and not kept_path(tmp_path / "a.keystore", 1).exists():
            accept(tmp_path, 2)

    world.before = come
    found = world.run(next_round(session, str(opened.id)))
    assert (found.id, found.epoch, session.key.epoch) == (SECOND, 2, 2)
    assert 3000 < world.time < 3002
    notices = [event for event in world.events if isinstance(event, Notice)]
    assert {notice.topic for notice in notices} == {"other-epoch"}
    assert notices[0].waited_s == 0
    assert "no keystore of epoch 2" in notices[0].text
    assert "`he-agg epoch accept --config site.toml`" in notices[0].text
    # And what it had to do in epoch 1 it still can, in the session that is in epoch 2 now.
    assert_mean_of(World(server).run(_flows.fetch(session, opened.id)), PLAN, [update_of(i) for i in range(3)])
    server.others_submit("bc")
    mean = World(server).run(_flows.aggregate(session, found, update_of()))
    assert_mean_of(mean, PLAN, [update_of(i) for i in range(3)])


def test_the_wait_for_a_key_ends_with_the_sites_own_patience(tmp_path, server):
    session = dataclasses.replace(session_for(tmp_path, PLAN), round_s=600.0)
    new_epoch(tmp_path, server)
    world = World(server)
    with pytest.raises(KeystoreError) as caught:
        world.run(next_round(session, None))
    assert (caught.value.reason, 600 < world.time < 700) == (Reason.NOT_MY_EPOCH, True)
    with pytest.raises(KeystoreError) as caught:
        World(server).run(open_round(session))
    assert caught.value.reason == Reason.NOT_MY_EPOCH


def test_a_keystore_that_cannot_be_read_is_named_while_it_waits(tmp_path, server):
    session = dataclasses.replace(session_for(tmp_path, PLAN), round_s=60.0)
    new_epoch(tmp_path, server)
    accept(tmp_path, 2)
    (tmp_path / "a.keystore").chmod(0o644)
    world = World(server)
    with pytest.raises(KeystoreError, match="expected mode 0600, got 0644"):
        world.run(next_round(session, None))
    (tmp_path / "a.keystore").chmod(0o600)
    assert World(server).run(next_round(session, None)).epoch == 2
    new_epoch(tmp_path, server)
    other = GroupKey.create(small_plan(rounds=77), 3)
    other.save(tmp_path / "other")
    (tmp_path / "other").replace(tmp_path / "a.keystore")
    with pytest.raises(KeystoreError, match="expected a group key for plan"):
        World(server).run(next_round(session, None))


def test_an_aggregator_behind_this_site_is_waited_for_and_nothing_is_encrypted_under_an_old_key(tmp_path, server):
    session = session_for(tmp_path, PLAN)
    old = server.key
    new = new_epoch(tmp_path, server)
    server.key = old
    accept(tmp_path, 2)
    world = World(server)

    def publish(_: int) -> None:
        if world.time > 300:
            server.key = new

    world.before = publish
    opened = world.run(next_round(session, None))
    assert (opened.epoch, session.key.epoch) == (2, 2)
    notices = [event for event in world.events if isinstance(event, Notice)]
    assert {notice.topic for notice in notices} == {"other-epoch"}
    assert "`he-agg epoch publish BUNDLE --config site.toml`" in notices[0].text


@pytest.mark.parametrize("where", ["state", "record"])
def test_an_epoch_that_goes_back_is_refused(tmp_path, server, where):
    """Whoever has left the federation may hold an old epoch's key, and the aggregator may know."""
    old = server.key
    two_epochs(tmp_path, server)
    accept(tmp_path, 2)
    session = session_for(tmp_path, PLAN)
    World(server).run(federation_state(session))
    server.open(RoundId("test", 3, 1))
    server.key = old
    if where == "record":
        round_of(server)
    with pytest.raises(ProtocolError, match="epoch: expected at least 2, got 1") as caught:
        World(server).run(next_round(session, None))
    assert caught.value.reason == Reason.CHAIN_MISMATCH


def test_who_joined_later_is_told_so(tmp_path, server, monkeypatch):
    """Site d of version 2 asks for a round of version 1, by an aggregator that names it nowhere."""
    two_epochs(tmp_path, server)
    d = identity_of("d")
    members = dict(CONSORTIUM.roster.body.members) | {"d": d.member([Role.SITE])}
    server.rosters.append(roster_after(CONSORTIUM.roster, members))
    server.open(RoundId("test", 3, 1))
    (tmp_path / "a.roster.json").unlink()
    (tmp_path / "d.roster.json").write_bytes(server.rosters[-1].encode())
    keystores_of(tmp_path, server.key, "d")
    session = session_for(tmp_path, PLAN, "d")
    monkeypatch.setattr(World, "_verify", lambda *_: True)  # it knows the first roster only
    world = World(server, site="d")
    with pytest.raises(InputError, match="site d was no member of federation test when it opened") as caught:
        world.run(_flows.fetch(session, RoundId("test", 1, 1)))
    assert (caught.value.reason, security_log(session)) == (Reason.NOT_YET_MEMBER, [])
    # Of a time whose roster is gone from this machine, but whose record names the site, it says that.
    (tmp_path / "a.roster.json").write_bytes(server.rosters[-1].encode())
    session = dataclasses.replace(session_for(tmp_path, PLAN), keys=session.keys)
    with pytest.raises(ConfigError, match="has no roster of that time any more") as found:
        World(server).run(_flows.fetch(session, RoundId("test", 1, 1)))
    assert (found.value.reason, security_log(session)) == (Reason.ROSTER_MISMATCH, [])


def test_a_sum_of_too_few_for_a_later_roster_is_no_alarm(tmp_path, server):
    """Removing a site may ask for larger groups; what was summed before was right then."""
    session = session_for(tmp_path, PLAN)
    round_of(server, "bc")
    server.open(SECOND)
    World(server).run(federation_state(session))
    server.rosters.append(roster_after(CONSORTIUM.roster, min_sites=3))
    World(server).run(open_round(session))
    with pytest.raises(InputError, match="is of 2 sites, enough by the roster of its time; version 2 wants") as caught:
        World(server).run(_flows.fetch(session, RoundId("test", 1, 1)))
    assert (caught.value.reason, security_log(session)) == (Reason.ROSTER_MISMATCH, [])
    # But nobody goes on with groups that the newest roster forbids.
    round_of(server, "bc")
    with pytest.raises(DecryptionError):
        World(server).run(_flows.fetch(session, SECOND))
    assert security_log(session)[0]["what"] == "record, fewest members"


def test_the_passphrase_is_asked_for_once(tmp_path):
    path, asked = tmp_path / "k", []
    for epoch in (1, 2, 3):
        GroupKey.create(PLAN, epoch).save(kept_path(path, epoch) if epoch < 3 else path, "correct horse")

    def ask() -> str:
        asked.append(1)
        return "correct horse"

    keys = Keystores(path, ask)
    assert [keys.of(epoch).epoch for epoch in (1, 2, 3)] == [1, 2, 3]
    assert (keys.of(4), len(asked)) == (None, 1)
    assert "correct" not in repr(keys)
    assert Once(ask)() == "correct horse"


def test_a_keystore_under_the_name_of_another_epoch_is_refused(tmp_path):
    keys = keystores_of(tmp_path, GroupKey.create(PLAN, 3))
    GroupKey.create(PLAN, 1).save(keys.path_of(2))
    with pytest.raises(KeystoreError, match="expected the group key of epoch 2, got that of epoch 1"):
        keys.of(2)


def test_another_key_of_the_same_epoch_is_not_taken_up(tmp_path):
    keys = keystores_of(tmp_path, GroupKey.create(PLAN, 2))
    first = keys.newest
    GroupKey.create(PLAN, 2).save(tmp_path / "other")
    (tmp_path / "other").replace(tmp_path / "a.keystore")
    assert keys.look() is first
    assert (keys.of(2), keys.newest) == (first, first)
    assert "which was here before" in keys.trouble
    later = GroupKey.create(PLAN, 3)
    later.save(tmp_path / "later")
    (tmp_path / "later").replace(tmp_path / "a.keystore")
    assert (keys.look().key_id, keys.of(2), keys.trouble) == (later.key_id, first, "")


@pytest.mark.parametrize("mounted", [True, False])
def test_a_linked_keystore_is_taken_up_when_what_it_leads_to_is_replaced(tmp_path, mounted):
    """As Kubernetes mounts secrets, whose folder is swapped; or a plain link to a file that is replaced."""
    old, new = GroupKey.create(PLAN, 1), GroupKey.create(PLAN, 2)
    data = tmp_path / "..data"
    for folder in ("..one", "..two"):
        (tmp_path / folder).mkdir()
    if mounted:
        data.symlink_to("..one")
    else:
        data.mkdir()
    old.save(data / "demo.keystore")
    link = tmp_path / "a.keystore"
    link.symlink_to("..data/demo.keystore")
    keys = Keystores(link)
    assert (keys.look().epoch, kept_epochs(link)) == (1, set())
    if mounted:
        new.save(tmp_path / "..two" / "demo.keystore")
        (tmp_path / "next").symlink_to("..two")
        (tmp_path / "next").replace(data)
    else:
        new.save(data / "next")
        (data / "next").replace(data / "demo.keystore")
    assert keys.look().epoch == 2
    old.save(kept_path(data / "demo.keystore", 1))
    assert (Keystores(link).of(1).key_id, kept_epochs(link)) == (old.key_id, {1})
