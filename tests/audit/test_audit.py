"""The offline audit: an honest transcript holds, and each way of changing one is found, with its reason."""

from __future__ import annotations

import ast
import io
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg.audit import audit
from he_agg.documents.draw import draw, members_digest
from he_agg.documents.record import NO_RECORD, RoundRecord
from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.documents.transcript import encode_header
from he_agg.host.commands import main
from he_agg.ids import RoundId
from he_agg.signing import SigningKey
from tests.support.documents import EXAMPLES
from tests.support.federation import plan_of
from tests.support.history import Entry, History, digest_of
from tests.support.trust import AGGREGATOR, COORDINATOR, consortium, identity_of

PLAN = plan_of(5000, part_bytes=2**16).public
OTHER_PLAN = plan_of(6000, part_bytes=2**16).public
SITES = ["hospital-a", "hospital-b", "hospital-c"]
AGGREGATOR_KEY = SigningKey.generate()
PEOPLE = consortium("test", SITES, AGGREGATOR_KEY)
COORDINATOR_PRINT = PEOPLE.identities[COORDINATOR].fingerprint
GIVEN = {COORDINATOR: COORDINATOR_PRINT}


def added(site="hospital-d"):
    """The second roster: one site more."""
    members = dict(PEOPLE.roster.body.members)
    return members | {site: identity_of(site).member([Role.SITE])}


def honest(until=4):
    """A sum, a failure, a sum without a site; under a new roster and a new epoch a sum of all."""
    history = History(PEOPLE, AGGREGATOR_KEY, PLAN)
    history.rosters.append(PEOPLE.next_roster(added()))
    history.people = replace(PEOPLE, identities={**PEOPLE.identities, "hospital-d": identity_of("hospital-d")})
    first = history.rosters[0]
    steps = [
        lambda: history.round(1, 1, SITES, roster=first),
        lambda: history.round(2, 1, [], roster=first),
        lambda: history.round(2, 2, SITES[:2], roster=first),
        lambda: history.round(3, 1, [*SITES, "hospital-d"]),
    ]
    for number, step in enumerate(steps[:until]):
        history.epoch = 2 if number == 3 else 1
        step()
    return history


def check(data, fingerprints=GIVEN, expected=()):
    return audit(io.BytesIO(data), fingerprints, tuple(expected))


def kinds(result):
    return [finding.kind for finding in result.findings]


def joined(lines):
    return b"".join(line + b"\n" for line in lines)


def test_an_honest_transcript_holds():
    history = honest()
    result = check(history.encode(), expected=[entry.record.digest for entry in history.entries])
    assert result.findings == []
    assert result.ok
    assert (result.federation, result.plan_id, result.head) == ("test", PLAN.plan_id, history.head)
    assert [(row.round, row.outcome, row.roster_version, row.epoch) for row in result.rounds] == [
        ("test.1.1", "published", 1, 1),
        ("test.2.1", "failed", 1, 1),
        ("test.2.2", "published", 1, 1),
        ("test.3.1", "published", 2, 2),
    ]
    assert result.rounds[2].members == ("hospital-a", "hospital-b")
    assert result.rounds[2].excluded == {"hospital-c": "absent"}
    assert result.participation == {
        "hospital-a": {"in the sum": 3, "absent": 1},
        "hospital-b": {"in the sum": 3, "absent": 1},
        "hospital-c": {"in the sum": 2, "absent": 2},
        "hospital-d": {"in the sum": 1},
    }
    assert [(c.name, c.confirmed) for c in result.coordinators] == [(COORDINATOR, True)]


@pytest.mark.parametrize("until", range(5))
def test_so_does_each_beginning_of_it(until):
    assert check(honest(until).encode()).findings == []


def test_without_fingerprints_it_says_what_was_taken_on_trust():
    result = check(honest().encode(), None)
    assert result.ok
    assert [(c.name, c.fingerprint, c.confirmed) for c in result.coordinators] == [
        (COORDINATOR, COORDINATOR_PRINT, False)
    ]


def test_a_site_may_go_by_the_roster_that_came_while_the_round_was_open():
    history = honest(3)
    first, second = history.rosters
    history.round(3, 1, SITES, roster=first, manifests={"hospital-b": {"roster": second.body_digest}})
    assert check(history.encode()).findings == []


def test_a_roster_may_expire_while_a_round_is_open():
    """The round opened under the first version, which the second one had replaced when it closed."""
    first = PEOPLE.roster
    end = first.body.expires_at
    second = PEOPLE.next_roster(dict(first.body.members), expires_at=end + 1000)

    def history(*rosters, opened=end - 10, closed=end + 10):
        made = History(PEOPLE, AGGREGATOR_KEY, PLAN, list(rosters))
        made.round(1, 1, SITES, roster=first, closed_at=opened)
        made.round(2, 1, SITES, roster=first, closed_at=closed)
        return check(made.encode())

    assert history(first, second).ok
    assert history(first, closed=end - 1).ok
    assert kinds(history(first)) == ["roster-expired"]  # nobody replaced it
    assert kinds(history(first, second, closed=end + 1000)) == ["roster-expired"]  # nor the second one
    found = history(first, second, opened=end)  # it had expired before the second round began
    assert kinds(found) == ["roster-expired"]
    assert "when it opened" in found.findings[0].text


def test_drawn_sites_can_be_drawn_again():
    """Whoever draws sees the same sites; a site that was drawn and is not named was left out on purpose."""
    plan = plan_of(5000, part_bytes=2**16, sample_percent=50).public
    history = History(PEOPLE, AGGREGATOR_KEY, plan)
    counted = NO_RECORD
    for number in range(1, 5):
        drawn = draw(set(SITES), 2, RoundId("test", number, 1), PEOPLE.roster.body_digest, counted)
        history.round(number, 1, sorted(drawn), excluded={})
        counted = members_digest(history.entries[-1].record.body.members)
    assert check(history.encode()).findings == []

    def last(members, excluded):
        changed = History(PEOPLE, AGGREGATOR_KEY, plan, entries=history.entries[:-1])
        changed.round(4, 1, members, excluded=excluded)
        return kinds(check(changed.encode()))

    one, two = sorted(history.entries[-1].record.body.members)
    (other,) = set(SITES) - {one, two}
    assert last(sorted([one, other]), {}) == ["unnamed-exclusion", "not-invited"]
    assert last([one, two], {other: "absent"}) == ["not-invited"]
    assert last([one, two], {"stranger": "absent"}) == ["not-a-member"]


def given_up(said, *later):
    """A sum of the first two sites, what they say of it, a record that gives it up, and what comes after."""
    history = History(PEOPLE, AGGREGATOR_KEY, PLAN)
    history.round(1, 1, SITES[:2])
    for site, found in zip(SITES, said, strict=False):
        history.judge(site, found)
    history.round(2, 1, [], gives_up=history.head, excluded=dict.fromkeys(SITES, "round-disputed"))
    for number, attempt, members, changed in later:
        history.round(number, attempt, members, **changed)
    return kinds(check(history.encode()))


REJECTED_BY_BOTH = ("rejected", "rejected")


@pytest.mark.parametrize(
    ("said", "later", "found"),
    [
        (REJECTED_BY_BOTH, [(1, 2, SITES[:2], {"excluded": {}}), (2, 2, SITES, {})], []),
        (("rejected", "opened"), [(1, 2, [], {"excluded": dict.fromkeys(SITES[:2], "absent")})], []),
        (("opened", "opened"), [], ["given-up"]),
        (("opened",), [], ["given-up"]),
        (REJECTED_BY_BOTH, [(2, 2, SITES, {})], ["round-order", "not-invited"]),
        (REJECTED_BY_BOTH, [(1, 2, SITES, {})], ["not-invited"]),
        (REJECTED_BY_BOTH, [(1, 2, SITES[1:], {"excluded": {SITES[0]: "absent"}})], ["given-up", "not-invited"]),
        (REJECTED_BY_BOTH, [(1, 2, SITES[1:3], {"excluded": {}})], ["unnamed-exclusion", "not-invited"]),
    ],
)
def test_a_sum_is_given_up_for_a_reason_and_tried_again_by_all_of_its_members(said, later, found):
    assert given_up(said, *later) == found


def test_a_sum_is_given_up_once():
    history = History(PEOPLE, AGGREGATOR_KEY, PLAN)
    disputed = history.round(1, 1, SITES).record.digest
    history.judge(SITES[0], "rejected")
    for number in (2, 1):
        history.round(number, 3 - number, [], gives_up=disputed)
    assert kinds(check(history.encode())) == ["given-up"]


# What anybody on the way could do: no key is needed for it.


def _records(lines):
    return [i for i, line in enumerate(lines) if b'"kind":"record"' in line]


def _manifests(lines):
    return [i for i, line in enumerate(lines) if b'"kind":"manifest"' in line]


def drop_a_record_with_its_manifests(lines):
    first, second = _records(lines)[:2]
    return lines[: first + 1] + lines[second + 1 :]


def drop_the_record_alone(lines):
    return [line for i, line in enumerate(lines) if i != _records(lines)[1]]


def drop_the_first_record(lines):
    return lines[: _manifests(lines)[0]] + lines[_records(lines)[0] + 1 :]


def reorder_records(lines):
    one, two, three = _records(lines)[:3]
    return lines[: one + 1] + lines[two + 1 : three + 1] + lines[one + 1 : two + 1] + lines[three + 1 :]


def in_record(old, new):
    def change(lines):
        at = next(i for i in _records(lines) if old in lines[i])
        assert lines[at].count(old) >= 1
        return [*lines[:at], lines[at].replace(old, new, 1), *lines[at + 1 :]]

    return change


def in_line(pick, edit):
    def change(lines):
        at = pick(lines)
        assert edit(lines[at]) != lines[at]
        return [*lines[:at], edit(lines[at]), *lines[at + 1 :]]

    return change


def without_signatures(line):
    return re.sub(rb'"signatures":\{[^}]*\}', b'"signatures":{}', line)


def with_another_signature(line):
    return re.sub(rb'(":")([0-9a-f]{128})"', lambda m: m[1] + m[2][::-1] + b'"', line)


def swap_manifests(lines):
    one, two = _manifests(lines)[:2]
    lines = list(lines)
    lines[one], lines[two] = lines[two], lines[one]
    return lines


def a_manifest_of_another_round(lines):
    found = _manifests(lines)
    return [*lines[: found[0]], lines[found[3]], *lines[found[0] + 1 :]]


def a_manifest_twice(lines):
    at = _manifests(lines)[1]
    return [*lines[:at], lines[at], *lines[at:]]


def drop_a_manifest(lines):
    at = _manifests(lines)[1]
    return [*lines[:at], *lines[at + 1 :]]


def garbage(lines):
    return [*lines[:5], b"\x00\xff not a document", *lines[5:]]


def an_empty_line(lines):
    return [*lines[:5], b"", *lines[5:]]


def another_kind_of_document(lines):
    receipt = Signed.make(EXAMPLES["receipt"].body, AGGREGATOR_KEY, AGGREGATOR)
    return [*lines[:5], receipt.encode(), *lines[5:]]


def a_record_of_another_federation(lines):
    """Signed by the same aggregator, which serves both."""
    at = _records(lines)[1]
    record = Signed.parse(RoundRecord, lines[at]).body
    moved = replace(record, round_id=RoundId("other", record.round_id.number, record.round_id.attempt))
    return [*lines[:at], Signed.make(moved, AGGREGATOR_KEY, AGGREGATOR).encode(), *lines[at + 1 :]]


def rosters_at_the_end(lines):
    return [lines[0], lines[1], *lines[3:], lines[2]]


FIRST_RECORD = in_line(lambda lines: _records(lines)[0], with_another_signature)
BY_ANYBODY = {
    "a record dropped": (drop_a_record_with_its_manifests, {"chain-index", "chain-digest", "round-order"}),
    "a record dropped, its manifests left": (drop_the_record_alone, {"chain-index", "chain-digest"}),
    "the first record dropped": (drop_the_first_record, {"chain-index", "chain-digest", "round-order"}),
    "records in another order": (reorder_records, {"chain-index", "chain-digest", "round-order"}),
    "a member's name changed": (
        in_record(b'"hospital-a":', b'"hospital-0":'),
        {"record-signature", "missing-manifest"},
    ),
    "a reason changed": (in_record(b'"absent"', b'"late"'), {"record-signature", "chain-digest"}),
    "the outcome's time changed": (in_record(b'"closed_at":1', b'"closed_at":2'), {"record-signature"}),
    "a record's signature stripped": (
        in_line(lambda lines: _records(lines)[2], without_signatures),
        {"record-signature"},
    ),
    "a record's signature forged": (FIRST_RECORD, {"record-signature", "chain-digest"}),
    "a manifest's signature stripped": (in_line(lambda lines: _manifests(lines)[0], without_signatures), {"bad-line"}),
    "a manifest's signature forged": (
        in_line(lambda lines: _manifests(lines)[0], with_another_signature),
        {"manifest-digest", "manifest-signature"},
    ),
    "a manifest changed": (
        in_line(lambda lines: _manifests(lines)[0], lambda line: line.replace(b'"tags":[["1"', b'"tags":[["2"')),
        {"manifest-digest", "manifest-signature"},
    ),
    "manifests swapped": (swap_manifests, {"order"}),
    "a manifest of another round": (a_manifest_of_another_round, {"manifest-digest", "manifest", "manifest-previous"}),
    "a manifest twice": (a_manifest_twice, {"duplicate-site"}),
    "a manifest dropped": (drop_a_manifest, {"missing-manifest"}),
    "garbage": (garbage, {"bad-line"}),
    "an empty line": (an_empty_line, {"bad-line"}),
    "another kind of document": (another_kind_of_document, {"bad-line"}),
    "white space in a line": (in_line(lambda lines: 4, lambda line: line.replace(b":", b": ", 1)), {"not-canonical"}),
    "a line feed of another system": (in_line(lambda lines: 4, lambda line: line + b"\r"), {"not-canonical"}),
    "another federation's record": (a_record_of_another_federation, {"other-federation"}),
    "a roster's version skipped": (lambda lines: [lines[0], *lines[2:]], {"roster-version", "no-roster"}),
    "a roster twice": (lambda lines: [*lines[:3], lines[2], *lines[3:]], {"roster-version"}),
    "a roster changed": (
        in_line(lambda lines: 2, lambda line: line.replace(b'["site"]', b'["operator","site"]', 1)),
        {"roster-signature", "unknown-roster"},
    ),
    "a roster without signatures": (in_line(lambda lines: 1, without_signatures), {"roster-signature", "no-roster"}),
    "a roster after records": (rosters_at_the_end, {"order", "unknown-roster"}),
    "no rosters": (lambda lines: [lines[0], *lines[3:]], {"no-roster", "unknown-roster"}),
    "another plan": (lambda lines: [encode_header(OTHER_PLAN), *lines[1:]], {"plan", "manifest"}),
    "no header": (lambda lines: lines[1:], {"bad-header"}),
}


@pytest.mark.parametrize("name", BY_ANYBODY)
def test_what_anybody_could_change(name):
    change, expected = BY_ANYBODY[name]
    lines = honest().lines()
    assert check(joined(lines)).ok
    result = check(joined(change(lines)))
    assert expected <= set(kinds(result)), result.findings
    assert len(kinds(result)) == len(set(kinds(result)))
    assert all(finding.line <= len(lines) + 1 for finding in result.findings)


def test_findings_name_line_and_round():
    lines = honest().lines()
    at = _records(lines)[0]
    (finding, *_) = check(joined(FIRST_RECORD(lines))).findings
    assert (finding.kind, finding.line) == ("record-signature", at + 1)
    assert "test.1.1" in finding.text


def test_a_file_that_was_cut():
    data = honest().encode()
    starts = [0]
    for line in data.split(b"\n")[:-1]:
        starts.append(starts[-1] + len(line) + 1)
    lines = honest().lines()
    ends = {starts[1], starts[2], starts[3], *(starts[i + 1] for i in _records(lines))}
    # Between two lines of manifests, in the middle of each line, and nothing at all:
    for cut in [*starts, *((a + b) // 2 for a, b in pairwise(starts))]:
        result = check(data[:cut])
        if cut in ends:
            # After a whole record it is a shorter transcript, and only who has seen more can tell.
            assert kinds(result) in ([], ["no-roster"]), (cut, result.findings)
        else:
            assert "truncated" in kinds(result), (cut, result.findings)


def test_an_older_transcript_is_told_by_what_a_site_has_seen():
    seen = honest().head
    assert check(honest().encode(), expected=[seen]).ok
    result = check(honest(3).encode(), expected=[seen])
    assert kinds(result) == ["missing-record"]
    assert seen in result.findings[0].text


def test_a_line_that_never_ends(monkeypatch):
    monkeypatch.setattr("he_agg.documents.transcript.MAX_LINE_BYTES", 50_000)
    result = check(joined([*honest(1).lines(), b"[" * 100_000]))
    assert kinds(result) == ["bad-line"]
    assert "at most 50000 bytes" in result.findings[0].text


@given(data=st.data())
def test_any_changed_byte_is_found(data):
    transcript = bytearray(honest().encode())
    at = data.draw(st.integers(0, len(transcript) - 1))
    transcript[at] ^= data.draw(st.integers(1, 255))
    assert not check(bytes(transcript)).ok


@given(st.binary(max_size=400))
def test_any_bytes_give_an_answer(data):
    assert not check(data).ok
    assert not check(honest(0).encode() + data + b"\n").ok


# What the aggregator could do: it signs records, so these are all well signed.


def leave_a_site_out_silently(history):
    history.round(4, 1, SITES, excluded={})


def exclude_without_a_reason(history):
    history.round(4, 1, SITES, excluded={"hospital-d": ""})


def too_few_sites(history):
    rest = dict.fromkeys([*SITES[1:], "hospital-d"], "absent")
    history.round(4, 1, SITES[:1], excluded=rest)


def a_site_that_is_no_member(history):
    history.people.identities["mallory"] = identity_of("mallory")
    history.round(4, 1, [*SITES, "hospital-d", "mallory"])


def a_coordinator_as_a_site(history):
    history.round(4, 1, [*SITES, "hospital-d", COORDINATOR])


def forge_a_manifest(history):
    history.round(4, 1, [*SITES, "hospital-d"], keys={"hospital-b": AGGREGATOR_KEY})


def a_manifest_under_another_sites_key(history):
    history.round(4, 1, [*SITES, "hospital-d"], keys={"hospital-b": identity_of("hospital-a").signing_key})


def tell_a_site_another_history(history):
    history.round(4, 1, [*SITES, "hospital-d"], manifests={"hospital-c": {"previous": digest_of("elsewhere")}})


def a_manifest_under_another_key(history):
    history.round(4, 1, [*SITES, "hospital-d"], manifests={"hospital-c": {"key_id": digest_of("another")}})


def a_manifest_of_another_length(history):
    history.round(4, 1, [*SITES, "hospital-d"], manifests={"hospital-c": {"part_digests": (digest_of("x"),)}})


def a_manifest_by_an_unknown_roster(history):
    history.round(4, 1, [*SITES, "hospital-d"], manifests={"hospital-c": {"roster": digest_of("x")}})


def a_manifest_by_an_older_roster(history):
    first = history.rosters[0].body_digest
    history.round(4, 1, [*SITES, "hospital-d"], manifests={"hospital-c": {"roster": first}})


def go_back_to_an_old_roster(history):
    history.round(4, 1, SITES, roster=history.rosters[0])


def go_by_a_roster_of_its_own(history):
    made = replace(history.rosters[-1].body, version=3)
    history.round(4, 1, [*SITES, "hospital-d"], roster=Signed(made))


def close_after_expiry(history):
    history.round(4, 1, [*SITES, "hospital-d"], closed_at=history.rosters[-1].body.expires_at)


def go_back_to_an_old_epoch(history):
    history.epoch = 1
    history.round(4, 1, [*SITES, "hospital-d"])


def change_the_key_within_an_epoch(history):
    history.round(4, 1, [], key_id=digest_of("another"))


def skip_a_round(history):
    history.round(5, 1, [*SITES, "hospital-d"])


def repeat_a_round(history):
    history.round(3, 2, [*SITES, "hospital-d"])


def fail_with_members(history):
    history.round(4, 1, [*SITES, "hospital-d"], outcome="failed", sum_digests=())


def a_shorter_sum(history):
    history.round(4, 1, [*SITES, "hospital-d"], sum_digests=(digest_of("x"),))


def another_plan(history):
    history.round(4, 1, [], plan_id=OTHER_PLAN.plan_id)


def fork(history):
    history.round(4, 1, [], previous=history.entries[0].record.digest)


def an_index_twice(history):
    history.round(4, 1, [], index=4)


def show_a_manifest_too_many(history):
    whole = history.round(4, 1, [*SITES, "hospital-d"])
    history.entries.pop()
    history.entries.append(Entry(whole.manifests, history.round(4, 1, SITES).record))
    del history.entries[-2]


def sign_with_another_key(history):
    history.round(4, 1, [], signed_by=SigningKey.generate())


BY_THE_AGGREGATOR = {
    leave_a_site_out_silently: {"unnamed-exclusion"},
    exclude_without_a_reason: {"unnamed-exclusion"},
    too_few_sites: {"number-of-sites"},
    a_site_that_is_no_member: {"not-a-member", "manifest-signature"},
    a_coordinator_as_a_site: {"not-a-member", "manifest-signature"},
    forge_a_manifest: {"manifest-signature"},
    a_manifest_under_another_sites_key: {"manifest-signature"},
    tell_a_site_another_history: {"manifest-previous"},
    a_manifest_under_another_key: {"manifest"},
    a_manifest_of_another_length: {"manifest"},
    a_manifest_by_an_unknown_roster: {"manifest"},
    a_manifest_by_an_older_roster: {"manifest"},
    go_back_to_an_old_roster: {"roster-order"},
    go_by_a_roster_of_its_own: {"manifest", "unknown-roster"},
    close_after_expiry: {"roster-expired"},
    go_back_to_an_old_epoch: {"epoch"},
    change_the_key_within_an_epoch: {"epoch"},
    skip_a_round: {"round-order"},
    repeat_a_round: {"round-order"},
    fail_with_members: {"failed-with-members"},
    a_shorter_sum: {"plan"},
    another_plan: {"plan"},
    fork: {"chain-digest"},
    an_index_twice: {"chain-index"},
    show_a_manifest_too_many: {"extra-manifest"},
    sign_with_another_key: {"record-signature"},
}


@pytest.mark.parametrize("act", BY_THE_AGGREGATOR, ids=lambda act: act.__name__)
def test_what_the_aggregator_could_do(act):
    history = honest()
    history.round(4, 1, [*SITES, "hospital-d"])
    assert check(history.encode()).ok
    history.entries.pop()
    act(history)
    result = check(history.encode())
    assert set(kinds(result)) == BY_THE_AGGREGATOR[act], result.findings


# Rosters, and who may sign them.


def test_a_roster_that_the_old_coordinators_did_not_sign():
    """Mallory lists herself as coordinator and signs: that is not following."""
    history = honest()
    members = added() | {"mallory": identity_of("mallory").member([Role.COORDINATOR])}
    unsigned = Signed(replace(history.rosters[-1].body, version=3, members=members))
    by_mallory = unsigned.signed_by("mallory", identity_of("mallory").signing_key)
    history.rosters.append(by_mallory)
    assert kinds(check(history.encode())) == ["roster-signature"]
    by_both = by_mallory.signed_by(COORDINATOR, PEOPLE.identities[COORDINATOR].signing_key)
    history.rosters[-1] = by_both
    assert check(history.encode()).ok


def test_threshold_of_the_roster_before():
    """Two of two coordinators: one alone can neither sign nor lower the number."""
    second = identity_of("second")
    members = dict(PEOPLE.roster.body.members) | {"second": second.member([Role.COORDINATOR])}

    def signed(roster, *names):
        document = Signed(roster)
        for name in names:
            document = document.signed_by(name, identity_of(name).signing_key)
        return document

    both = (COORDINATOR, "second")
    first = signed(replace(PEOPLE.roster.body, members=members, threshold=2), *both)
    lower = replace(first.body, version=2, threshold=1)
    prints = {name: identity_of(name).fingerprint for name in both}
    history = History(PEOPLE, AGGREGATOR_KEY, PLAN, [first, signed(lower, *both)])
    assert check(history.encode(), prints).ok
    history.rosters[1] = signed(lower, COORDINATOR)
    assert kinds(check(history.encode(), prints)) == ["roster-signature"]
    history.rosters = [signed(first.body, COORDINATOR)]
    assert kinds(check(history.encode(), prints)) == ["roster-signature", "no-roster"]
    # One fingerprint is too few where two have to sign: the other may be anybody.
    history.rosters = [first]
    assert kinds(check(history.encode(), GIVEN)) == ["coordinator"]


def test_fingerprints_that_do_not_fit():
    data = honest().encode()
    assert check(data, {COORDINATOR: COORDINATOR_PRINT.upper().replace(" ", "")}).ok
    for given_ in (
        {COORDINATOR: identity_of("mallory").fingerprint},
        {"nobody": COORDINATOR_PRINT},
        GIVEN | {"nobody": COORDINATOR_PRINT},
        {"hospital-a": identity_of("hospital-a").fingerprint},
    ):
        assert kinds(check(data, given_)) == ["coordinator"]


def test_a_first_roster_that_was_made_up():
    """All well signed, by a coordinator of the same name: only the fingerprint tells."""
    imposter = replace(PEOPLE, identities={**PEOPLE.identities, COORDINATOR: identity_of("mallory")})
    members = dict(PEOPLE.roster.body.members)
    members[COORDINATOR] = replace(identity_of("mallory").member([Role.COORDINATOR]), name=COORDINATOR)
    roster = imposter.signed(replace(PEOPLE.roster.body, members=members))
    history = History(imposter, AGGREGATOR_KEY, PLAN, [roster])
    history.round(1, 1, SITES)
    assert check(history.encode(), None).ok
    assert kinds(check(history.encode())) == ["coordinator"]


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path, capsys):
        def command(data, *arguments):
            (tmp_path / "transcript.jsonl").write_bytes(data)
            with pytest.raises(SystemExit) as ended:
                main(["audit", str(tmp_path / "transcript.jsonl"), *arguments])
            return ended.value.code, capsys.readouterr()

        return command

    def test_text(self, run):
        given_ = ["--coordinator-fingerprint", f"{COORDINATOR}={COORDINATOR_PRINT}"]
        code, printed = run(honest().encode(), *given_, "--expect-record", honest().head)
        assert (code, printed.err) == (0, "")
        said = " ".join(printed.out.split())
        assert "test.2.2 published" in said
        assert "1 1 hospital-a, hospital-b hospital-c (absent)" in said
        assert "hospital-c 2 absent 2" in said
        assert f"{COORDINATOR_PRINT} as given" in said
        assert printed.out.splitlines()[-1] == "verdict: everything holds, over 4 records"

    def test_on_trust(self, run):
        code, printed = run(honest().encode())
        assert code == 0
        assert f"{COORDINATOR_PRINT}  TAKEN ON TRUST" in printed.out
        assert "then give --coordinator-fingerprint" in printed.out

    def test_findings(self, run):
        lines = honest().lines()
        code, printed = run(joined(FIRST_RECORD(lines)))
        assert code == 1
        assert "verdict: DOES NOT HOLD" in printed.out
        assert f"line {_records(lines)[0] + 1}: record 1 of round test.1.1: expected the signature" in printed.out
        assert "[record-signature]" in printed.out

    def test_json(self, run):
        code, printed = run(honest().encode(), "--json")
        value = json.loads(printed.out)
        assert (code, value["ok"], value["findings"], len(value["rounds"])) == (0, True, [], 4)
        assert value["participation"]["hospital-a"] == {"in the sum": 3, "absent": 1}
        code, printed = run(honest().encode()[:-1], "--json")
        value = json.loads(printed.out)
        assert (code, value["ok"], [f["kind"] for f in value["findings"]]) == (1, False, ["truncated"])

    def test_a_reason_cannot_speak_to_the_terminal(self, run):
        history = honest()
        history.round(4, 1, SITES, excluded={"hospital-d": "\x1b[2Jno\n"})
        code, printed = run(history.encode())
        assert code == 0
        assert "\x1b" not in printed.out
        assert "hospital-d ('\\x1b[2Jno\\n')" in printed.out

    def test_wrong_usage(self, run, tmp_path):
        for arguments in (
            ["--coordinator-fingerprint", COORDINATOR_PRINT],
            ["--coordinator-fingerprint", f"{COORDINATOR}={COORDINATOR_PRINT[:-2]}"],
            ["--coordinator-fingerprint", f"{COORDINATOR}={COORDINATOR_PRINT}"] * 2,
            ["--expect-record", "abc"],
        ):
            code, printed = run(honest().encode(), *arguments)
            assert code == 2
            assert "he-agg: error: " in printed.err
        with pytest.raises(SystemExit) as ended:
            main(["audit", str(tmp_path / "none")])
        assert ended.value.code == 4


def test_the_page_says_what_each_kind_means():
    root = Path(__file__).parents[2]
    listed = re.findall(r"^\| `([a-z-]+)` \|", (root / "docs" / "audit.md").read_text(), re.MULTILINE)
    strings = set()
    source = "".join(path.read_text() for path in sorted((root / "he_agg" / "audit").glob("*.py")))
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in ("find", "_find"):
            strings |= {str(n.value) for n in ast.walk(call.args[0]) if isinstance(n, ast.Constant)}
    strings.discard("twice")  # a condition
    assert sorted(listed) == sorted(strings)
