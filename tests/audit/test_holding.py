"""What holders have signed, in a transcript: an honest one holds, and each way of cheating is found, with its word."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from he_agg.audit import audit
from he_agg.documents.holding import Answer, Complaint, Echo
from he_agg.documents.roster import Role
from he_agg.documents.sharing import HolderList, SharingKey
from he_agg.documents.signed import Signed
from he_agg.ring.primes import N
from he_agg.sharing.field import P, write
from he_agg.sharing.proof import ROW_WIDTH
from he_agg.sharing.shamir import share
from he_agg.sharing.shares import Fault
from he_agg.sharing.thresholds import Thresholds
from he_agg.signing import SigningKey
from keys.receiving import ReceivingKey
from tests.support.federation import plan_of
from tests.support.history import History
from tests.support.trust import COORDINATOR, Consortium, consortium, identity_of

PLAN = plan_of(300, codec="hybrid", keys="split", min_sites=3, max_sites=5, part_bytes=2**16).public
SITES = ["hospital-a", "hospital-b", "hospital-c"]
HOLDERS = [*SITES, "trustee"]
AGGREGATOR_KEY = SigningKey.generate()


@cache
def people(version=1) -> Consortium:
    """Three hospitals and a trustee, who all hold."""
    made = consortium("test", SITES, AGGREGATOR_KEY, min_sites=3)
    trustee = identity_of("trustee")
    members = {
        name: replace(one, roles=one.roles | ({Role.HOLDER} if name in SITES else frozenset()))
        for name, one in made.roster.body.members.items()
    } | {"trustee": trustee.member([Role.HOLDER])}
    roster = replace(made.roster.body, members=members, holders=Thresholds.choose(4))
    return replace(made, identities={**made.identities, "trustee": trustee}, roster=made.signed(roster))


@cache
def sharing_key(holder, epoch=1):
    key = ReceivingKey.generate("x25519").public
    return Signed.make(SharingKey("test", epoch, holder, key), identity_of(holder).signing_key)


def listed_of(*holders):
    return HolderList.of(people().roster, 1, [sharing_key(name) for name in holders])


def answers_of(rng, m=4, t=2):
    """Right answers: one row for each holder, all on polynomials of degree below t."""
    secret = rng.integers(0, P, ROW_WIDTH).astype(np.uint16)
    return [write(row[:N]) for row in share(secret, [rng.bytes(32) for _ in range(t - 1)], m)]


def signed(body):
    return Signed.make(body, identity_of(body.holder).signing_key)


class Told(History):
    """A history with one published round, and what its holders say of it."""

    def __init__(self, rng, keys=HOLDERS, manifests=None):
        super().__init__(people(), AGGREGATOR_KEY, PLAN)
        digest = listed_of(*keys).digest
        said = {site: {"holders": digest, "dealing": "5d" * 32} for site in SITES}
        self.round(1, 1, SITES, manifests={site: said[site] | (manifests or {}).get(site, {}) for site in SITES})
        self.keys = [sharing_key(name) for name in keys]
        about = self.entries[0].record.body.round_id, self.entries[0].record.digest
        self.echoes = [Echo(*about, name) for name in HOLDERS]
        self.answers = [Answer(*about, name, row) for name, row in zip(HOLDERS, answers_of(rng), strict=True)]
        self.about = about
        self.complaints: list[Complaint | Signed[Complaint]] = []

    def documents(self):
        bodies = [*self.echoes, *self.answers, *self.complaints]
        said = [
            one if isinstance(one, Signed) else Signed.make(one, identity_of(one.holder).signing_key) for one in bodies
        ]
        entry = self.entries[0]
        return [*self.rosters, *entry.manifests, entry.record, *self.keys, *said, *entry.verdicts]

    def check(self):
        return audit(io.BytesIO(self.encode()), {COORDINATOR: self.people.identities[COORDINATOR].fingerprint})


@pytest.fixture
def told(rng):
    return Told(rng)


def found(told):
    return [(finding.kind, finding.text) for finding in told.check().findings]


def test_an_honest_transcript_holds_and_says_who_did_what(told):
    assert found(told) == []
    assert told.check().rounds[0].holders == dict.fromkeys(HOLDERS, "answered")
    del told.answers[3], told.answers[0]
    assert found(told) == []
    assert set(told.check().rounds[0].holders.items()) >= {("hospital-a", "echoed"), ("hospital-b", "answered")}


def test_a_round_that_nobody_has_answered_is_no_finding(told):
    told.echoes, told.answers = told.echoes[:2], []
    assert found(told) == []


def test_a_list_without_one_key_is_whole(rng):
    assert found(Told(rng, keys=HOLDERS[:3])) == []


def test_too_few_keys_are_no_list(rng):
    ((kind, text),) = found(Told(rng, keys=HOLDERS[:2]))
    assert kind == "holders"
    assert "2 sharing keys, and 3 are needed" in text


def test_members_who_dealt_to_another_list_are_named(rng):
    ((kind, text),) = found(Told(rng, manifests={"hospital-b": {"holders": listed_of(*HOLDERS[:3]).digest}}))
    assert kind == "holders"
    assert "hospital-b" in text


def test_a_key_of_nobody_and_of_another_epoch(told):
    told.keys[3] = Signed.make(sharing_key("trustee").body, SigningKey.generate())
    assert [kind for kind, _ in found(told)] == ["holders"]
    told.keys[3] = sharing_key("trustee", 2)
    assert [kind for kind, _ in found(told)] == ["holders"]


def test_answers_before_a_quorum_of_echoes(told):
    told.echoes = told.echoes[:2]
    ((kind, text),) = found(told)
    assert kind == "quorum"
    assert "4 answers and a quorum of 3 echoes is not there: 2" in text


def test_an_echo_that_its_holder_has_not_signed_counts_for_nothing(told):
    told.echoes[2] = Signed.make(told.echoes[2], SigningKey.generate())
    told.echoes[3] = Signed.make(told.echoes[3], SigningKey.generate())
    assert [kind for kind, _ in found(told)] == ["holding", "quorum"]


@pytest.mark.parametrize("kind", ["echoes", "answers"])
def test_what_is_said_of_another_record(told, kind):
    documents = getattr(told, kind)
    documents[0] = replace(documents[0], record="77" * 32)
    ((found_kind, text),) = found(told)
    assert found_kind == "holding"
    assert text.endswith("is not on the record before it")


def test_a_wrong_answer_is_its_holders(told, rng):
    told.answers[1] = replace(told.answers[1], shares=write(rng.integers(0, P, N).astype(np.uint16)))
    ((kind, text),) = found(told)
    assert kind == "answers"
    assert text.endswith("wrong: hospital-b")


def test_numbers_that_are_none(told):
    told.answers[1] = replace(told.answers[1], shares=b"\xff" * (2 * N))
    assert [kind for kind, _ in found(told)] == ["answers"]


def test_the_order_of_lines(told):
    told.echoes.reverse()
    assert [kind for kind, _ in found(told)] == ["order"]


def test_a_complaint_is_kept_and_its_holder_checked(told):
    told.complaints = [Complaint(told.about[0], told.about[1], "trustee", "hospital-a", Fault.SEALED)]
    assert found(told) == []
    told.complaints = [
        Signed.make(
            Complaint(told.about[0], told.about[1], "trustee", "hospital-a", Fault.SEALED), SigningKey.generate()
        )
    ]
    assert [kind for kind, _ in found(told)] == ["holding"]


def test_nothing_of_it_belongs_to_a_plan_with_shared_keys(rng):
    told = Told(rng)
    told.plan = plan_of(300, codec="hybrid", min_sites=3, max_sites=5, part_bytes=2**16).public
    assert "holding" in [kind for kind, _ in found(told)]


def test_a_number_is_left_when_its_holders_change(told):
    """After an attempt that has failed, and only then."""
    first = people().roster
    other = replace(first.body.members["trustee"], signing_key=SigningKey.generate().public_key.hex())
    second = people().signed(replace(first.body, version=2, members={**first.body.members, "trustee": other}))

    def history(*places):
        made = History(people(), AGGREGATOR_KEY, PLAN, [people().roster, second])
        for number, attempt, roster in places:
            made.round(number, attempt, [], roster=roster)
        result = audit(io.BytesIO(made.encode()), {COORDINATOR: people().identities[COORDINATOR].fingerprint})
        return [finding.text for finding in result.findings]

    assert history((1, 1, first), (1, 2, first), (2, 1, second), (2, 2, second)) == []
    assert any("expected round 2, attempt 1" in text for text in history((1, 1, first), (1, 2, second)))
    assert any("expected round 1, attempt 2" in text for text in history((1, 1, first), (2, 1, first)))
