"""What a server could hand out in place of the sum, each refused by the code that accepts the honest one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from he_agg.errors import InputError, WireError
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import pack
from he_agg.kernels.mac_rows import MAX_ROWS, ROW
from he_agg.mac import RoundMac, tag_count
from tests.mac.checking import refused, total_of
from tests.support.federation import plan_of

KEY = bytes(range(32))
ROUND = RoundId("test", 3, 1)
SITES = ["site-a", "site-b", "site-c"]
PLANS = {
    "ckks": plan_of(5000, part_bytes=2**16, max_sites=31).public,  # 40 bits, 3 parts
    "ckks-short": plan_of(5, value_bits=2).public,  # the smallest ring
    "hybrid": plan_of(70_000, codec="hybrid", part_bytes=2**17).public,  # two moduli; the last row is short
    "hybrid-one-modulus": plan_of(70_000, codec="hybrid", part_bytes=2**17, value_bits=24).public,
}


def packed(plan, residues):
    return [pack(x, place.section.modulus_bits) for x, place in zip(residues, plan.places, strict=True)]


class Submission:
    """Random residues, tagged as a site does it. Half of them are as large as can be, so that sums wrap around."""

    def __init__(self, plan, mac, site: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.site, self.nonce = site, random.bytes(16).hex()
        self.residues = []
        for place in plan.places:
            q = place.section.modulus
            x = random.integers(0, q, place.residues, dtype=np.uint64)
            x[::2] = q - 1 - random.integers(0, 3, x[::2].size, dtype=np.uint64)
            self.residues.append(x)
        self.tags = mac.tags(total_of(mac, packed(plan, self.residues)), site, self.nonce)

    @property
    def claim(self):
        return self.site, self.nonce, self.tags


def sum_of(plan, submissions):
    """The residues of the sum, part by part."""
    assert all(section.modulus * len(submissions) < 2**64 for section in plan.sections)
    return [
        sum(s.residues[place.number] for s in submissions) % np.uint64(place.section.modulus) for place in plan.places
    ]


class Attempt:
    """Three submissions of one attempt, and the sum."""

    def __init__(self, plan) -> None:
        self.plan = plan
        self.mac = RoundMac(KEY, plan, 1, ROUND)
        self.submissions = [Submission(plan, self.mac, site, seed) for seed, site in enumerate(SITES)]
        self.claims = [s.claim for s in self.submissions]
        self.sum = [x.astype(np.uint64) for x in sum_of(plan, self.submissions)]

    def accepts(self, residues=None, claims=None, mac=None) -> bool:
        return not self.refuses(residues, claims, mac)

    def refuses(self, residues=None, claims=None, mac=None) -> list[int]:
        """Which parts of it are refused."""
        parts = packed(self.plan, self.sum if residues is None else residues)
        return refused(mac or self.mac, parts, self.claims if claims is None else claims)

    def added(self, *submissions):
        return sum_of(self.plan, submissions)


def pads_of(plan, mac, site, nonce):
    return [mac.pads(place.number, site, nonce) for place in plan.places]


@pytest.fixture(scope="module", params=PLANS)
def world(request):
    world = Attempt(PLANS[request.param])
    assert world.accepts()
    return world


def test_honest_sum_in_any_order_of_claims(world):
    assert world.accepts(claims=world.claims[::-1])
    assert world.accepts(claims=iter(world.claims))


def test_honest_sum_of_fewer_sites(world):
    a, b, _ = world.submissions
    assert world.accepts(world.added(a, b), [a.claim, b.claim])
    assert world.accepts(world.added(a), [a.claim])


def test_omitted_site(world):
    a, b, _ = world.submissions
    assert not world.accepts(world.added(a, b))


def test_duplicated_site(world):
    a, b, c = world.submissions
    assert not world.accepts(world.added(a, b, c, c))
    assert not world.accepts(world.added(a, b, b))
    # Claimed as often as it was added: the tags fit, and still it is one site twice.
    assert not world.accepts(world.added(a, b, b), [a.claim, b.claim, b.claim])


def test_single_submission_served_as_the_sum(world):
    for one in world.submissions:
        assert not world.accepts(one.residues)


def test_multiple_of_one_submission(world):
    a = world.submissions[0]
    assert not world.accepts(world.added(a, a, a))


def alike(plan):
    """Pairs of parts that could stand in for each other."""
    for first in plan.places:
        for second in plan.places[first.number + 1 :]:
            if first.section == second.section and first.residues == second.residues:
                yield first.number, second.number


class Moved:
    """A submission with one part replaced."""

    def __init__(self, submission, number, residues) -> None:
        self.residues = [*submission.residues[:number], residues, *submission.residues[number + 1 :]]


def test_parts_of_two_sites_swapped(world):
    a, b, c = world.submissions
    for first, second in alike(world.plan):
        moved = Moved(a, first, b.residues[second]), Moved(b, second, a.residues[first])
        assert not world.accepts(world.added(*moved, c))
    # At the same place it changes nothing: addition does not know whose part it was.
    moved = Moved(a, 0, b.residues[0]), Moved(b, 0, a.residues[0])
    assert world.accepts(world.added(*moved, c))


def test_parts_of_the_sum_swapped(world):
    for first, second in alike(world.plan):
        residues = list(world.sum)
        residues[first], residues[second] = residues[second], residues[first]
        assert world.refuses(residues) == [first, second]


def test_one_part_of_a_single_submission(world):
    """Everything is the sum but for one part, which is one site's alone."""
    for place in world.plan.places:
        residues = list(world.sum)
        residues[place.number] = world.submissions[0].residues[place.number]
        assert world.refuses(residues) == [place.number]


def test_one_bit_flipped_in_every_part(world):
    parts = packed(world.plan, world.sum)
    random = np.random.default_rng(5)
    for place in world.plan.places:
        bits = place.section.modulus_bits
        last = place.residues * bits - 1  # in the last, short row, where there is one
        for bit in (0, last, last - bits, *random.integers(0, last, 3).tolist()):
            changed = bytearray(parts[place.number])
            changed[bit // 8] ^= 1 << bit % 8
            forged = [*parts[: place.number], bytes(changed), *parts[place.number + 1 :]]
            assert refused(world.mac, forged, world.claims) == [place.number], bit


def test_offset_at_two_places_that_cancel(world):
    """Adding to one residue what is taken from another leaves any plain checksum as it was."""
    for place in world.plan.places:
        q, x = place.section.modulus, world.sum[place.number].copy()
        x[0], x[1] = (x[0] + 1) % q, (x[1] + q - 1) % q
        assert world.refuses([*world.sum[: place.number], x, *world.sum[place.number + 1 :]]) == [place.number]


def test_offset_in_two_parts_that_cancels(world):
    """What is added in one part and taken in another at the same place: tags of a whole section would see it, too."""
    for first, second in alike(world.plan):
        residues, q = [x.copy() for x in world.sum], np.uint64(world.plan.places[first].section.modulus)
        residues[first][3], residues[second][3] = (residues[first][3] + 1) % q, (residues[second][3] + q - 1) % q
        assert world.refuses(residues) == [first, second]


def test_tags_of_two_parts_exchanged(world):
    """No manifest holds whose tags went to other parts, by a site or by all of them."""
    for first, second in alike(world.plan):
        claims = []
        for site, nonce, tags in world.claims:
            moved = list(tags)
            moved[first], moved[second] = moved[second], moved[first]
            claims.append((site, nonce, tuple(moved)))
        assert world.refuses(claims=claims) == [first, second]
        assert world.refuses(claims=[claims[0], *world.claims[1:]]) == [first, second]


def test_parts_of_a_sum_with_its_parts_tags_moved_along(world):
    """The parts of a sum and their tags change places together: betas and pads are each part's own."""
    for first, second in alike(world.plan):
        residues = list(world.sum)
        residues[first], residues[second] = residues[second], residues[first]
        claims = []
        for site, nonce, tags in world.claims:
            moved = list(tags)
            moved[first], moved[second] = moved[second], moved[first]
            claims.append((site, nonce, tuple(moved)))
        assert world.refuses(residues, claims) == [first, second]


def test_wrong_claims(world):
    a, b, c = world.claims
    outsider = Submission(world.plan, world.mac, "site-d", 99).claim
    for claims in ([], [a, b], [a, b, outsider], [a, b, c, outsider], [a, a, a]):
        assert not world.accepts(claims=claims)


def test_no_sum_of_no_sites(world):
    assert not world.accepts([np.zeros_like(x) for x in world.sum], [])


def test_wrong_nonce_or_site(world):
    (site, nonce, tags), b, c = world.claims
    flipped = ("0" if nonce[0] != "0" else "1") + nonce[1:]
    assert not world.accepts(claims=[(site, flipped, tags), b, c])
    assert not world.accepts(claims=[("site-d", nonce, tags), b, c])
    assert not world.accepts(claims=[(b[0], nonce, tags), (site, b[1], b[2]), c])  # names swapped


def test_tags_of_another_form(world):
    (site, nonce, tags), *others = world.claims
    q = world.plan.sections[0].modulus
    for wrong in (
        (),
        tags[:-1],
        (*tags, tags[0]),
        (tags[0][:-1], *tags[1:]),
        ((tags[0][0] + q, *tags[0][1:]), *tags[1:]),  # the same mod q
        ((tags[0][0] - q, *tags[0][1:]), *tags[1:]),
    ):
        assert not world.accepts(claims=[(site, nonce, wrong), *others])


def test_every_tag_counts(world):
    (site, nonce, tags), *others = world.claims
    for n, values in enumerate(tags):
        q = world.plan.places[n].section.modulus
        for t in range(len(values)):
            changed = (*values[:t], (values[t] + 1) % q, *values[t + 1 :])
            assert world.refuses(claims=[(site, nonce, (*tags[:n], changed, *tags[n + 1 :])), *others]) == [n]


@pytest.mark.parametrize(
    "other",
    [
        {"mac_key": bytes(31) + b"\1"},
        {"epoch": 2},
        {"round_id": replace(ROUND, number=2)},
        {"round_id": replace(ROUND, attempt=2)},
    ],
    ids=["key", "epoch", "last-round", "attempt"],
)
def test_sum_of_another_context(world, other):
    """The same sum, with manifests that were right there, is nothing here; and nothing of it is shared."""
    there = RoundMac(**({"mac_key": KEY, "plan": world.plan, "epoch": 1, "round_id": ROUND} | other))
    assert not world.accepts(mac=there)
    old = [Submission(world.plan, there, site, seed) for seed, site in enumerate(SITES)]  # the same residues
    assert world.accepts(claims=[s.claim for s in old], mac=there)
    assert not world.accepts(claims=[s.claim for s in old])
    for ours, theirs in zip(world.submissions, old, strict=True):
        pads = (pads_of(world.plan, mac, ours.site, ours.nonce) for mac in (world.mac, there))
        pairs = [pair for part in zip(ours.tags, theirs.tags, strict=True) for pair in zip(*part, strict=True)]
        pairs += [pair for part in zip(*pads, strict=True) for pair in zip(*part, strict=True)]
        assert all(one != two for one, two in pairs)
    numbers = range(len(world.plan.places))
    parts = packed(world.plan, world.sum)
    assert all(world.mac.part(n, parts[n]) != there.part(n, parts[n]) for n in numbers)


def test_last_rounds_sum(world):
    there = RoundMac(KEY, world.plan, 1, replace(ROUND, number=2))
    old = [Submission(world.plan, there, site, seed + 50) for seed, site in enumerate(SITES)]
    assert not world.accepts(world.added(*old))
    assert not world.accepts(world.added(*old), [s.claim for s in old])


def test_another_plan():
    """Plans that differ in nothing but a deadline share neither coefficients nor pads."""
    one, two = (plan_of(5, deadline_s=seconds).public for seconds in (60, 61))
    assert one.sections == two.sections
    a, b = (RoundMac(KEY, plan, 1, ROUND) for plan in (one, two))
    data = packed(one, [np.ones(place.residues, dtype=np.uint64) for place in one.places])
    assert a.part(0, data[0]) != b.part(0, data[0])
    assert a.pads(0, "x", "00" * 16) != b.pads(0, "x", "00" * 16)


def test_sections_of_one_plan_share_nothing():
    plan = PLANS["hybrid"]
    mac = RoundMac(KEY, plan, 1, ROUND)
    keys = {mac._secret.coefficient_key(i) for i in range(len(plan.sections))}
    assert len(keys) == len(plan.sections) == 3
    # The same residues at the same places of both moduli.
    ones = [pack(np.ones(p.residues, dtype=np.uint64), p.section.modulus_bits) for p in plan.places]
    first, second = (mac.part(p.number, ones[p.number]) for p in plan.places if p.index == 0 and p.section_index > 0)
    assert not set(first) & set(second)


def test_rows_far_apart_in_one_part_swapped():
    """A long part takes its coefficients from several streams."""
    plan = plan_of(2_200_000, codec="hybrid").public
    mac = RoundMac(KEY, plan, 1, ROUND)
    place = plan.places[1]
    streams = place.residues // (ROW * MAX_ROWS)
    assert streams >= 2
    x = np.zeros(place.residues, dtype=np.uint64)
    seen = set()
    for stream in range(streams):
        x[:] = 0
        x[stream * ROW * MAX_ROWS + 5] = 1
        seen.add(mac.part(1, pack(x, place.section.modulus_bits)))
    assert len(seen) == streams


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("n_sites", [1, 2, "max"])
def test_tags_of_a_sum_are_the_sum_of_tags(name, n_sites):
    plan = PLANS[name]
    mac = RoundMac(KEY, plan, 1, ROUND)
    count = plan.max_sites if n_sites == "max" else n_sites
    submissions = [Submission(plan, mac, f"site-{i}", i) for i in range(count)]
    parts = packed(plan, sum_of(plan, submissions))
    total = total_of(mac, parts)
    for n, place in enumerate(plan.places):
        for t in range(tag_count(place.section)):
            tags = sum(s.tags[n][t] - mac.pads(n, s.site, s.nonce)[t] for s in submissions)
            assert total.values()[n][t] == tags % place.section.modulus
    assert refused(mac, parts, [s.claim for s in submissions]) == []
    assert refused(mac, parts, [s.claim for s in submissions[1:]]) == list(range(len(parts)))


def test_pads_of_different_submissions_and_parts_differ():
    plan = PLANS["hybrid"]
    mac = RoundMac(KEY, plan, 1, ROUND)
    pads = [pads_of(plan, mac, site, nonce) for site in ("a", "b", "a-b") for nonce in ("00" * 16, "01" + "00" * 15)]
    numbers = [value for pad in pads for part in pad for value in part]
    assert len(set(numbers)) == len(numbers) > 6 * 5 * len(plan.sections)
    assert pads[0] == pads_of(plan, mac, "a", "00" * 16)


def test_one_nonce_for_two_submissions_is_refused():
    plan = PLANS["ckks-short"]
    mac = RoundMac(KEY, plan, 1, ROUND)
    zeros, ones = (total_of(mac, packed(plan, [np.full(p.residues, n) for p in plan.places])) for n in (0, 1))
    tags = mac.tags(zeros, "a", "00" * 16)
    assert mac.tags(zeros, "a", "00" * 16) == tags  # the same again is the same again
    with pytest.raises(ValueError, match="nonce"):
        mac.tags(ones, "a", "00" * 16)


def test_parts_exactly_once():
    plan = PLANS["hybrid"]
    mac = RoundMac(KEY, plan, 1, ROUND)
    total = mac.new_total()
    parts = [bytes(place.packed_bytes) for place in plan.places]
    with pytest.raises(ValueError, match="missing"):
        total.values()
    with pytest.raises(ValueError, match="missing"):
        mac.tags(total, "a", "00" * 16)
    for number, data in enumerate(parts):
        with pytest.raises(ValueError, match="expected"):
            total.add(number, ())
        total.add(number, mac.part(number, data))
        with pytest.raises(ValueError, match="before"):
            total.add(number, mac.part(number, data))
    for number in (-1, len(parts)):
        with pytest.raises(ValueError, match="before"):
            total.add(number, (0,) * 5)
        with pytest.raises(ValueError, match="number"):
            mac.part(number, parts[0])
    for data in (parts[1][:-1], parts[1] + b"\0", b""):
        with pytest.raises(ValueError, match="bytes"):
            mac.part(1, data)


def test_what_is_refused_outright():
    plan = PLANS["ckks-short"]
    for length in (0, 31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            RoundMac(bytes(length), plan, 1, ROUND)
    with pytest.raises(InputError):
        RoundMac(KEY, plan, 1, RoundId("other", 1, 1))
    mac = RoundMac(KEY, plan, 1, ROUND)
    for site, nonce in (("A", "00" * 16), ("a", "00" * 15), ("a", "0G" * 16), ("a", "AB" * 16)):
        with pytest.raises(WireError):
            mac.pads(0, site, nonce)


def test_nothing_secret_in_repr_and_nothing_left_after_wiping():
    plan = PLANS["ckks-short"]
    key = bytes(range(100, 132))
    with RoundMac(key, plan, 1, ROUND) as mac:
        data = bytes(plan.places[0].packed_bytes)
        total = mac.new_total()
        total.add(0, mac.part(0, data))
        texts = [repr(x) for x in (mac, total, mac._secret, mac._sections[0])]
        assert texts[0] == "RoundMac(test.3.1, epoch 1, <mac key>)"
        assert texts[1] == "TagTotal(1 of 1 parts)"
        secrets = [key.hex(), str(key), *map(str, mac._sections[0]._gammas[0][1][:5].tolist())]
        assert not any(secret in text for secret in secrets for text in texts)
        held = mac._secret._key
    assert held == bytes(32)
    assert not any(gamma.any() for section in mac._sections for _, gamma in section._gammas)
    with pytest.raises(ValueError, match="wiped"):
        mac.part(0, data)
    with pytest.raises(ValueError, match="wiped"):
        mac.pads(0, "a", "00" * 16)
    assert "wiped" in repr(mac._secret)
