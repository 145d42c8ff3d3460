"""How many tags, and that forgeries pass about as often as the bound says: with few tags and a small prime, visibly."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from he_agg.kernels.bitpack import pack
from he_agg.mac import tag_count
from he_agg.mac.bound import forgery_probability
from he_agg.mac.coefficients import SectionMac
from he_agg.plan.ckks_parameters import PROFILES
from he_agg.plan.hybrid_parameters import sent_moduli
from he_agg.plan.sections import Section

Q = 97


def section_of(modulus: int, residues: int = 1) -> Section:
    return Section("test", modulus, residues, 2**20)


@pytest.mark.parametrize(
    ("modulus", "tags"),
    [
        (1073741789, 5),  # 30 bits
        (268435399, 5),  # 28 bits
        (134217689, 6),  # 27 bits
        (16777213, 6),  # 24 bits
        (4194301, 7),  # 22 bits
        (65521, 9),  # 16 bits
        (1099511390209, 5),  # 40 bits
        (1152921504606830593, 5),  # 60 bits
        ((1 << 61) - 1, 5),
        (97, 23),
    ],
)
def test_known_counts(modulus, tags):
    assert tag_count(section_of(modulus)) == tags


def test_every_prime_in_use_has_as_few_tags_as_will_do():
    primes = {p for chosen in sent_moduli() for p in chosen} | {profile.modulus for profile in PROFILES}
    assert len(primes) > 20
    for q in primes:
        tags = tag_count(section_of(q))
        p = forgery_probability(q)
        assert p**tags <= Fraction(1, 2**128) < p ** (tags - 1)
        # By another way: floating point, and the plain sum of both probabilities.
        each = -math.log2(1 / min(q, 2**26) + 1 / min(q, 2**28))
        assert tags == math.ceil(128 / each)


def test_no_tags_for_what_is_no_odd_prime():
    with pytest.raises(ValueError, match="expected a prime"):
        tag_count(section_of(2))


def accepted(difference: np.ndarray, tags: int, keys: int, seed: int) -> int:
    """How many of so many keys do not see a difference. A difference is seen if its tags are not all zero."""
    random = np.random.default_rng(seed)
    section = section_of(Q, difference.size)
    packed = pack(difference, section.modulus_bits)
    return sum(not any(SectionMac(section, random.bytes(32), tags).contribution(0, packed)) for _ in range(keys))


ONE, TWO = 1, 2  # how many inner sums are independent of each other
DIFFERENCES = {
    "one residue": (ONE, {0: 1}),
    "one residue of the last, short row": (ONE, {1029: 50}),
    "two residues of a row, of opposite sign": (ONE, {3: 1, 4: Q - 1}),
    "the same in two rows, of opposite sign": (ONE, {3: 1, 515: Q - 1}),
    "two columns apart by two vectors": (ONE, {16: 1, 32: Q - 1}),
    "everywhere": (TWO, dict.fromkeys(range(1030), 7)),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_forgeries_pass_as_often_as_they_should(name):
    """With q = 97 and one tag, within five standard deviations: a coefficient that never changes, that is zero, or that
    two places share which must differ makes it none or all of them."""
    independent, changed = DIFFERENCES[name]
    difference = np.zeros(1030, dtype=np.uint64)
    for place, amount in changed.items():
        difference[place] = amount
    blind = Q**-independent  # all inner sums are zero; otherwise the outer one is zero once in q times
    p, keys = blind + (1 - blind) / Q, 6000
    assert p <= forgery_probability(Q)
    tolerance = 5 * math.sqrt(keys * p)
    assert tolerance + 10 < keys * p < keys - tolerance
    seen = accepted(difference, 1, keys, seed=1)
    assert abs(seen - keys * p) <= tolerance, seen


def test_tags_are_independent():
    """Two tags pass together as often as the square of one: a tag that repeats another would square nothing."""
    difference = np.zeros(3, dtype=np.uint64)
    difference[1] = 5
    keys, p = 15_000, float(forgery_probability(Q)) ** 2
    seen = accepted(difference, 2, keys, seed=2)
    assert abs(seen - keys * p) <= 5 * math.sqrt(keys * p), seen
    assert seen > 0


def test_all_tags_refuse_all():
    difference = np.zeros(3, dtype=np.uint64)
    difference[2] = 1
    assert accepted(difference, tag_count(section_of(Q)), 2000, seed=3) == 0
