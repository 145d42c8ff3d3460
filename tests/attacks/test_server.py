"""Attacks of a malicious aggregator that holds no group key. Each is refused before anything is decrypted.

The liar signs with the aggregator's real key, so signatures alone stop none of these. After each attack a site opens
the honest sum with the same code: the same site where it was shown no false record, else another one. For a record
that the aggregator has signed is remembered; a second one with the same number is refused, whichever of them was
true.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from he_agg import HeAggError, Reason
from he_agg.documents.record import RoundRecord
from he_agg.documents.signed import Signed
from he_agg.plan.sections import PART_HEADER_BYTES
from tests.attacks.malicious import Lies
from tests.support.real import SITES
from tests.support.trust import AGGREGATOR, identity_of

A, B, C = SITES


def ids(world, round_id, *names):
    return [world.liar.submission(round_id, name) for name in names]


def test_honest_sum_is_accepted(world):
    round_id = world.submit(*SITES)
    for name in SITES:
        world.assert_honest(name, round_id)


@pytest.mark.parametrize("codec", ["hybrid", "ckks"])
def test_sum_without_a_site_that_the_record_lists(found, codec):
    world = found(codec=codec, value_bits=16)
    round_id = world.submit(*SITES)
    world.liar.serve_sum(round_id, world.liar.sum_of(ids(world, round_id, A, B)))
    assert "tags" in world.assert_rejected(A, round_id)
    world.assert_honest(B, round_id)


def test_submission_counted_twice(world):
    round_id = world.submit(*SITES)
    world.liar.serve_sum(round_id, world.liar.sum_of(ids(world, round_id, A, B, C, C)))
    world.assert_rejected(A, round_id)
    world.liar.serve_sum(round_id, world.liar.sum_of(ids(world, round_id, A, B, B)))
    world.assert_rejected(A, round_id)
    world.assert_honest(B, round_id)


def test_parts_at_each_others_places(world):
    round_id = world.submit(*SITES)
    first, second = [p.number for p in world.plan.public.places if p.section_index == 1][:2]
    swapped = world.liar.sum_of(ids(world, round_id, B, A, C), sources={first: second, second: first})
    world.liar.serve_sum(round_id, swapped)
    world.assert_rejected(A, round_id)
    world.assert_honest(B, round_id)


def test_one_sites_submission_as_the_sum(world):
    round_id = world.submit(*SITES)
    for victim in (A, B):
        world.liar.serve_sum(round_id, world.liar.sum_of(ids(world, round_id, victim)))
        world.assert_rejected(A, round_id)
    world.assert_honest(B, round_id)


def test_one_sites_submission_as_the_sum_of_that_site(world):
    """The set is told as it is, a single site, which even a right sum must not have."""
    round_id = world.submit(*SITES)
    members = {B: world.liar.submission(round_id, B)}
    excluded = {A: "absent", C: "absent"}
    world.liar.serve_sum(round_id, world.liar.sum_of(ids(world, round_id, B)), members=members, excluded=excluded)
    world.assert_rejected(A, round_id)
    world.assert_honest(A, round_id)


def test_sum_of_the_round_before(world):
    first = world.submit(*SITES)
    old = world.liar.sum_of(ids(world, first, *SITES))
    for name in SITES:
        world.assert_honest(name, first)
    second = world.submit(*SITES, number=2)
    world.liar.serve_sum(second, old)
    world.assert_rejected(A, second)
    world.assert_honest(B, second, number=2)


def test_one_bit_flipped_in_each_section(world):
    round_id = world.submit(*SITES)
    honest = world.liar.sum_of(ids(world, round_id, *SITES))
    sections = {place.section_index: place for place in world.plan.public.places}  # the last, short part of each
    assert len(sections) == 3
    for place in sections.values():
        changed = list(honest)
        part = bytearray(changed[place.number])
        # Bit 0 of residue 0, which stays below q whatever it was.
        part[PART_HEADER_BYTES] ^= 1
        changed[place.number] = bytes(part)
        world.liar.serve_sum(round_id, changed)
        world.assert_rejected(A, round_id)
    world.assert_honest(B, round_id)


def test_wrong_number_of_sites(world):
    round_id = world.submit(*SITES)
    honest = world.liar.sum_of(ids(world, round_id, *SITES))

    def without_c(record):
        return replace(record, members={k: v for k, v in record.members.items() if k != C}, excluded={C: "absent"})

    world.liar.lies = Lies(record=without_c, manifests=lambda all_: [m for m in all_ if C not in m.signatures])
    world.assert_rejected(A, round_id)
    world.liar.serve_sum(round_id, honest)
    world.liar.lies.record = without_c
    world.assert_rejected(A, round_id)
    world.assert_honest(B, round_id)


def test_site_listed_twice_under_another_sites_name(world):
    round_id = world.submit(*SITES)
    own = world.liar.submission(round_id, B)
    world.liar.serve_sum(round_id, world.liar.sum_of(ids(world, round_id, A, B, B)))
    honest = world.liar.lies.record
    world.liar.lies.record = lambda record: replace(honest(record), members=record.members | {C: own})
    world.liar.lies.manifests = lambda all_: [*all_[:2], all_[1]]
    world.assert_rejected(A, round_id)
    world.assert_honest(A, round_id)


def test_unknown_site_in_the_set(world):
    round_id = world.submit(*SITES)
    mallory = identity_of("mallory")

    def forged(documents: list[Signed]) -> list[Signed]:
        manifest = documents[2].body
        return [*documents[:2], Signed.make(replace(manifest, site="mallory"), mallory.signing_key)]

    forged_id: list[str] = []

    def manifests(documents: list[Signed]) -> list[Signed]:
        changed = forged(documents)
        forged_id[:] = [changed[2].digest]
        return changed

    def record(record):
        members = {k: v for k, v in record.members.items() if k != C}
        return replace(record, members=members | {"mallory": forged_id[0] if forged_id else "0" * 64})

    world.liar.lies = Lies(record=record, manifests=manifests)
    world.assert_rejected(A, round_id)
    world.assert_rejected(A, round_id)  # now the record names the very manifest that is shown
    world.assert_honest(A, round_id)


def test_two_sites_shown_different_records(world):
    """Both accept, for each story holds in itself; the next round brings it out."""
    round_id = world.submit(*SITES)
    world.assert_honest(A, round_id)
    world.liar.lies = Lies(record=lambda record: replace(record, closed_at=record.closed_at + 1))
    world.fetch(B, round_id)
    world.fetch(C, round_id)
    with pytest.raises(HeAggError) as caught:
        world.submit(B, number=2)
    assert caught.value.reason is Reason.CHAIN_MISMATCH
    world.liar.lies = Lies()
    next(world.open_sites[A].rounds()).submit(world.one_hot(A, 2), weight=100)


def test_record_of_another_round(world):
    """Its record with this round's manifests, its manifests with this round's record, or all of it."""
    first = world.submit(*SITES)
    kept: list[Signed[RoundRecord]] = []
    behind: list[list[Signed]] = []

    def keep(signed):
        kept.append(signed)
        return signed

    def keep_all(documents):
        behind.append(documents)
        return documents

    world.liar.lies = Lies(signed_record=keep, manifests=keep_all)
    for name in SITES:
        world.fetch(name, first)
    second = world.submit(*SITES, number=2)
    record, manifests = (lambda _: kept[0]), (lambda _: behind[0])
    for lies, what in (
        (Lies(signed_record=record), "record, round"),
        (Lies(manifests=manifests), f"manifest of {A}, digest"),
        (Lies(signed_record=record, manifests=manifests), "record, round"),
    ):
        world.liar.lies = lies
        assert what in world.assert_rejected(A, second)
    world.assert_honest(A, second, number=2)


def test_a_lie_in_each_half_of_the_answer(world):
    """Whatever the manifests are, the log says what is wrong with the record first: nothing of them is read before."""
    round_id = world.submit(*SITES)
    stranger = identity_of("mallory").signing_key
    for forged in (lambda all_: [], lambda all_: [*all_[:2], Signed.make(all_[2].body, stranger, C)]):
        world.liar.lies = Lies(signed_record=lambda s: Signed.make(s.body, stranger, AGGREGATOR), manifests=forged)
        assert "record, signature" in world.assert_rejected(A, round_id)
        world.liar.lies = Lies(manifests=forged)
        assert "manifest" in world.assert_rejected(A, round_id)
    garbage = b'{"manifests":[\xff],"record":'

    def spoil(exchange, status, body):
        if status != 200 or not exchange.path.endswith("/record"):
            return status, body
        return status, garbage + body[body.rindex(b'"record":') + len(b'"record":') :]

    world.liar.lies = Lies(answer=spoil, signed_record=lambda s: Signed.make(s.body, stranger, AGGREGATOR))
    assert "record, signature" in world.assert_rejected(A, round_id)
    world.liar.lies = Lies(answer=spoil)
    assert "manifests" in world.assert_rejected(A, round_id)
    world.assert_honest(A, round_id)


@pytest.mark.parametrize("member", ["plan_id", "key_id"])
def test_another_plan_or_key_is_noticed_before_anything_is_encrypted(world, member):
    other: dict[str, Any] = {member: "0" * 64}
    world.liar.lies = Lies(state=lambda state: replace(state, **other))
    with pytest.raises(HeAggError) as caught:
        next(world.open_sites[A].rounds())
    assert caught.value.reason in (Reason.PLAN_MISMATCH, Reason.KEY_MISMATCH)
    assert not world.liar.parts
    assert not world.liar.submissions
    world.liar.lies = Lies()
    world.assert_honest(A, world.submit(*SITES))


@pytest.mark.parametrize("member", ["plan_id", "key_id", "epoch"])
def test_record_of_another_plan_key_or_epoch(world, member):
    round_id = world.submit(*SITES)
    other: Any = 7 if member == "epoch" else "0" * 64
    world.liar.lies = Lies(record=lambda record: replace(record, **{member: other}))
    world.assert_rejected(A, round_id)
    world.assert_honest(A, round_id)


def test_signatures_stripped(world):
    round_id = world.submit(*SITES)
    for lies in (
        Lies(signed_record=lambda signed: replace(signed, signatures={})),
        Lies(signed_record=lambda s: Signed.make(s.body, identity_of("mallory").signing_key, AGGREGATOR)),
        Lies(manifests=lambda all_: [replace(document, signatures={}) for document in all_]),
        Lies(manifests=lambda all_: all_[:-1]),
    ):
        world.liar.lies = lies
        world.assert_rejected(A, round_id)
    world.assert_honest(A, round_id)


def test_set_below_the_sites_own_minimum(world):
    """Two sites are enough for plan and roster; hospital C wants three."""
    world.open(C, min_sites=3)
    round_id = world.submit(*SITES)
    two = world.liar.sum_of(ids(world, round_id, A, C))
    members = {name: world.liar.submission(round_id, name) for name in (A, C)}
    world.liar.serve_sum(round_id, two, members=members, excluded={B: "absent"})
    world.liar.lies.manifests = lambda all_: [m for m in all_ if B not in m.signatures]
    world.assert_rejected(C, round_id)
    # The very same story is a sum that hospital A accepts: nothing in it is false but that B was absent.
    assert world.fetch(A, round_id).n_sites == 2
    world.assert_honest(C, round_id)


def test_second_record_for_the_same_round(world):
    """Even the true one: whoever signs two has lied once, and this site cannot know when."""
    round_id = world.submit(*SITES)
    world.liar.serve_sum(round_id, world.liar.sum_of(ids(world, round_id, A, B)))
    world.assert_rejected(A, round_id)
    world.liar.lies = Lies()
    assert "chain-mismatch" in world.assert_rejected(A, round_id)
    world.assert_honest(B, round_id)
