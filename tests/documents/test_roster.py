"""Rosters: what makes sense in itself, who has to sign, which one follows which, and until when one is good."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from he_agg import canonical
from he_agg.documents.roster import (
    MAX_VALID_S,
    SUITE_BYTES,
    Member,
    Receiving,
    Role,
    Roster,
    check_follows,
    check_signed,
    fingerprint,
    majority,
)
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError
from he_agg.sharing.thresholds import Thresholds
from tests.support.documents import EXAMPLES, KEYS, encoded, key_of, parsed

SPLIT = EXAMPLES["roster"].body
ROSTER = replace(
    SPLIT,
    min_sites=2,
    small_groups=True,
    holders=None,
    members={name: replace(one, roles=one.roles - {Role.HOLDER}) for name, one in SPLIT.members.items()},
)
A, B = ROSTER.members["hospital-a"], ROSTER.members["hospital-b"]


def with_member(member, roster=ROSTER):
    return replace(roster, members={**roster.members, member.name: member})


def member(name, *roles, receiving=None):
    return Member(name, key_of(name).public_key.hex(), frozenset(roles), receiving)


def signed(roster, *names):
    document = Signed(roster)
    for name in names:
        document = document.signed_by(name, KEYS.get(name) or key_of(name))
    return Signed.parse(Roster, document.encode())


def refused(roster):
    """Whether it is refused both by its own check and when it is read."""
    with pytest.raises(WireError) as caught:
        roster.check()
    assert caught.value.reason == Reason.BAD_FIELD
    with pytest.raises(WireError):
        parsed(Roster, encoded(roster))
    return caught.value.message


def test_who_is_in_it():
    assert list(ROSTER.having(Role.SITE)) == ["hospital-a", "hospital-b"]
    assert ROSTER.keys_of(Role.AGGREGATOR) == {"aggregator": KEYS["aggregator"].public_key}
    assert ROSTER.having(Role.AUDITOR) == {}
    both = with_member(replace(A, roles=frozenset({Role.SITE, Role.OPERATOR})))
    assert list(both.having(Role.OPERATOR)) == ["hospital-a"]
    assert parsed(Roster, encoded(both)) == both


class TestSense:
    def test_each_member_has_its_own_key(self):
        assert "its own key" in refused(with_member(replace(A, signing_key=B.signing_key)))

    def test_enough_coordinators(self):
        assert "its threshold is 3, and it has 2 coordinators" in refused(replace(ROSTER, threshold=3))
        replace(ROSTER, threshold=2).check()
        rest = {n: m for n, m in ROSTER.members.items() if Role.COORDINATOR not in m.roles}
        assert "it has 0" in refused(replace(ROSTER, members=rest, threshold=1))

    def test_something_can_be_sealed_to_each_site(self):
        assert "hospital-a has no key" in refused(with_member(replace(A, receiving=None)))
        with_member(member("auditor", Role.AUDITOR)).check()

    @pytest.mark.parametrize("length", [-1, 0, MAX_VALID_S + 1])
    def test_good_for_a_while(self, length):
        assert "at most 400 days" in refused(replace(ROSTER, expires_at=ROSTER.issued_at + length))
        replace(ROSTER, expires_at=ROSTER.issued_at + MAX_VALID_S).check()

    @pytest.mark.parametrize(
        "changed",
        [
            {"signing_key": "00" * 31},
            {"signing_key": A.signing_key.upper()},
            {"roles": ["site", "site"]},
            {"roles": ["site", "auditor"]},  # not sorted
            {"roles": ["admin"]},
            {"roles": "site"},
            {"roles": [1]},
            {"receiving": {"suite": "x25519", "key": "5a" * 31}},
            {"receiving": {"suite": "x25519", "key": "5a" * SUITE_BYTES["mlkem768-x25519"]}},
            {"receiving": {"suite": "rsa", "key": "5a" * 32}},
            {"receiving": {"suite": "x25519", "key": "5a" * 32, "more": 1}},
            {"receiving": []},
            {"more": 1},
        ],
        ids=str,
    )
    def test_members_that_are_none(self, changed):
        assert Member.from_json("hospital-a", A.to_json()) == A
        with pytest.raises(WireError):
            Member.from_json("hospital-a", A.to_json() | changed)

    @pytest.mark.parametrize("name", ["", "A", "-a", "a_b", "a" * 64, "a\n"])
    def test_names_that_are_none(self, name):
        with pytest.raises(WireError):
            Member.from_json(name, A.to_json())

    def test_nobody_twice(self):
        text = encoded(ROSTER)
        parsed(Roster, text)
        with pytest.raises(WireError) as caught:
            parsed(Roster, text.replace(b'"hospital-b":', b'"hospital-a":'))
        assert caught.value.reason == Reason.NOT_CANONICAL


class TestFingerprint:
    def test_written_out(self):
        text = f"he-agg/member/v1\0hospital-a\0{A.signing_key}\0x25519:{'5a' * 32}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert A.fingerprint == " ".join([digest[i : i + 4] for i in range(0, 32, 4)])
        bare = ROSTER.members["aggregator"]
        text = f"he-agg/member/v1\0aggregator\0{bare.signing_key}\0"
        assert bare.fingerprint.replace(" ", "") == hashlib.sha256(text.encode()).hexdigest()[:32]

    def test_names_and_keys_are_in_it_and_roles_are_not(self):
        others = {
            fingerprint(replace(A, name="hospital-b")),
            fingerprint(replace(A, signing_key=B.signing_key)),
            fingerprint(replace(A, receiving=None)),
            fingerprint(replace(A, receiving=Receiving("x25519", "5b" * 32))),
            fingerprint(A),
        }
        assert len(others) == 5
        assert fingerprint(replace(A, roles=frozenset())) == fingerprint(A)


class TestSigned:
    def test_enough_of_its_own_coordinators(self):
        check_signed(signed(ROSTER, "coordinator", "second"))
        check_signed(signed(ROSTER, "coordinator", "second", "hospital-a"))
        for names in ((), ("coordinator",), ("coordinator", "hospital-a"), ("hospital-a", "hospital-b", "aggregator")):
            with pytest.raises(WireError, match="expected the signatures of 2 coordinators") as caught:
                check_signed(signed(ROSTER, *names))
            assert caught.value.reason == Reason.BAD_SIGNATURE

    def test_not_under_another_name(self):
        document = Signed(ROSTER)
        forged = document.signed_by("coordinator", KEYS["hospital-a"]).signed_by("second", KEYS["coordinator"])
        with pytest.raises(WireError, match="got 0"):
            check_signed(forged)

    def test_who_signs_late_changes_the_file_and_not_the_digest(self):
        early, late = signed(ROSTER, "coordinator"), signed(ROSTER, "coordinator", "second")
        assert early.encode() != late.encode()
        assert early.body_digest == late.body_digest == hashlib.sha256(encoded(ROSTER)).hexdigest()
        assert signed(replace(ROSTER, min_sites=3, small_groups=False)).body_digest != early.body_digest


class TestFollows:
    first = signed(ROSTER, "coordinator", "second")

    def follows(self, roster, *names, first=None):
        check_follows(signed(roster, *names), first or self.first)

    def fails(self, reason, roster, *names):
        with pytest.raises(WireError) as caught:
            self.follows(roster, *names)
        assert caught.value.reason == reason
        return caught.value.message

    def test_the_next_version(self):
        self.follows(replace(ROSTER, version=2), "coordinator", "second")
        self.follows(with_member(member("auditor", Role.AUDITOR), replace(ROSTER, version=2)), "coordinator", "second")

    @pytest.mark.parametrize(
        "changed", [{"version": 1}, {"version": 3}, {"federation": "strike", "version": 2}], ids=str
    )
    def test_and_no_other(self, changed):
        self.fails(Reason.ROSTER_MISMATCH, replace(ROSTER, **changed), "coordinator", "second")

    def test_coordinators_before_have_to_agree(self):
        """New ones alone cannot take over, whatever the new roster says of thresholds."""
        taken = replace(ROSTER, version=2, threshold=1, members={**ROSTER.members})
        taken = with_member(member("mallory", Role.COORDINATOR), taken)
        self.fails(Reason.BAD_SIGNATURE, taken, "mallory")
        self.fails(Reason.BAD_SIGNATURE, taken, "mallory", "coordinator")
        self.follows(taken, "coordinator", "second")

    def test_coordinators_afterwards_have_to_agree_too(self):
        """Or a roster could be made that nobody can ever follow."""
        replaced = {n: m for n, m in ROSTER.members.items() if n != "second"}
        handed_over = replace(ROSTER, version=2, members=replaced | {"third": member("third", Role.COORDINATOR)})
        assert "of version 2, got 1" in self.fails(Reason.BAD_SIGNATURE, handed_over, "coordinator", "second")
        self.follows(handed_over, "coordinator", "second", "third")

    def test_a_key_that_was_replaced_signs_no_more(self):
        """A coordinator with a new key under the old name: the old key counts for the version before only."""
        fresh = replace(ROSTER.members["second"], signing_key=key_of("fresh").public_key.hex())
        renewed = with_member(fresh, replace(ROSTER, version=2))
        with pytest.raises(WireError, match="of version 2, got 1"):
            check_follows(signed(renewed, "coordinator", "second"), self.first)


def test_expiry():
    ROSTER.check_valid(ROSTER.issued_at - 10**6)  # clocks of others may be behind
    ROSTER.check_valid(ROSTER.expires_at - 0.001)
    for now in (ROSTER.expires_at, ROSTER.expires_at + 1):
        with pytest.raises(WireError, match="has expired") as caught:
            ROSTER.check_valid(now)
        assert caught.value.reason == Reason.ROSTER_EXPIRED
        assert "he-agg roster" in caught.value.hint


@pytest.mark.parametrize(
    ("sites", "least"), [(1, 3), (2, 3), (3, 3), (4, 3), (5, 3), (6, 4), (7, 4), (10, 6), (11, 6), (31, 16)]
)
def test_two_groups_of_the_fewest_have_a_site_in_common(sites, least):
    assert majority(sites) == least
    assert 2 * least > sites


def test_small_groups_need_a_word_of_consent_and_the_word_means_them():
    assert (ROSTER.min_sites, ROSTER.small_groups) == (2, True)
    assert "small_groups" in refused(replace(ROSTER, small_groups=False))
    assert "small_groups" in refused(replace(ROSTER, min_sites=3))
    large = replace(ROSTER, min_sites=3, small_groups=False)
    large.check()
    assert large.smallest_group == "no site opens a sum of fewer than 3 of the 2 sites"
    assert "SMALL GROUPS ARE ALLOWED" in ROSTER.smallest_group
    assert "each site computes the other's update and weight by subtraction" in ROSTER.smallest_group


def test_bounds_of_numbers():
    value = ROSTER.to_json()
    for name, bad in (("version", 0), ("threshold", 0), ("min_sites", 1), ("issued_at", -1), ("expires_at", 2**41)):
        with pytest.raises(WireError):
            parsed(Roster, canonical.encode(value | {name: bad}))
    assert parsed(Roster, canonical.encode(value)) == ROSTER


class TestHolders:
    def test_they_are_the_members_of_that_role_in_order(self):
        assert list(SPLIT.keys_of(Role.HOLDER)) == ["coordinator", "hospital-a", "hospital-b", "second"]
        assert SPLIT.holders == Thresholds(holders=4, quorum=3, threshold=2)
        assert parsed(Roster, encoded(SPLIT)) == SPLIT

    def test_their_number_and_the_thresholds_belong_together(self):
        assert "expected how many holders it takes" in refused(replace(SPLIT, holders=None))
        assert "expected how many holders it takes" in refused(replace(ROSTER, holders=Thresholds.choose(4)))

    @pytest.mark.parametrize(("quorum", "threshold"), [(5, 2), (3, 4), (0, 1), (3, 0), (65, 2)])
    def test_thresholds_that_cannot_be_are_refused(self, quorum, threshold):
        body = json.loads(encoded(SPLIT))
        body["holders"] = {"quorum": quorum, "threshold": threshold}
        with pytest.raises(WireError):
            parsed(Roster, canonical.encode(body))

    @pytest.mark.parametrize(
        ("thresholds", "min_sites", "why"),
        [
            (Thresholds(4, 3, 1), 3, "threshold of 1"),  # each holder alone has every key
            (Thresholds(4, 2, 2), 3, "quorum of 2 of 4"),  # two quorums without an honest holder in common
            (Thresholds(4, 3, 2), 2, "subtraction"),  # two sites
        ],
    )
    def test_without_a_claim_no_roster(self, thresholds, min_sites, why):
        small = min_sites < majority(len(SPLIT.having(Role.SITE)))
        assert why in refused(replace(SPLIT, holders=thresholds, min_sites=min_sites, small_groups=small))
