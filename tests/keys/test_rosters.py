"""Making, signing and pinning rosters: every step that must not be taken, and beside it the one that may."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from he_agg.documents.roster import Role, Roster, check_signed
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, HeAggError, InputError, Reason, WireError
from he_agg.host.comparing import check_fingerprints, first_roster
from he_agg.sharing.thresholds import Thresholds
from keys import Identity
from keys.pinning import follow, read_pinned
from keys.rosters import new_roster, next_roster, sign_roster
from tests.keys.dealing import AGGREGATOR, COORDINATORS, DAY_S, SITES, after, first, signed, site
from tests.support.owners import somebody_elses

NOW = int(time.time())
FIRST = first()
SECOND = after(FIRST)
THIRD = after(SECOND)
HEARD = {name: site(name).fingerprint for name in ("hospital-a", "hospital-b")}


def reason_of(work, *arguments, **options):
    with pytest.raises(HeAggError) as caught:
        work(*arguments, **options)
    return caught.value.reason


def with_only(roster, *names):
    """The roster with the signatures of these alone."""
    return Signed(roster.body, {name: roster.signatures[name] for name in names})


def test_the_first_is_pinned_by_fingerprints_of_enough_coordinators_who_signed():
    first_roster(FIRST, HEARD, NOW)
    assert reason_of(first_roster, FIRST, {}, NOW) == Reason.BAD_ARGUMENT
    assert reason_of(first_roster, FIRST, {"hospital-a": HEARD["hospital-a"]}, NOW) == Reason.BAD_ARGUMENT
    # A site's fingerprint says nothing about the coordinators.
    wrong_role = {"hospital-a": HEARD["hospital-a"], "hospital-d": site("hospital-d").fingerprint}
    assert reason_of(first_roster, FIRST, wrong_role, NOW) == Reason.BAD_ARGUMENT
    # Listed, and rightly so, but it has not signed.
    third = {"hospital-a": HEARD["hospital-a"], "hospital-c": site("hospital-c").fingerprint}
    assert reason_of(first_roster, FIRST, third, NOW) == Reason.BAD_SIGNATURE
    first_roster(signed(FIRST, "hospital-c"), third, NOW)


def test_a_roster_that_lists_honest_coordinators_and_is_signed_by_others_is_not_pinned():
    mallory, eve = Identity.create("mallory"), Identity.create("eve")
    members = {
        **FIRST.body.members,
        "mallory": mallory.member([Role.COORDINATOR, Role.SITE]),
        "eve": eve.member([Role.COORDINATOR]),
    }
    forged = Signed(Roster("test", 1, NOW, NOW + DAY_S, 2, 3, members))
    forged = sign_roster(sign_roster(forged, mallory), eve)
    check_signed(forged)
    assert reason_of(first_roster, forged, HEARD, NOW) == Reason.BAD_SIGNATURE
    # Nor with the honest signatures of the honest roster pasted in.
    pasted = Signed(forged.body, {**forged.signatures, **FIRST.signatures})
    assert reason_of(first_roster, pasted, HEARD, NOW) == Reason.BAD_SIGNATURE
    first_roster(FIRST, HEARD, NOW)


def test_a_roster_that_needs_fewer_signatures_than_were_compared_is_not_pinned():
    # One coordinator alone makes a roster with threshold 1; the site was given two fingerprints.
    lonely = Signed(replace(FIRST.body, threshold=1))
    lonely = sign_roster(lonely, site("hospital-a"))
    check_signed(lonely)
    assert reason_of(first_roster, lonely, HEARD, NOW) == Reason.BAD_SIGNATURE
    first_roster(FIRST, HEARD, NOW)


@pytest.mark.parametrize("change", [lambda t: t.upper(), lambda t: t.replace(" ", ""), lambda t: t.replace(" ", ":")])
def test_a_fingerprint_may_be_written_in_several_ways_but_is_compared_whole(change):
    check_fingerprints(FIRST.body, {"hospital-a": change(HEARD["hospital-a"])})
    last = HEARD["hospital-a"][-1]
    wrong = HEARD["hospital-a"][:-1] + ("0" if last != "0" else "1")
    assert reason_of(check_fingerprints, FIRST.body, {"hospital-a": change(wrong)}) == Reason.BAD_SIGNATURE
    assert reason_of(check_fingerprints, FIRST.body, {"hospital-a": HEARD["hospital-a"][:-5]}) == Reason.BAD_ARGUMENT
    assert reason_of(check_fingerprints, FIRST.body, {"hospital-b": HEARD["hospital-a"]}) == Reason.BAD_SIGNATURE
    assert reason_of(check_fingerprints, FIRST.body, {"hospital-x": HEARD["hospital-a"]}) == Reason.UNKNOWN_SITE


def test_every_public_key_is_in_the_fingerprint():
    member = site("hospital-a").member()
    others = [
        replace(member, name="hospital-b"),
        replace(member, signing_key=site("hospital-b").member().signing_key),
        replace(member, receiving=site("hospital-b").member().receiving),
        replace(member, receiving=None),
    ]
    assert len({member.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert replace(member, roles=frozenset(Role)).fingerprint == member.fingerprint


def test_a_pinned_roster_is_followed_version_by_version():
    assert follow(FIRST, [THIRD, SECOND], NOW) == THIRD
    assert follow(FIRST, [FIRST], NOW) == FIRST
    assert follow(FIRST, [FIRST, SECOND], NOW) == SECOND
    # More signatures under the same roster are no other roster.
    assert follow(FIRST, [signed(FIRST, "hospital-c")], NOW) == FIRST
    # An expired one is followed: how else would it be renewed?
    assert follow(FIRST, [SECOND], FIRST.body.expires_at - 1) == SECOND


@pytest.mark.parametrize(
    ("pinned", "offered", "reason"),
    [
        (SECOND, FIRST, Reason.ROSTER_MISMATCH),  # rolled back
        (THIRD, FIRST, Reason.ROSTER_MISMATCH),
        (FIRST, THIRD, Reason.ROSTER_MISMATCH),  # a gap
        (FIRST, first(min_sites=4), Reason.ROSTER_MISMATCH),  # another one of the same version
        (FIRST, after(first(federation="elsewhere")), Reason.ROSTER_MISMATCH),
        (FIRST, with_only(SECOND, "hospital-a"), Reason.BAD_SIGNATURE),
        (FIRST, with_only(SECOND), Reason.BAD_SIGNATURE),
    ],
)
def test_what_does_not_follow_is_refused(pinned, offered, reason):
    assert reason_of(follow, pinned, [offered], NOW) == reason
    assert follow(FIRST, [SECOND, THIRD], NOW) == THIRD


def test_coordinators_of_a_later_roster_cannot_put_themselves_there():
    members = {
        Role.SITE: [site(name).member() for name in SITES],
        Role.COORDINATOR: [Identity.create(name).member() for name in ("mallory", "eve")],
        Role.AGGREGATOR: [AGGREGATOR],
    }
    usurped = replace(new_roster("test", members, now=NOW).body, version=2)
    unsigned = Signed(usurped)
    assert reason_of(follow, FIRST, [unsigned], NOW) == Reason.BAD_SIGNATURE
    mallory, eve = Identity.create("mallory"), Identity.create("eve")
    members[Role.COORDINATOR] = [mallory.member(), eve.member()]
    unsigned = Signed(replace(new_roster("test", members, now=NOW).body, version=2))
    self_signed = sign_roster(sign_roster(unsigned, mallory), eve)
    check_signed(self_signed)
    assert reason_of(follow, FIRST, [self_signed], NOW) == Reason.BAD_SIGNATURE
    # With the word of the coordinators before it is fine.
    assert follow(FIRST, [signed(self_signed, "hospital-a", "hospital-b")], NOW).body.version == 2


def test_an_expired_roster_is_neither_pinned_nor_followed():
    short = after(FIRST, days=1, now=NOW)
    assert reason_of(follow, FIRST, [short], NOW + DAY_S) == Reason.ROSTER_EXPIRED
    assert follow(FIRST, [short], NOW + DAY_S - 1) == short
    end = FIRST.body.expires_at
    assert reason_of(first_roster, FIRST, HEARD, end) == Reason.ROSTER_EXPIRED
    first_roster(FIRST, HEARD, end - 1)


def test_adding_and_removing_touches_nobody_else():
    grown = next_roster(FIRST, add=[(Role.SITE, site("hospital-e").member())], now=NOW)
    assert {n: m for n, m in grown.body.members.items() if n != "hospital-e"} == FIRST.body.members
    shrunk = next_roster(FIRST, remove=["hospital-d"], now=NOW)
    assert set(FIRST.body.members) - set(shrunk.body.members) == {"hospital-d"}
    assert grown.body.version == shrunk.body.version == 2
    assert grown.signatures == {}


def test_a_member_gets_new_keys_by_being_removed_and_added():
    fresh = Identity.create("hospital-d")
    assert reason_of(next_roster, FIRST, add=[(Role.SITE, fresh.member())], now=NOW) == Reason.BAD_ARGUMENT
    roster = next_roster(FIRST, add=[(Role.SITE, fresh.member())], remove=["hospital-d"], now=NOW)
    assert roster.body.members["hospital-d"].fingerprint == fresh.fingerprint
    # Two coordinators with new keys under their old names: nobody could sign for version 1 any more.
    add = [(Role.COORDINATOR, Identity.create(name).member()) for name in COORDINATORS[:2]]
    assert reason_of(next_roster, FIRST, add=add, remove=COORDINATORS[:2], now=NOW) == Reason.BAD_ARGUMENT
    assert next_roster(FIRST, add=add[:1], remove=COORDINATORS[:1], now=NOW).body.version == 2


def test_a_majority_is_asked_for_unless_all_agree_to_less():
    assert (FIRST.body.min_sites, FIRST.body.small_groups) == (3, False)
    more = [(Role.SITE, site(f"hospital-{letter}").member()) for letter in "efgh"]
    assert next_roster(FIRST, add=more, now=NOW).body.min_sites == 5
    assert next_roster(FIRST, min_sites=4, now=NOW).body.min_sites == 4
    assert reason_of(next_roster, FIRST, min_sites=2, now=NOW) == Reason.BAD_ARGUMENT
    few = next_roster(FIRST, min_sites=2, small_groups=True, now=NOW)
    assert (few.body.min_sites, few.body.small_groups) == (2, True)
    # It is not inherited: who makes the next version says it again.
    assert next_roster(few, now=NOW).body.min_sites == 3
    assert next_roster(few, small_groups=True, now=NOW).body.min_sites == 2
    # Said without need, it is not written.
    assert not next_roster(FIRST, small_groups=True, now=NOW).body.small_groups
    # Two sites alone are a small group.
    pair: dict[str, Any] = {"remove": ["hospital-c", "hospital-d"], "threshold": 1, "now": NOW}
    assert reason_of(next_roster, FIRST, **pair) == Reason.BAD_ARGUMENT
    assert next_roster(FIRST, min_sites=2, small_groups=True, **pair).body.small_groups


@pytest.mark.parametrize(
    "work",
    [
        lambda: next_roster(FIRST, remove=["nobody"], now=NOW),
        lambda: next_roster(FIRST, remove=["aggregator"], now=NOW),
        lambda: next_roster(FIRST, remove=["hospital-a", "hospital-b"], now=NOW),
        lambda: next_roster(FIRST, threshold=4, now=NOW),
        lambda: next_roster(FIRST, min_sites=5, now=NOW),
        lambda: next_roster(FIRST, min_sites=1, now=NOW),
        lambda: next_roster(FIRST, days=401, now=NOW),
        lambda: next_roster(FIRST, add=[(Role.AGGREGATOR, site("hospital-a").member())], now=NOW),
        lambda: next_roster(FIRST, add=[(Role.SITE, AGGREGATOR)], now=NOW),
        lambda: next_roster(FIRST, add=[(Role.SITE, replace(AGGREGATOR, name="other"))], now=NOW),
        lambda: first(threshold=4),
        lambda: first(federation="Test"),
    ],
)
def test_rosters_that_make_no_sense_are_not_made(work):
    assert isinstance(reason_of(work), Reason)
    assert next_roster(FIRST, now=NOW).body.members == FIRST.body.members


def test_only_a_coordinator_with_its_own_key_signs():
    unsigned = next_roster(FIRST, now=NOW)
    assert reason_of(sign_roster, unsigned, site("hospital-d")) == Reason.FORBIDDEN
    assert reason_of(sign_roster, unsigned, Identity.create("hospital-a")) == Reason.KEY_MISMATCH
    assert sign_roster(unsigned, site("hospital-a")).signers(FIRST.body.keys_of(Role.COORDINATOR)) == {"hospital-a"}
    # One who leaves signs as a coordinator of the version before.
    leaving = next_roster(FIRST, remove=["hospital-a"], now=NOW)
    assert reason_of(sign_roster, leaving, site("hospital-a")) == Reason.FORBIDDEN
    both = sign_roster(sign_roster(leaving, site("hospital-a"), FIRST), site("hospital-b"), FIRST)
    assert reason_of(follow, FIRST, [both], NOW) == Reason.BAD_SIGNATURE  # one of the two that stay
    assert follow(FIRST, [sign_roster(both, site("hospital-c"), FIRST)], NOW).body.version == 2
    assert reason_of(sign_roster, leaving, site("hospital-b"), SECOND) == Reason.ROSTER_MISMATCH


def test_every_field_of_a_roster_is_signed():
    members = [(Role.HOLDER, site(name).member()) for name in SITES]
    first = sign_roster(sign_roster(next_roster(FIRST, add=members, now=NOW), site("hospital-a")), site("hospital-b"))
    body = first.body.to_json()
    for name, value in body.items():
        if name == "v":
            continue
        other = value + 1 if isinstance(value, int) else "other" if isinstance(value, str) else {**value}
        if name == "holders":
            other = {"quorum": 4, "threshold": 2}
        elif isinstance(other, dict):
            other["hospital-a"] = {**other["hospital-a"], "roles": ["auditor"] + other["hospital-a"]["roles"]}
        with pytest.raises(WireError):
            check_signed(Signed(Roster.from_json(body | {name: other}), first.signatures))
    check_signed(first)


def holding(*names):
    return [(Role.HOLDER, (site(name) if name in SITES else Identity.create(name)).member()) for name in names]


def test_quorum_and_threshold_follow_from_the_number_of_holders():
    four = next_roster(FIRST, add=holding(*SITES), now=NOW)
    assert four.body.holders == Thresholds(4, 3, 2)
    same = next_roster(four, now=NOW)
    assert same.body.has_holders_of(four.body)
    # More of them than is usual stay, as long as there are as many holders.
    more = next_roster(four, answers=3, now=NOW)
    assert more.body.holders == Thresholds(4, 3, 3) == next_roster(more, now=NOW).body.holders
    assert next_roster(more, add=holding("trustee"), now=NOW).body.holders == Thresholds(5, 4, 3)
    none = next_roster(FIRST, add=[], now=NOW)
    assert none.body.holders is None


def test_holders_who_would_keep_nothing_from_the_aggregator_are_refused():
    for names, answers in ((SITES[:1], None), (SITES, 1), (SITES, 4)):
        with pytest.raises(InputError) as caught:
            next_roster(FIRST, add=holding(*names), answers=answers, now=NOW)
        assert caught.value.reason == Reason.BAD_ARGUMENT
    with pytest.raises(InputError) as caught:
        next_roster(FIRST, add=holding(*SITES[:1]), now=NOW)
    assert "trustee" in caught.value.hint
    assert reason_of(next_roster, FIRST, answers=2, now=NOW) == Reason.BAD_ARGUMENT  # of no holders


def test_a_pin_that_others_may_change_is_refused(tmp_path):
    path = tmp_path / "roster.json"
    with pytest.raises(ConfigError) as caught:
        read_pinned(path)
    assert "he-agg roster accept" in caught.value.hint
    path.write_bytes(FIRST.encode())
    for mode in (0o664, 0o646, 0o666):
        path.chmod(mode)
        assert reason_of(read_pinned, path) == Reason.UNSAFE_PERMISSIONS
    for mode in (0o644, 0o600, 0o444):
        path.chmod(mode)
        assert read_pinned(path) == FIRST
    path.chmod(0o644)
    path.write_bytes(with_only(FIRST, "hospital-a").encode())
    assert reason_of(read_pinned, path) == Reason.BAD_SIGNATURE


def test_a_pin_of_another_user_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "roster.json"
    path.write_bytes(FIRST.encode())
    assert read_pinned(path) == FIRST
    somebody_elses(path, monkeypatch)
    assert reason_of(read_pinned, path) == Reason.UNSAFE_PERMISSIONS


def test_an_input_error_is_a_value_error():
    with pytest.raises(InputError):
        next_roster(FIRST, remove=["nobody"], now=NOW)
