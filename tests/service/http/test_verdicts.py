"""Verdicts over HTTP: once for each site and sum, signed by the site, on the record that is there, and nothing else."""

from __future__ import annotations

import json

import pytest

from he_agg.documents.signed import Signed
from he_agg.documents.verdict import OPENED, REJECTED, Verdict
from he_agg.ids import RoundId
from tests.support.peers import make_plan, prepare
from tests.support.simulated import SimulatedFederation


@pytest.fixture
def inside(tmp_path):
    """Round 1 has a sum of a and b, c was late; round 2 is open."""
    made = SimulatedFederation(tmp_path / "data", make_plan("f", rounds=5))
    for i, site in enumerate("ab"):
        made.submit(site, i, "f.1.1")
    made.clock.now = made.row("f.1.1").deadline_at + 1
    made.fold()
    yield made
    made.end()


def refused(answer, status, reason):
    assert (answer.status_code, answer.json()["reason"]) == (status, reason), answer.text


def test_a_verdict_is_taken_once_and_shown(inside):
    a, b = inside.at("a"), inside.at("b")
    assert [a.judge("f.1.1", REJECTED).status_code for _ in range(3)] == [201, 200, 200]
    refused(a.judge("f.1.1", OPENED), 409, "already-exists")
    assert b.judge("f.1.1").status_code == 201
    for member in ("a", "c", "coordinator", "auditor"):
        answer = inside.at(member).request("GET", "/v1/rounds/f.1.1/verdicts")
        shown = [Signed.from_json(Verdict, one) for one in answer.json()["verdicts"]]
        assert [(one.body.site, one.body.verdict) for one in shown] == [("a", REJECTED), ("b", OPENED)]
        assert all(
            one.signers({one.body.site: inside.members.identities[one.body.site].signing_key.public_key})
            for one in shown
        )
    transcript = inside.at("auditor").document("transcript").text.splitlines()
    assert [json.loads(line)["kind"] for line in transcript[-3:]] == ["record", "verdict", "verdict"]


def test_what_is_no_verdict_of_a_member_on_this_record_is_refused(inside):
    a = inside.at("a")
    refused(inside.at("c").judge("f.1.1"), 403, "forbidden")  # not in the sum
    refused(inside.at("coordinator").judge("f.1.1"), 403, "forbidden")  # not a site
    refused(a.judge("f.1.1", record="00" * 32), 422, "bad-field")  # another record
    refused(a.judge("f.1.1", round_id=RoundId("f", 1, 2)), 422, "bad-field")  # another attempt
    refused(a.judge("f.1.1", round_id=RoundId("g", 1, 1)), 422, "bad-field")  # another federation
    refused(a.judge("f.1.1", site="b"), 403, "forbidden")  # for another site
    refused(a.judge("f.1.1", site="b", signer=inside.members.identities["b"].signing_key), 403, "forbidden")
    refused(a.judge("f.1.1", signer=inside.members.identities["b"].signing_key), 422, "bad-signature")
    document = b'{"v":1}'
    for path, status, reason in (
        ("/v1/rounds/f.1.1/verdicts/b", 403, "forbidden"),
        ("/v1/rounds/f.2.1/verdicts/a", 422, "bad-field"),
        ("/v1/rounds/f.3.1/verdicts/a", 404, "unknown-round"),
    ):
        refused(a.request("PUT", path, {"Content-Type": "application/json"}, content=document), status, reason)
    assert inside.at("a").request("GET", "/v1/rounds/f.1.1/verdicts").json() == {"v": 1, "verdicts": []}


def test_a_round_without_a_sum_has_nothing_to_judge(inside):
    inside.submit("a", 7, "f.2.1")
    a = inside.at("a")
    verdict = Signed.make(Verdict(RoundId("f", 2, 1), "00" * 32, "a", OPENED), a.member.signing_key).encode()
    refused(a.put_verdict("f.2.1", verdict), 409, "sum-not-ready")
    inside.clock.now = inside.row("f.2.1").deadline_at + 1
    inside.look()
    refused(a.put_verdict("f.2.1", verdict), 409, "round-failed")


def test_a_submission_of_another_round_does_not_carry_a_verdict_over(inside):
    """A verdict is replayed for the next round's record: it names the first one's."""
    a = inside.at("a")
    assert a.judge("f.1.1").status_code == 201
    old = json.loads(a.request("GET", "/v1/rounds/f.1.1/verdicts").content)["verdicts"][0]
    for i, site in enumerate("abc"):
        sent = prepare(inside.plan, "f.2.1", site, i)
        assert inside.at(site).submit(sent).status_code == 200
    inside.fold()
    document = Signed.from_json(Verdict, old).encode()
    refused(a.put_verdict("f.2.1", document), 422, "bad-field")
