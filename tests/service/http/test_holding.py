"""Split keys over HTTP: sharing keys, lists of holders, dealings, echoes, answers and complaints, by stand-ins."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from he_agg.documents.holding import Answer, Echo
from he_agg.documents.roster import Receiving, Role
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.errors import WireError
from he_agg.ids import RoundId
from he_agg.sharing.dealing import Dealing
from he_agg.sharing.decoding import rebuild
from he_agg.sharing.masks import total_mask, unmasked
from he_agg.sharing.shares import ANSWER_BYTES, Fault, read_answer
from service.domain import events
from service.refusal import RefusedError
from tests.sharing.dealt import MASK_KEY
from tests.support.holding import Held, deal_to, holders_of, put_dealing, put_sharing_key, sharing_key, submit_all
from tests.support.peers import adopt, deal, enrol, make_plan, operator
from tests.support.simulated import SimulatedFederation
from tests.support.trust import Consortium, identity_of

HOLDERS = ("a", "b", "c", "trustee")  # the quorum is 3, the threshold 2


@pytest.fixture
def inside(tmp_path):
    """A federation whose sites are holders, and a trustee; nobody has a sharing key yet, so nothing is open."""
    plan = make_plan("f", split=True, min_sites=3, rounds=2, deadline_s=100)
    made = SimulatedFederation(tmp_path / "data", plan, holders=HOLDERS, sweep_s=1e-9)
    yield made
    made.end()


@pytest.fixture
def opened(inside):
    """Three of the four holders have a sharing key: round 1 is open."""
    for name in "abc":
        assert put_sharing_key(inside.at(name)).status_code == 201
    return inside


@pytest.fixture
def published(opened):
    """Round 1 has a sum, and its holders are awaited."""
    publish(opened, "f.1.1")
    return opened


def publish(inside, round_id):
    dealt = submit_all(inside.plan, inside.at, round_id)
    inside.fold()
    return dealt


def held(inside, *names, round_id="f.1.1"):
    return [Held(inside.at(name), round_id) for name in names]


def state(inside, member="trustee"):
    answer = inside.at(member).state()
    assert answer.status_code == 200, answer.text
    return Signed.parse(FederationState, answer.content).body


def refused(answer, status, reason):
    assert (answer.status_code, answer.json()["reason"]) == (status, reason), answer.text


def test_the_first_round_opens_with_as_many_sharing_keys_as_it_takes_to_end_it(inside):
    for n, name in enumerate("ab"):
        assert (state(inside).stage, state(inside).open, n) == ("running", None, n)
        assert [put_sharing_key(inside.at(name)).status_code for _ in range(2)] == [201, 200]
    assert put_sharing_key(inside.at("trustee")).status_code == 201
    assert state(inside).open.number == 1
    listed = holders_of(inside.at("a"), "f.1.1")
    assert (listed.names, list(listed.keys)) == (HOLDERS, ["a", "b", "trustee"])
    assert inside.row("f.1.1").basis.holders == listed.digest
    # Who comes too late for it is in the next one.
    assert put_sharing_key(inside.at("c")).status_code == 201
    assert holders_of(inside.at("trustee"), "f.1.1").digest == listed.digest
    for member in ("c", "trustee", "coordinator", "auditor"):
        shown = inside.at(member).document("epochs/1/sharing-keys").json()
        assert [one["body"]["holder"] for one in shown["sharing_keys"]] == list(HOLDERS)
    refused(inside.at("a").document("epochs/2/sharing-keys"), 404, "unknown-epoch")


def test_what_is_no_sharing_key_of_this_holder_and_epoch_is_refused(inside):
    trustee, member = inside.at("trustee"), identity_of("trustee")
    for status, reason, document in (
        (422, "bad-field", sharing_key("g", 1, member)),
        (422, "bad-field", sharing_key("f", 2, member)),
        (403, "forbidden", sharing_key("f", 1, identity_of("a"))),
        (422, "bad-signature", sharing_key("f", 1, member, signer=identity_of("a"))),
        (422, "bad-field", b"{}"),
    ):
        refused(put_sharing_key(trustee, 1, document), status, reason)
    refused(put_sharing_key(trustee, 2), 404, "unknown-epoch")
    refused(trustee.bring("epochs/1/sharing-keys/a", sharing_key("f", 1, member)), 403, "forbidden")
    refused(put_sharing_key(inside.at("auditor")), 403, "forbidden")
    assert put_sharing_key(trustee).status_code == 201
    other = sharing_key("f", 1, member, key=Receiving("x25519", "ab" * 32))
    refused(put_sharing_key(trustee, 1, other), 409, "already-exists")


def test_a_submission_is_complete_with_its_dealing_only(opened):
    a = opened.at("a")
    dealt = deal_to(opened.plan, holders_of(a, "f.1.1"), "f.1.1", "a", 1)
    answer = a.put(dealt.prepared, 0, dealt.prepared.whole)
    refused(answer, 409, "incomplete")
    assert "the dealing missing" in answer.json()["detail"]
    assert a.status(dealt.prepared).json() | {"missing": [], "dealing_missing": True} == a.status(dealt.prepared).json()
    data = dealt.dealing.to_bytes()
    assert [put_dealing(a, dealt, data).status_code for _ in range(2)] == [201, 200]
    assert not a.status(dealt.prepared).json()["dealing_missing"]
    assert a.complete(dealt.prepared).status_code == 200
    assert put_dealing(a, dealt, data).status_code == 200


def test_another_dealing_than_the_manifest_names_is_refused(opened):
    a = opened.at("a")
    holders = holders_of(a, "f.1.1")
    dealt, other = (deal_to(opened.plan, holders, "f.1.1", "a", seed) for seed in (1, 2))
    data = dealt.dealing.to_bytes()
    # It is known at the end only, and then the right one may take its place.
    assert put_dealing(a, dealt, other.dealing.to_bytes()).status_code == 201
    problem = a.put(dealt.prepared, 0, dealt.prepared.whole)
    refused(problem, 400, "bad-digest")
    assert "the dealing: expected SHA-256" in problem.json()["detail"]
    assert a.status(dealt.prepared).json()["dealing_missing"]
    refused(put_dealing(a, dealt, data[:-1]), 422, "truncated")
    refused(put_dealing(a, dealt, data + b"\0"), 413, "too-large")
    refused(put_dealing(a, dealt, b"HEKX" + data[4:]), 422, "bad-magic")
    refused(put_dealing(opened.at("b"), dealt, data), 404, "unknown-submission")
    assert [put_dealing(a, dealt, data).status_code for _ in range(2)] == [201, 200]
    assert a.complete(dealt.prepared).status_code == 200
    refused(put_dealing(a, dealt, other.dealing.to_bytes()), 400, "bad-digest")
    late = deal_to(opened.plan, holders, "f.1.1", "c", 3)
    opened.clock.now = opened.row("f.1.1").deadline_at + 1
    refused(put_dealing(opened.at("c"), late), 409, "round-closed")


@pytest.mark.parametrize("changed", [{"holders": "ab" * 32}, {"holders": None}, {"dealing": None}])
def test_a_submission_dealt_to_others_is_refused(opened, changed):
    a = opened.at("a")
    dealt = deal_to(opened.plan, holders_of(a, "f.1.1"), "f.1.1", "a", 1, **changed)
    reason = "roster-mismatch" if changed.get("holders") else "bad-field"
    assert put_dealing(a, dealt).status_code == 201
    refused(a.submit(dealt.prepared), 422, reason)


def test_holders_answer_and_the_next_round_opens(published):
    assert (state(published).awaited, state(published).open) == (RoundId("f", 1, 1), None)
    a, b, c, trustee = held(published, *HOLDERS)
    assert a.get("echoes").status_code == a.get("answers").status_code == 204
    assert [a.echo().status_code for _ in range(2)] == [201, 200]
    refused(a.answer(), 409, "sum-not-ready")
    assert b.echo().status_code == 201
    assert c.get("echoes").status_code == 204
    assert trustee.echo().status_code == 201  # it has no key, and so no share, but it has seen the record
    seen = [Signed.from_json(Echo, one).body for one in c.get("echoes").json()["echoes"]]
    assert [(echo.holder, echo.record) for echo in seen] == [(name, a.record.digest) for name in ("a", "b", "trustee")]
    refused(trustee.answer(bytes(ANSWER_BYTES)), 403, "forbidden")
    assert [a.answer().status_code for _ in range(2)] == [201, 200]
    assert (state(published).awaited, a.get("answers").status_code) == (RoundId("f", 1, 1), 204)
    assert b.answer().status_code == 201
    assert (state(published).awaited, state(published).open.number) == (None, 2)
    assert published.row("f.1.1").settled_at == int(published.clock.now)
    shown = Held(published.at("auditor"), "f.1.1").get("answers").json()
    assert [one["body"]["holder"] for one in shown["answers"]] == ["a", "b"]
    assert len(shown["echoes"]) == 3
    assert a.get("answers", more_than=2).status_code == 204
    # The third one, late, is taken all the same: one of the two may be wrong.
    assert (c.echo().status_code, c.answer().status_code) == (201, 201)
    assert len(a.get("answers", more_than=2).json()["answers"]) == 3


def test_the_answers_give_back_what_was_dealt(opened):
    keys = np.stack([dealt.key for dealt in publish(opened, "f.1.1")]).astype(np.int32)
    a, b, c, _ = held(opened, *HOLDERS)
    masks = total_mask(MASK_KEY, a.contexts())
    for pair in ((a, b), (b, c)):
        answers = {HOLDERS.index(one.name) + 1: read_answer(one.shares()) for one in pair}
        rebuilt = rebuild(answers, 2, lambda total: unmasked(total, masks, 3) is not None)
        total = unmasked(rebuilt.total, masks, 3)
        assert total is not None
        assert np.array_equal(total, keys.sum(axis=0))


def test_a_holder_says_one_thing_of_a_round_ever(published):
    a, b, c, _ = held(published, *HOLDERS)
    signer = {"signer": identity_of("b")}
    refused(a.echo(record="ab" * 32), 422, "bad-field")
    refused(a.echo(round_id=RoundId("f", 1, 2)), 422, "bad-field")
    refused(a.echo(holder="b"), 403, "forbidden")
    refused(a.echo(**signer), 422, "bad-signature")
    refused(a.put("echoes/b", Echo(**b.about()), **signer), 403, "forbidden")
    refused(held(published, "auditor")[0].echo(), 403, "forbidden")
    for one in (a, b, c):
        assert one.echo().status_code == 201
    refused(a.answer(record="ab" * 32), 422, "bad-field")
    refused(a.answer(b"\xff" * ANSWER_BYTES), 422, "residue-out-of-range")
    with pytest.raises(WireError):
        Answer.from_json(Answer(**a.about(), shares=b"").to_json())
    assert a.answer().status_code == 201
    refused(a.answer(bytes(ANSWER_BYTES)), 409, "already-exists")
    assert [json.loads(one)["body"]["holder"] for one in stored(published, "answers")] == ["a"]


def stored(inside, what, round_id="f.1.1"):
    with inside.aggregator.store.read() as tx:
        return getattr(tx, what)(RoundId.parse(round_id))


def test_complaints_are_kept_and_shown(published):
    a, b, _, trustee = held(published, *HOLDERS)
    assert [a.complain("b").status_code for _ in range(2)] == [201, 200]
    assert a.complain("c", Fault.OPENED).status_code == 201
    refused(a.complain("b", Fault.OPENED), 409, "already-exists")
    refused(b.complain("z"), 422, "bad-field")
    refused(trustee.complain("b"), 403, "forbidden")  # nothing was sealed to it
    refused(b.complain("a", record="ab" * 32), 422, "bad-field")
    shown = Held(published.at("auditor"), "f.1.1").get("complaints").json()["complaints"]
    about = [(one["body"]["holder"], one["body"]["dealer"], one["body"]["fault"]) for one in shown]
    assert about == [("a", "b", "sealed"), ("a", "c", "opened")] == stored(published, "complained")
    assert state(published).awaited == RoundId("f", 1, 1)


def test_before_there_is_a_sum_nobody_holds_anything(opened):
    record = "ab" * 32
    a = Held(opened.at("a"), "f.1.1")
    for what in ("shares", "echoes", "answers"):
        refused(a.get(what), 409, "sum-not-ready")
    echo = Echo(RoundId("f", 1, 1), record, "a")
    refused(a.put("echoes/a", echo), 409, "sum-not-ready")
    opened.clock.now = opened.row("f.1.1").deadline_at + 1
    opened.look()
    for what in ("shares", "echoes", "answers"):
        refused(a.get(what), 409, "round-failed")
    refused(a.put("echoes/a", echo), 409, "round-failed")
    refused(Held(opened.at("a"), "f.9.1").get("holders"), 404, "unknown-round")


def test_where_keys_are_shared_there_are_no_holders(tmp_path):
    shared = SimulatedFederation(tmp_path / "shared", make_plan("f", deadline_s=100))
    for what in ("holders", "echoes", "answers", "complaints"):
        refused(Held(shared.at("a"), "f.1.1").get(what), 404, "plan-mismatch")
    prepared = shared.submit("a", 1, "f.1.1")
    path = f"/v1/rounds/f.1.1/submissions/{prepared.upload}/dealing"
    octets = {"Content-Type": "application/octet-stream"}
    refused(shared.at("a").request("PUT", path, octets, content=b""), 422, "plan-mismatch")
    shared.submit("b", 2, "f.1.1")
    shared.submit("c", 3, "f.1.1")
    shared.fold()
    assert shared.row("f.1.1").settled_at is not None
    assert Signed.parse(FederationState, shared.at("a").state().content).body.open.number == 2
    shared.end()


def test_a_plan_and_a_roster_that_do_not_belong_together_are_refused(tmp_path, published):
    with operator(tmp_path / "other") as (store, conductor):
        for split, holders in ((True, ()), (False, HOLDERS)):
            with pytest.raises(RefusedError, match="holders"):
                enrol(store, conductor, make_plan("g", split=split, min_sites=3), list("abc"), holders=holders)
    members = {
        name: replace(member, roles=member.roles - {Role.HOLDER})
        for name, member in published.members.roster.body.members.items()
        if name != "trustee"
    }
    following = published.members.next_roster(members)
    refused(published.at("coordinator").bring("rosters/2", following.encode()), 422, "roster-mismatch")


def test_what_is_dealt_to_nobody_any_more_goes_an_hour_after_the_round_was_settled(published):
    a, b, c, _ = held(published, *HOLDERS)
    for one in (a, b, c):
        assert one.echo().status_code == 201
    for one in (a, b):
        assert one.answer().status_code == 201
    opened_at = published.clock.now
    published.clock.now = opened_at + 3590
    published.look()
    assert len(stored(published, "dealings")) == 3
    assert c.get("shares").status_code == 200
    published.clock.now = opened_at + 3602
    published.look()
    assert stored(published, "dealings") == {}
    refused(c.get("shares"), 410, "sum-gone")


def test_dealings_of_an_attempt_that_failed_go_at_once(opened):
    a = opened.at("a")
    dealt = deal_to(opened.plan, holders_of(a, "f.1.1"), "f.1.1", "a", 1)
    assert put_dealing(a, dealt).status_code == 201
    with opened.aggregator.store.read() as tx:
        assert tx.dealing_digest(dealt.prepared.upload) == dealt.dealing.digest
    opened.clock.now = opened.row("f.1.1").deadline_at + 1
    opened.look()
    with opened.aggregator.store.read() as tx:
        assert tx.dealing_digest(dealt.prepared.upload) is None


def bring(inside, changed, **more):
    """The next roster, and everybody goes by it."""
    members = inside.members
    following = members.next_roster(changed, **more)
    answer = inside.at("coordinator").bring(f"rosters/{following.body.version}", following.encode())
    assert answer.status_code == 201, answer.text
    inside.members = Consortium(members.federation, members.identities, following)
    adopt(inside.members)


def test_a_removed_holder_ends_the_open_attempt_and_burns_its_number(opened):
    members = dict(opened.members.roster.body.members)
    del members["trustee"]
    bring(opened, members)  # three holders: the quorum is 3
    assert (state(opened, "a").open.number, state(opened, "a").open.attempt) == (2, 1)
    assert opened.record("f.1.1").excluded == dict.fromkeys("abc", "absent")
    assert holders_of(opened.at("a"), "f.2.1").names == ("a", "b", "c")


def test_a_new_holder_is_one_from_the_next_number_on(opened):
    members = dict(opened.members.roster.body.members) | {"notary": identity_of("notary").member([Role.HOLDER])}
    opened.members.identities["notary"] = identity_of("notary")
    bring(opened, members)  # five holders: the quorum is 4
    assert (state(opened).open.number, state(opened).open.attempt) == (1, 1)
    assert put_sharing_key(opened.at("notary")).status_code == 201
    notary = Held(opened.at("notary"), "f.1.1")
    publish(opened, "f.1.1")
    refused(notary.echo(), 403, "forbidden")
    refused(notary.get("shares"), 403, "forbidden")
    a, b, c = held(opened, *"abc")
    for one in (a, b, c):
        assert one.echo().status_code == 201
    for one in (a, b):
        assert one.answer().status_code == 201
    assert holders_of(opened.at("a"), "f.2.1").names == ("a", "b", "c", "notary", "trustee")


def test_a_holder_with_another_signing_key_brings_another_sharing_key(opened):
    fresh = type(identity_of("c")).create("c")
    members = dict(opened.members.roster.body.members) | {"c": fresh.member([Role.SITE, Role.HOLDER])}
    opened.members.identities["c"] = fresh
    bring(opened, members)
    assert state(opened).open is None  # its number is burnt, and two of four have keys
    assert put_sharing_key(opened.at("c"), 1, sharing_key("f", 1, fresh)).status_code == 201
    assert (state(opened).open.number, state(opened).open.attempt) == (2, 1)


def test_a_new_epoch_needs_new_sharing_keys(opened):
    bundle = deal(opened.members, 2, plan_id=opened.plan.plan_id)
    assert opened.at("coordinator").bring("epochs/2", bundle.encode()).status_code == 201
    assert (state(opened).epoch, state(opened).open) == (2, None)
    for name in "abc":
        assert put_sharing_key(opened.at(name), 2).status_code == 201
    assert (state(opened).open.number, state(opened).open.attempt) == (1, 2)
    assert holders_of(opened.at("a"), "f.1.2").epoch == 2


def test_the_end_waits_for_the_holders(published):
    published.aggregator.conductor.apply("f", events.Stopped())
    assert (state(published).stage, state(published).awaited) == ("running", RoundId("f", 1, 1))
    published.aggregator.conductor.apply("f", events.Skipped(1, 1))
    assert (state(published).stage, state(published).awaited) == ("ended", None)


def test_a_list_of_holders_is_the_same_bytes_for_everybody(opened):
    documents = {opened.at(name).request("GET", "/v1/rounds/f.1.1/holders").content for name in ("a", "trustee")}
    (document,) = documents
    again = opened.at("b").request(
        "GET", "/v1/rounds/f.1.1/holders", {"If-None-Match": f'"{hashlib.sha256(document).hexdigest()}"'}
    )
    assert again.status_code == 304


def test_a_dealing_is_read_back_as_it_came(published):
    holders = holders_of(published.at("a"), "f.1.1")
    for data in stored(published, "dealings").values():
        assert Dealing.parse(data, holders.holders).to_bytes() == data
    for name in HOLDERS:
        assert [one.holder for one in Held(published.at(name), "f.1.1").excerpts()] == [name] * 3
