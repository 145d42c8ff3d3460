"""The kernels against the reference: every width, every kind of section, every length of the last part."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from he_agg.ids import RoundId
from he_agg.kernels import mac_rows as mac_lanes
from he_agg.kernels.bitpack import pack
from he_agg.mac import RoundMac, tag_count
from he_agg.mac.coefficients import SectionMac
from he_agg.mac.derivation import Secret, encoded_submission
from he_agg.plan.ckks_parameters import PROFILES
from he_agg.plan.schemes import SCHEMES
from he_agg.plan.sections import Section
from he_agg.ring.primes import is_prime
from tests.mac import reference
from tests.support.federation import plan_of

KEY = bytes(range(32))
WIDTHS = list(range(2, 63))
COMPILED = {*range(2, 33), *(profile.modulus.bit_length() for profile in PROFILES), 62}
"""Widths that a plan can have, and the ends; those between them are for `make soak`."""
WIDE_SECTIONS = (31, 32, 40, 60, 62)
PLANS = [(codec, bits) for codec in SCHEMES for bits in (2, 8, 16, 24)]


def prime_of(bits: int) -> int:
    return next(n for n in range((1 << bits) - 1, 1, -1) if is_prime(n))


def section_of(modulus: int, residues: int, part_residues: int = 2**20) -> Section:
    return Section("test", modulus, residues, part_residues)


def extreme(modulus: int, count: int, seed: int) -> np.ndarray:
    """Random residues between runs of the largest one, which is what overflows first."""
    x = np.random.default_rng(seed).integers(0, modulus, count, dtype=np.uint64)
    x[: count // 2] = modulus - 1
    return x


@pytest.mark.parametrize(
    "bits", [bits if bits in COMPILED else pytest.param(bits, marks=pytest.mark.slow) for bits in WIDTHS]
)
def test_every_width(bits):
    q = prime_of(bits)
    count = 3 * mac_lanes.ROW + 77
    tags = min(tag_count(section_of(q, 1)), 12)  # more than one pass takes, where there are so many
    mac = SectionMac(section_of(q, count), KEY, tags)
    x = extreme(q, count, bits)
    assert list(mac.contribution(0, pack(x, bits))) == reference.part(KEY, q, tags, 0, x.tolist())


@pytest.mark.parametrize("bits", [16, 19, 30, 31, 40, 62])
def test_every_length_of_the_last_row(bits):
    q = prime_of(bits)
    x = extreme(q, mac_lanes.ROW + 600, bits)
    lengths = [1, 2, 31, 32, 33, 63, 64, 65, 511, 512, 513, 575, 576, 1023, 1024, 1025]
    for count in (*lengths, *np.random.default_rng(1).integers(1, x.size, 20).tolist()):
        mac = SectionMac(section_of(q, count), KEY)
        packed = bytes(pack(x[:count], bits))
        got = mac.contribution(0, packed)
        assert list(got) == reference.part(KEY, q, mac.tags, 0, x[:count].tolist()), count
        if used := count * bits % 8:  # bits that belong to no residue do not count
            dirty = packed[:-1] + bytes([packed[-1] | 0xFF << used & 0xFF])
            assert mac.contribution(0, dirty) == got


@pytest.mark.parametrize("bits", [30, 40])
def test_more_rows_than_one_stream_serves(bits):
    q = prime_of(bits)
    count = mac_lanes.ROW * (mac_lanes.MAX_ROWS + 2) + 5
    x = np.full(count, q - 1, dtype=np.uint64)  # nothing may overflow in 1024 full rows
    mac = SectionMac(section_of(q, count), KEY, tags=2)
    got = mac.contribution(0, pack(x, bits))
    words = [reference.words(KEY, 0, t, mac_lanes.ROW) for t in range(2)]
    betas = [reference.words(KEY, 1, 0, 2 * 1024), reference.words(KEY, 1, 1, 6)]
    for t in range(2):
        gamma = [w >> 38 for w in words[t]]
        beta = [w >> 36 for stream in betas for w in stream[t::2]]
        expected = (q - 1) * (sum(beta[:1026]) * sum(gamma) + beta[1026] * sum(gamma[:5])) % q
        assert got[t] == expected


def test_largest_numbers_everywhere_do_not_overflow():
    for bits, largest in ((30, 2**30 - 1), (31, 2**31 - 1), (32, 2**31 - 1)):
        rows, tags = mac_lanes.MAX_ROWS, mac_lanes.MAX_TAGS
        x = np.full(mac_lanes.ROW * rows, largest, dtype=np.uint32)
        packed = np.frombuffer(pack(x, bits), np.uint8) if bits < 32 else x.view(np.uint8)
        gamma = np.full(mac_lanes.ROW * tags, mac_lanes.MAX_GAMMA - 1, dtype=np.uint64)
        beta = np.full(rows * tags, mac_lanes.MAX_BETA - 1, dtype=np.uint64)
        out = np.zeros(tags * mac_lanes.PIECES * mac_lanes.OUT_LANES, dtype=np.uint64)
        mac_lanes.rows_kernel(bits, tags)(packed, gamma, beta, out, rows)
        one = rows * (mac_lanes.MAX_BETA - 1) * mac_lanes.ROW * (mac_lanes.MAX_GAMMA - 1) * largest
        assert mac_lanes.drained(out, tags) == [one] * tags


@pytest.mark.parametrize("bits", [21, 25, 30, 40])
def test_stretch_by_stretch(bits, rng):
    """Whole rows at a time, across the end of a stream of coefficients, give what the part at once gives."""
    q = prime_of(bits)
    rows = mac_lanes.MAX_ROWS + 5
    x = extreme(q, mac_lanes.ROW * rows + 77, bits)
    mac = SectionMac(section_of(q, 3 * x.size, x.size - x.size % 64 + 64), KEY, tags=11)
    count = mac.section.residues_in(1)
    x = np.resize(x, count)
    at_once = mac.contribution(1, pack(x, bits))
    part, start = mac.begin(1), 0
    for stop in [*sorted(rng.choice(np.arange(1, rows), 6, replace=False) * mac_lanes.ROW), count]:
        part.add(pack(x[start:stop], bits))
        start = stop
    assert part.contribution() == at_once


def test_stretches_that_do_not_fit_are_refused():
    bits, q = 21, prime_of(21)
    count = 2 * mac_lanes.ROW + 64
    mac = SectionMac(section_of(q, count), KEY)
    row = pack(np.ones(mac_lanes.ROW, dtype=np.uint32), bits)
    last = pack(np.ones(64, dtype=np.uint32), bits)
    for wrong in (row[:0], row[:-1], np.append(row, row[:8]), np.tile(row, 3), np.append(np.tile(row, 2), last[:-1])):
        with pytest.raises(ValueError, match="whole rows"):
            mac.begin(0).add(wrong)
    part = mac.begin(0)
    part.add(row)
    with pytest.raises(ValueError, match=f"{mac_lanes.ROW + 64} of {count} residues are missing"):
        part.contribution()
    with pytest.raises(ValueError, match="whole rows"):
        part.add(np.append(row, np.append(last, last[:1])))
    part.add(np.append(row, last))
    with pytest.raises(ValueError, match="whole rows"):
        part.add(row)
    assert "<coefficients>" in repr(part)


def test_coefficients_of_rows_are_overwritten_when_they_are_done():
    bits, q = 21, prime_of(21)
    mac = SectionMac(section_of(q, (mac_lanes.MAX_ROWS + 1) * mac_lanes.ROW), KEY, tags=11)
    part, blocks = mac.begin(0), []
    for rows in (1000, 24, 1):
        part.add(pack(np.ones(rows * mac_lanes.ROW, dtype=np.uint32), bits))
        blocks.append(list(part._blocks))
        assert all(block._beta.any() for block in part._blocks)
    first, same, last = blocks
    assert first == same
    assert len(first) == 2
    assert last == []
    assert not any(block._beta.any() for block in first)


def test_scaled_words():
    numbers = np.array([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 2**32, 2**64 - 1], dtype=np.uint64)
    random = np.random.default_rng(1).integers(0, 2**64, 1000, dtype=np.uint64)
    words = np.concatenate([numbers, random])
    for limit in (2, 97, 61441, 2**26, 2**28, 2**32 - 1):
        out = words.copy()
        mac_lanes.scale(out, np.uint64(limit))
        assert out.tolist() == [w * limit >> 64 for w in words.tolist()]


@pytest.mark.parametrize(("codec", "value_bits"), PLANS)
def test_every_section_of_every_plan(codec, value_bits):
    plan = plan_of(40_000 if codec == "hybrid" else 5000, codec=codec, value_bits=value_bits, part_bytes=2**16).public
    epoch, round_id = 3, RoundId("test", 7, 2)
    mac = RoundMac(KEY, plan, epoch, round_id)
    total, expected = mac.new_total(), []
    for place in plan.places:
        q = place.section.modulus
        x = extreme(q, place.residues, place.number)
        got = mac.part(place.number, pack(x, place.section.modulus_bits).data)
        total.add(place.number, got)
        # The reference is slow: all of the short parts, and a sparse one in place of each long one.
        if place.residues > 2000:
            x[:] = 0
            x[[0, 511, 512, place.residues - 1]] = q - 1
            got_sparse = mac.part(place.number, pack(x, place.section.modulus_bits))
            key = reference.coefficient_key(KEY, plan, epoch, round_id, place.section_index)
            assert list(got_sparse) == sparse(key, q, len(got), place.index, x)
        else:
            key = reference.coefficient_key(KEY, plan, epoch, round_id, place.section_index)
            assert list(got) == reference.part(key, q, len(got), place.index, x.tolist())
        expected.append(got)
    assert total.values() == tuple(expected)
    site, nonce = "site-1", "0f" * 16
    tags = mac.tags(total, site, nonce)
    for n, place in enumerate(plan.places):
        for t, value in enumerate(mac.pads(n, site, nonce)):
            assert value == reference.pad(KEY, plan, epoch, round_id, n, t, site, nonce)
            assert tags[n][t] == (expected[n][t] + value) % place.section.modulus


def sparse(key: bytes, q: int, tags: int, index: int, x: np.ndarray) -> list[int]:
    """The reference for a part with few residues that are not zero."""
    out = []
    for t in range(tags):
        gamma = reference.words(key, 0, t, mac_lanes.ROW)
        group, place = divmod(t, 10)
        width, rows = min(10, tags - 10 * group), -(-x.size // mac_lanes.ROW)
        beta = reference.words(key, 1 + group, index << 32, rows * width)
        total = 0
        for i in np.flatnonzero(x).tolist():
            r, c = divmod(i, mac_lanes.ROW)
            total += (beta[r * width + place] * min(q, 2**28) >> 64) * (gamma[c] * min(q, 2**26) >> 64) * int(x[i])
        out.append(total % q)
    return out


def test_threads_give_the_same():
    plan = plan_of(200_000, codec="hybrid", part_bytes=2**17).public
    mac = RoundMac(KEY, plan, 1, RoundId("test", 1, 1))
    packed = [pack(extreme(p.section.modulus, p.residues, p.number), p.section.modulus_bits) for p in plan.places]
    alone = [mac.part(i, data) for i, data in enumerate(packed)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            total = mac.new_total()
            together = list(pool.map(mac.part, range(len(packed)), packed))
            list(pool.map(total.add, range(len(packed)), together))
            assert together == alone
    once = mac.new_total()
    for i, contribution in reversed(list(enumerate(alone))):
        once.add(i, contribution)
    assert once.values() == total.values()


KNOWN = {
    16: "31ffafeef2d79ec7b38a01289673c39c",
    22: "1715c8879dcc382ca4712d39bca5f0e1",
    30: "b4dfe6e75756319215d1d81f51e40f73",
    40: "60ebf5a9ea8052e1da411bc827af9a37",
    60: "b982cadf960de7277d9c3aed8e46b3c9",
}
KNOWN_KEY = "1e030ac84251e20427be07eb8fd70c0bb1163de3eca98bac17c7ef6ab4045b68"
KNOWN_PAD = 815753396666819425


@pytest.mark.parametrize("bits", KNOWN)
def test_known_answer(bits):
    """A change here is a change of format: sites of two versions would refuse each other's sums."""
    q = prime_of(bits)
    secret = Secret(KEY, "c3" * 32, 5, RoundId("test", 7, 2))
    mac = SectionMac(section_of(q, 1500, 1024), secret.coefficient_key(1))
    x = np.arange(1, 477, dtype=np.uint64) ** 3 % q
    tags = mac.contribution(1, pack(x, bits))
    assert hashlib.sha256(repr(tags).encode()).hexdigest()[:32] == KNOWN[bits]


def test_known_derivation():
    secret = Secret(KEY, "c3" * 32, 5, RoundId("test", 7, 2))
    assert secret.coefficient_key(1).hex() == KNOWN_KEY
    submission = encoded_submission("site-1", "0123456789abcdef" * 2)
    assert secret.pads(1, 5, submission, 2**61 - 1)[4] == KNOWN_PAD
