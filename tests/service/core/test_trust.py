"""Rosters, epochs, commitments, the chain of records and the transcript, over a real socket."""

import json

import pytest

from he_agg import canonical
from he_agg.documents.epoch import Commitment
from he_agg.documents.record import NO_RECORD, RoundRecord
from he_agg.documents.roster import Member, Role, Roster
from he_agg.documents.signed import Signed
from he_agg.protocol.messages import Receipt
from he_agg.signing import SigningKey
from service.core.aggregator_key import AggregatorKey
from service.domain import events
from service.operator import operations
from service.store.rows import Basis
from tests.service.http.answers import assert_problem
from tests.support.peers import (
    KEY_ID,
    Peer,
    adopt,
    deal,
    expected_sum,
    known,
    make_plan,
    prepare,
    read_ended,
    read_receipt,
    read_sum,
    take_end,
    take_parts,
)
from tests.support.simulated import SimulatedFederation
from tests.support.trust import AGGREGATOR, AUDITOR, COORDINATOR, Consortium, identity_of


class Trust:
    """A federation on a server, whose coordinator changes rosters and keys."""

    def __init__(self, world):
        self.world = world
        self.peer = world.peers[COORDINATOR]
        self.plan_id = world.plan.plan_id

    @property
    def members(self) -> Consortium:
        return known(self.world.name)

    @property
    def listed(self):
        return dict(self.members.roster.body.members)

    def bring_roster(self, signed: Signed[Roster]):
        answer = self.peer.bring(f"rosters/{signed.body.version}", signed.encode())
        if answer.status_code == 201:
            adopt(Consortium(self.world.name, self.members.identities, signed))
        return answer

    def bundle(self, epoch, **changed):
        return deal(self.members, epoch, **{"plan_id": self.plan_id} | changed)

    def bring_bundle(self, signed, number=None):
        return self.peer.bring(f"epochs/{number or signed.body.epoch}", signed.encode())

    def submit(self, site, seed, **changed):
        current = self.world.peer(site).current(wait=5)
        fields = {"epoch": current["epoch"], "key_id": current["key_id"]} | changed
        prepared = prepare(self.world.plan, current["round_id"], site, seed, **fields)
        assert self.world.peer(site).submit(prepared).status_code == 200
        return prepared

    def unchanged(self, act, status, reason):
        self.world.rest()
        before = self.world.snapshot()
        problem = assert_problem(act(), status, reason)
        assert self.world.snapshot() == before
        return problem


@pytest.fixture
def trust(world):
    return Trust(world)


# epochs


def test_bundles_that_do_not_fit(trust, world):
    members = trust.members
    other = Consortium(world.name, members.identities, members.next_roster(trust.listed))
    for bundle, status, reason in (
        (trust.bundle(2, plan_id="ab" * 32), 422, "plan-mismatch"),
        (trust.bundle(3), 409, "already-exists"),
        (trust.bundle(2, federation="other"), 422, "bad-field"),
        (deal(other, 2, plan_id=trust.plan_id), 422, "roster-mismatch"),
        (trust.bundle(2, roster_version=2), 422, "roster-mismatch"),
        (trust.bundle(2, dealer="a", signer="a"), 403, "forbidden"),
        (trust.bundle(2, signer="a"), 422, "bad-signature"),
        (trust.bundle(2, sealed={"a": b"", "b": b""}), 422, "bad-field"),
        (trust.bundle(2, sealed=dict.fromkeys("abcd", b"")), 422, "bad-field"),
        (trust.bundle(1), 422, "key-mismatch"),
    ):
        trust.unchanged(lambda b=bundle: trust.bring_bundle(b), status, reason)
    trust.unchanged(lambda: trust.bring_bundle(trust.bundle(2), number=3), 422, "bad-field")
    trust.unchanged(lambda: trust.peer.bring("epochs/2", b"{}"), 422, "bad-field")
    trust.unchanged(lambda: world.peer("a").bring("epochs/2", trust.bundle(2).encode()), 403, "forbidden")
    trust.unchanged(lambda: trust.peer.document("epochs/1"), 404, "unknown-epoch")  # federation.json only
    first, second = trust.bundle(1, key_id=KEY_ID), trust.bundle(2)
    assert trust.bring_bundle(first).status_code == 201  # the one that was missing: nothing else changes
    assert world.peer().current()["round_id"] == f"{world.name}.1.1"
    assert [trust.bring_bundle(second).status_code for _ in range(3)] == [201, 200, 200]
    trust.unchanged(lambda: trust.bring_bundle(trust.bundle(2, payload=b"other")), 409, "already-exists")
    for number, bundle in ((1, first), (2, second), ("newest", second)):
        answer = world.peer("b").document(f"epochs/{number}")
        assert (answer.content, answer.headers["etag"]) == (bundle.encode(), f'"{bundle.digest}"')


def test_a_new_key_while_a_round_is_open(trust, world):
    trust.submit("a", 1)
    begun = prepare(world.plan, world.round_id, "b", 2)
    world.peer("b").put(begun, 0, begun.parts[0])
    assert trust.bring_bundle(trust.bundle(2)).status_code == 201
    current = world.peer().current()
    assert (current["round_id"], current["epoch"], current["key_id"]) == (f"{world.name}.1.2", 2, f"{2:064x}")
    assert current["index"] == 1
    record = read_ended(world.peer().record(f"{world.name}.1.1").content).record
    assert record.excluded == {"a": "epoch-changed", "b": "incomplete", "c": "absent"}
    assert (record.epoch, record.key_id, record.outcome) == (1, KEY_ID, "failed")
    old = prepare(world.plan, current["round_id"], "a", 1, epoch=1)
    trust.unchanged(lambda: world.peer().end(current["round_id"], old.manifest), 422, "key-mismatch")
    new = [trust.submit(site, i) for i, site in enumerate("abc")]
    record = read_ended(world.peer().record(current["round_id"], wait=20).content).record
    assert (record.outcome, record.epoch, record.key_id) == ("published", 2, f"{2:064x}")
    assert record.members == {site: p.id for site, p in zip("abc", new, strict=True)}


@pytest.mark.parametrize("phase", ["closed", "folding"])
@pytest.mark.parametrize("change", ["key", "roster"])
def test_a_closed_round_is_finished_under_what_it_opened_under(tmp_path, phase, change):
    inside = SimulatedFederation(tmp_path / "data", make_plan("f"))
    prepared = [inside.submit(site, i, "f.1.1") for i, site in enumerate("abc")]
    members, conductor = inside.members, inside.aggregator.conductor
    if phase == "folding":
        conductor.apply("f", events.FoldBegan(1, 1))
    if change == "key":
        bundle = deal(members, 2, plan_id=inside.plan.plan_id)
        operations.bring_bundle(inside.aggregator.store, conductor, "f", bundle.encode())
    else:
        left = {name: one for name, one in members.roster.body.members.items() if name != "c"}
        operations.bring_roster(inside.aggregator.store, conductor, "f", members.next_roster(left).encode())
    assert inside.row("f.1.1").phase == phase
    inside.fold_one("f.1.1")
    record = inside.record("f.1.1")
    assert (record.outcome, record.epoch, record.key_id) == ("published", 1, KEY_ID)
    assert record.roster == members.roster.body_digest
    assert record.members == {site: p.id for site, p in zip("abc", prepared, strict=True)}
    with inside.aggregator.store.read() as tx:
        basis, invited = tx.newest_round("f").basis, tx.invited(inside.row("f.2.1").id)
    assert basis.epoch == (2 if change == "key" else 1)
    assert (basis.roster_version, invited) == ((1, {"a", "b", "c"}) if change == "key" else (2, {"a", "b"}))
    inside.end()


# rosters


def test_rosters_that_do_not_follow(trust, world):
    members, listed = trust.members, trust.listed
    good = members.next_roster(listed)
    stranger = SigningKey.generate()
    others = listed | {AGGREGATOR: Member(AGGREGATOR, stranger.public_key.hex(), frozenset({Role.AGGREGATOR}))}
    many = listed | {name: identity_of(name).member([Role.SITE]) for name in ("d", "e", "f")}
    usurped = listed | {"a": identity_of("a").member([Role.COORDINATOR, Role.SITE])}
    by_usurper = Signed(members.next_roster(usurped).body)
    by_usurper = by_usurper.signed_by("a", identity_of("a").signing_key)
    expired = {"issued_at": 1000, "expires_at": 2000}
    for signed, status, reason in (
        (Signed(good.body), 422, "bad-signature"),
        (by_usurper, 422, "bad-signature"),
        (members.next_roster(others), 422, "roster-mismatch"),
        (members.next_roster(many), 422, "no-headroom"),
        (members.next_roster(listed, **expired), 401, "roster-expired"),
    ):
        trust.unchanged(lambda s=signed: trust.bring_roster(s), status, reason)
    later = Consortium(world.name, members.identities, good).next_roster(listed)
    trust.unchanged(lambda: trust.bring_roster(later), 409, "roster-mismatch")
    trust.unchanged(lambda: trust.peer.bring("rosters/3", good.encode()), 422, "bad-field")
    trust.unchanged(lambda: world.peer("a").bring("rosters/2", good.encode()), 403, "forbidden")
    trust.unchanged(lambda: trust.peer.document("rosters/2"), 404, "unknown-roster")
    assert [trust.bring_roster(good).status_code for _ in range(3)] == [201, 200, 200]
    trust.unchanged(lambda: trust.bring_roster(members.next_roster(listed, min_sites=3)), 409, "roster-mismatch")
    for version, signed in ((1, members.roster), (2, good), ("newest", good)):
        assert world.peer("b").document(f"rosters/{version}").content == signed.encode()


def test_a_site_is_added_while_a_round_is_open(trust, world):
    trust.submit("a", 1)
    before, round_id = trust.members.roster.body_digest, world.round_id
    following = trust.members.next_roster(trust.listed | {"late": identity_of("late").member([Role.SITE])})
    assert trust.bring_roster(following).status_code == 201
    late = Peer(world.client, world.name, identity_of("late"))
    current = late.current()
    assert (current["round_id"], current["invited"], current["roster_version"]) == (round_id, ["a", "b", "c"], 2)
    manifest = prepare(world.plan, round_id, "late", 1).manifest
    problem = trust.unchanged(lambda: late.end(round_id, manifest), 403, "not-invited")
    assert problem["round_id"] == round_id
    # Sites of the round may go by the old roster or the new one.
    trust.submit("b", 2, roster=before)
    trust.submit("c", 3, roster=following.body_digest)
    record = read_ended(world.peer().record(round_id, wait=20).content).record
    assert (record.outcome, record.roster, record.members.keys()) == ("published", before, {"a", "b", "c"})
    assert "late" in late.current(wait=5)["invited"]
    next_id = f"{world.name}.2.1"
    stale = prepare(world.plan, next_id, "a", 9, roster=before)
    answer = world.peer("a").submit(stale)
    assert (answer.status_code, answer.json()["reason"]) == (422, "roster-mismatch")
    for i, site in enumerate("abc"):
        trust.submit(site, 10 + i)
    assert late.submit(prepare(world.plan, next_id, "late", 13)).status_code == 200
    record = read_ended(world.peer().record(next_id, wait=20).content).record
    assert (record.roster, len(record.members)) == (following.body_digest, 4)


@pytest.mark.parametrize("how", ["removed", "another key"])
def test_a_site_is_removed_while_a_round_is_open(trust, world, how):
    trust.submit("a", 1)
    trust.submit("c", 3)
    changed = trust.listed
    del changed["c"]
    if how == "another key":
        changed["c"] = Member(
            "c", SigningKey.generate().public_key.hex(), frozenset({Role.SITE}), identity_of("c").member().receiving
        )
    following = trust.members.next_roster(changed)
    assert trust.bring_roster(following).status_code == 201
    answer = world.peer("c").state()
    told = (403, "no-longer-member") if how == "removed" else (401, "bad-signature")
    assert (answer.status_code, answer.json()["reason"]) == told
    record = read_ended(world.peer().record(f"{world.name}.1.1").content).record
    assert (record.outcome, record.excluded) == (
        "failed", {"a": "roster-changed", "b": "absent", "c": "roster-changed"},
    )  # fmt: skip
    current = world.peer().current()
    assert (current["round_id"], current["roster_version"]) == (f"{world.name}.1.2", 2)
    again = prepare(world.plan, current["round_id"], "c", 3).manifest
    assert world.peer("c").end(current["round_id"], again).status_code == told[0]
    if how == "removed":
        both = [trust.submit(site, i) for i, site in enumerate("ab")]
        record = read_ended(world.peer().record(current["round_id"], wait=20).content).record
        assert (record.outcome, record.roster) == ("published", following.body_digest)
        assert record.members == {"a": both[0].id, "b": both[1].id}
        got = read_sum(world.plan, world.peer().sum_from(current["round_id"]).content)
        for one, expected in zip(got, expected_sum(world.plan, both), strict=True):
            assert (one == expected).all()


def test_the_aggregator_gets_another_key(tmp_path, caplog):
    """Its key file is lost: nothing is signed until a roster lists the new one, and nothing breaks then."""

    inside = SimulatedFederation(tmp_path / "data", make_plan("f"))
    first = inside.submit("a", 1, "f.1.1")
    members = inside.members
    inside.close()
    (tmp_path / "data" / "aggregator.key").unlink()
    inside.open()
    assert [r.fields["federation"] for r in caplog.records if "does not list" in r.getMessage()] == ["f"]
    store, conductor = inside.aggregator.store, inside.aggregator.conductor
    with pytest.raises(ValueError, match="does not list this aggregator's key"):
        take_end(inside.aggregator, "f", "a", first)
    late = prepare(inside.plan, "f.1.1", "b", 2)
    take_parts(inside.aggregator, "f", "b", late, range(1))
    key = AggregatorKey.load_or_create(tmp_path / "data").signing_key
    listed = dict(members.roster.body.members)
    listed[AGGREGATOR] = Member(AGGREGATOR, key.public_key.hex(), frozenset({Role.AGGREGATOR}))
    following = members.next_roster(listed)
    operations.bring_roster(store, conductor, "f", following.encode())
    signed = Signed.parse(RoundRecord, inside.row("f.1.1").record or b"")
    signed.check_signed(following.body.keys_of(Role.AGGREGATOR))
    assert (signed.body.roster, signed.body.outcome) == (members.roster.body_digest, "failed")
    assert signed.body.excluded == {"a": "roster-changed", "b": "incomplete", "c": "absent"}
    adopt(Consortium("f", members.identities, following))
    for i, site in enumerate("abc"):
        inside.submit(site, i, "f.1.2")
    inside.fold_one("f.1.2")
    assert inside.record("f.1.2").previous == signed.digest
    inside.end()


# commitments


def commitment(member, **changed):
    fields = {"federation": "f", "epoch": 1, "key_id": KEY_ID, "site": member.name} | changed
    return Signed.make(Commitment(**fields), member.signing_key).encode()


def test_commitments(trust, world):
    a, path = world.members["a"], "epochs/1/commitments/a"
    good = commitment(a, federation=world.name)
    for document, status, reason in (
        (commitment(a), 422, "bad-field"),
        (commitment(a, federation=world.name, epoch=2), 422, "bad-field"),
        (commitment(a, federation=world.name, key_id="ab" * 32), 422, "key-mismatch"),
        (commitment(world.members["b"], federation=world.name), 403, "forbidden"),
        (commitment(world.members["b"], federation=world.name, site="a"), 422, "bad-signature"),
        (b"[]", 422, "bad-field"),
    ):
        trust.unchanged(lambda d=document: world.peer().bring(path, d), status, reason)
    trust.unchanged(lambda: world.peer("b").bring(path, good), 403, "forbidden")
    trust.unchanged(lambda: world.peer().bring("epochs/2/commitments/a", good), 404, "unknown-epoch")
    assert [world.peer().bring(path, good).status_code for _ in range(3)] == [201, 200, 200]
    # Somebody else's signature beside its own.
    twice = Signed.parse(Commitment, good).signed_by("b", world.members["b"].signing_key).encode()
    trust.unchanged(lambda: world.peer().bring(path, twice), 422, "bad-signature")
    for site in "cb":
        document = commitment(world.members[site], federation=world.name)
        assert world.peer(site).bring(f"epochs/1/commitments/{site}", document).status_code == 201
    for reader in (COORDINATOR, AUDITOR):
        listed = world.peers[reader].document("epochs/1/commitments")
        value = canonical.parse(listed.content, 2**16)
        found = [Signed.from_json(Commitment, one) for one in value["commitments"]]
        assert [one.body.site for one in found] == ["a", "b", "c"]
        for one in found:
            one.check_signed({one.body.site: world.members[one.body.site].signing_key.public_key})
    trust.unchanged(lambda: trust.peer.document("epochs/2/commitments"), 404, "unknown-epoch")


# records, manifests, receipts and the transcript


def test_everything_that_is_signed_verifies_and_chains(trust, world, own_server, make_world):
    world = make_world(server=own_server, rounds=10)
    trust = Trust(world)
    aggregators = trust.members.roster.body.keys_of(Role.AGGREGATOR)
    sent, previous, lines = {}, NO_RECORD, []
    for number in (1, 2, 3):
        round_id = world.round_id
        assert world.peer().record(round_id).status_code == 204
        if number == 2:  # one that fails in between
            assert trust.bring_bundle(trust.bundle(2)).status_code == 201
            ended = read_ended(world.peer().record(round_id, wait=5).content)
            assert ended.manifests == []
            failed = ended.signed
            failed.check_signed(aggregators)
            assert (failed.body.index, failed.body.previous) == (2, previous)
            previous, round_id = failed.digest, world.round_id
            lines.append(failed.encode())
        for i, site in enumerate("cab"):
            prepared = trust.submit(site, 10 * number + i)
            receipt = world.peer(site).complete(prepared).content
            assert Signed.parse(Receipt, receipt).signers(aggregators) == {AGGREGATOR}
            assert read_receipt(receipt).id == prepared.id
            sent[site] = prepared
        answer = world.peer().record(round_id, wait=20)
        signed = read_ended(answer.content).signed
        signed.check_signed(aggregators)
        index = world.peer().current(wait=5)["index"]
        assert (signed.body.index, signed.body.previous) == (index, previous)
        assert answer.headers["etag"] == f'"{signed.digest}"'
        assert world.peers[AUDITOR].record_at(index).content == signed.encode()
        if number == 2:
            own_server.start()
        again = world.peer("b").record(round_id)
        assert (again.content, again.headers["etag"]) == (answer.content, answer.headers["etag"])
        manifests = read_ended(again.content).manifests
        assert [one.encode() for one in manifests] == [sent[site].manifest for site in "abc"]
        for one in manifests:
            one.check_signed({one.body.site: world.members[one.body.site].signing_key.public_key})
            assert one.body.previous == previous
            assert signed.body.members[one.body.site] == one.digest
        lines += [one.encode() for one in manifests] + [signed.encode()]
        previous = signed.digest
    trust.unchanged(lambda: world.peer().record_at(5), 404, "unknown-round")
    assert world.peer().record_at(0).status_code == world.peer().record_at(10**10).status_code == 400
    answer = world.peers[AUDITOR].document("transcript")
    assert answer.headers["content-type"] == "application/jsonl"
    first, *rest = answer.content.splitlines()
    assert canonical.parse(first, 2**20) == {
        "v": 1, "kind": "transcript", "federation": world.name, "plan": world.plan.public.to_json(),
    }  # fmt: skip
    assert rest == [trust.members.roster.encode(), *lines]


def test_a_history_that_is_another_is_noticed_when_a_manifest_comes(trust, world):
    for i, site in enumerate("abc"):
        trust.submit(site, i)
    world.peer().record(f"{world.name}.1.1", wait=20)
    round_id = world.round_id
    for previous in (NO_RECORD, "ab" * 32):
        problem = world.peer().submit(prepare(world.plan, round_id, "a", 5, previous=previous))
        assert (problem.status_code, problem.json()["reason"]) == (409, "chain-mismatch")
        assert problem.json()["round_id"] == round_id
    right = read_ended(world.peer().record(f"{world.name}.1.1").content).signed.digest
    assert world.peer().complete(prepare(world.plan, round_id, "a", 5, previous=right)).status_code == 200


def test_a_roster_may_ask_for_more_sites_than_the_plan(tmp_path):
    inside = SimulatedFederation(tmp_path / "data", make_plan("f", min_sites=2, deadline_s=100))
    following = inside.members.next_roster(dict(inside.members.roster.body.members), min_sites=3)
    operations.bring_roster(inside.aggregator.store, inside.aggregator.conductor, "f", following.encode())
    for i, site in enumerate("ab"):
        inside.submit(site, i, "f.1.1")
    inside.clock.now += 102
    inside.aggregator.conductor.tick_all()
    record = inside.record("f.1.1")
    assert (record.outcome, record.roster) == ("failed", inside.members.roster.body_digest)
    assert inside.row("f.1.2").basis == Basis(1, KEY_ID, following.body_digest, 2)
    inside.end()


def test_of_one_submission_nobody_gets_more_than_the_manifest(trust, world):
    prepared = trust.submit("a", 1)
    for name in ("b", COORDINATOR, AUDITOR):
        peer = world.peers[name]
        for answer in (
            peer.status(prepared),
            peer.put(prepared, 0, prepared.parts[0]),
            peer.complete(prepared),
        ):
            assert answer.status_code in (403, 404, 405), (name, answer.text)
    shown = json.loads(world.peers[AUDITOR].document("transcript").content.splitlines()[-1])
    assert shown["kind"] == "roster"  # a round that is under way is nobody's business yet
