"""Keys, noise, common polynomials: exact against the reference, and distributed as claimed."""

from __future__ import annotations

import math
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import algorithms

from he_agg.ring import keystream, sampling
from he_agg.ring.keystream import Keystream, a_key
from he_agg.ring.primes import BATCH, LANES, N
from he_agg.ring.sampling import KEY_BYTES_EACH, NOISE_BOUND, SIGMA, fresh_key, key_law
from he_agg.ring.uniform import RESERVE_WORDS, STREAM_WORDS, replace_rejected, word_limit
from tests.ring import deterministic, reference
from tests.ring.primes import IN_USE

SEED = bytes(range(32))


def chi_square_limit(degrees, sigmas=4.0):
    """The value that chi-square exceeds with the probability of so many sigmas (Wilson and Hilferty)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + sigmas * math.sqrt(spread)) ** 3


def test_noise_matches_the_reference():
    for batch in (0, 1, 2**63):
        assert np.array_equal(deterministic.noise(SEED, batch), reference.noise(SEED, batch).ravel())


def require_centred_binomial(e):
    """Chi-square, mean and deviation of the law of noise and keys."""
    counts = np.bincount(e + 21, minlength=43)
    expected = np.array([math.comb(42, i) / 2**42 for i in range(43)]) * e.size
    common = expected >= 10
    rare, rare_expected = counts[~common].sum(), expected[~common].sum()
    chi = ((counts - expected)[common] ** 2 / expected[common]).sum() + (rare - rare_expected) ** 2 / rare_expected
    assert chi < chi_square_limit(common.sum())
    assert np.abs(e).max() <= NOISE_BOUND
    assert abs(e.mean()) < 5 * SIGMA / math.sqrt(e.size)
    assert abs(e.std() - SIGMA) < 5 * SIGMA / math.sqrt(2 * e.size)


def test_noise_has_the_centred_binomial_distribution():
    """Over 4.2 million values of a fixed key."""
    require_centred_binomial(np.concatenate([deterministic.noise(SEED, b) for b in range(128)]).astype(np.int64))


def test_noise_is_independent_between_neighbours_lanes_and_quarters():
    """The last two bits of four values share a byte; the others do not. Neither may show."""
    e = np.concatenate([deterministic.noise(SEED, b) for b in range(64)]).astype(np.float64)
    for lag in (1, 2, 8, LANES, BATCH // 4, BATCH // 2, BATCH):
        assert abs((e[lag:] * e[:-lag]).mean()) < 5 * SIGMA**2 / math.sqrt(e.size - lag)


@pytest.mark.parametrize("sites", [2, 31, 300])
def test_sums_of_noise_have_the_predicted_sigma(sites):
    total = sum(deterministic.noise(SEED, b).astype(np.int64) for b in range(sites))
    predicted = SIGMA * math.sqrt(sites)
    assert abs(total.std() / predicted - 1) < 5 / math.sqrt(2 * total.size)
    assert np.abs(total).max() <= min(NOISE_BOUND * sites, 14.6 * predicted)


def test_key_law_counts_the_lowest_42_bits_of_a_word():
    """Every count once, by the lowest bits, by the highest of those that count, and with all others set."""
    ignored = (2**22 - 1) << 42
    words = [
        w | other for n in range(43) for w in ((1 << n) - 1, (1 << 42) - (1 << (42 - n))) for other in (0, ignored)
    ]
    expected = [w.bit_count() - (other.bit_count()) - 21 for w, other in zip(words, [0, ignored] * 86, strict=True)]
    assert sorted(set(expected)) == list(range(-21, 22))
    words, expected = (words * N)[:N], (expected * N)[:N]
    assert key_law(b"".join(w.to_bytes(8, "little") for w in words)).tolist() == expected


def test_key_law_is_the_count_of_any_bytes(rng):
    entropy = rng.bytes(N * KEY_BYTES_EACH)
    words = [int.from_bytes(entropy[8 * j : 8 * j + 8], "little") % 2**42 for j in range(N)]
    assert key_law(entropy).tolist() == [w.bit_count() - 21 for w in words]


def test_keys_have_the_law_of_the_noise():
    """Chi-square over 512 keys of a fixed generator, and the fourth moment."""
    random = np.random.default_rng(7)
    s = np.concatenate([key_law(random.bytes(N * KEY_BYTES_EACH)) for _ in range(512)]).astype(np.int64)
    require_centred_binomial(s)
    # A sum of 42 signs has a kurtosis of 3 - 2/42; the eighth moment of a normal variable, 105, bounds its own.
    assert abs((s**4).mean() / SIGMA**4 - (3 - 2 / 42)) < 5 * math.sqrt((105 - 9) / s.size)
    by_key = s.reshape(512, N).astype(np.float64)
    for lag in (1, 2, 8, N // 2):  # neighbours share nothing
        assert abs((by_key[:, lag:] * by_key[:, :-lag]).mean()) < 5 * SIGMA**2 / math.sqrt(512 * (N - lag))


def test_fresh_keys_differ_and_come_from_the_system(monkeypatch):
    assert not np.array_equal(fresh_key(), fresh_key())
    asked = []
    monkeypatch.setattr(os, "urandom", lambda n: asked.append(n) or bytes(n))
    assert (fresh_key() == -NOISE_BOUND).all()
    assert asked == [N * KEY_BYTES_EACH]


def test_entropy_of_a_key_is_wiped(monkeypatch):
    seen = []
    monkeypatch.setattr(sampling, "key_law", lambda entropy: seen.append(entropy) or np.zeros(N, dtype=np.int8))
    fresh_key()
    assert [bytes(entropy) for entropy in seen] == [bytes(N * KEY_BYTES_EACH)]


@pytest.mark.parametrize("q", IN_USE)
@pytest.mark.parametrize("limb", [0, 1])
def test_common_polynomials_match_the_reference(limb, q):
    for batch in (0, 2**40):
        expected = reference.uniform(SEED, limb, batch, q).ravel()
        assert np.array_equal(deterministic.common(SEED, limb, batch, q), expected)


def test_the_reserve_is_far_larger_than_any_prime_needs():
    """Rejections of a batch are binomial; their mean and twelve deviations stay within the reserve."""
    for q in IN_USE:
        p = (2**32 % q) / 2**32
        assert BATCH * p + 12 * (BATCH * p) ** 0.5 < RESERVE_WORDS


@pytest.mark.parametrize("q", [IN_USE[0], IN_USE[len(IN_USE) // 2], IN_USE[-1]])
def test_common_polynomials_are_uniform_in_value_and_in_residue_of_small_numbers(q):
    a = np.concatenate([deterministic.common(SEED, 0, b, q) for b in range(64)]).astype(np.int64)
    edges = -(-np.arange(1022) * q // 1021)  # bucket b of a * 1021 // q begins here
    for buckets, sizes in ((a * 1021 // q, np.diff(edges)), (a % 1021, (q - np.arange(1021) + 1020) // 1021)):
        counts, mean = np.bincount(buckets, minlength=1021), a.size * sizes / q
        assert sizes.sum() == q
        assert ((counts - mean) ** 2 / mean).sum() < chi_square_limit(1020)


@pytest.mark.parametrize("q", IN_USE)
def test_rejected_words_are_replaced_in_order(q):
    limit, count = word_limit(q), 100
    assert limit % q == 0
    assert 0 < 2**32 - limit < q
    words = np.arange(count + RESERVE_WORDS, dtype=np.uint32)
    words[[3, 50, 99]] = [limit, limit + 1, 2**32 - 1]
    words[5] = limit - 1
    words[count + 1] = limit  # a reserve word that is itself rejected
    assert replace_rejected(words, count, np.uint32(limit)) == 3
    assert words[[3, 50, 99]].tolist() == [count, count + 2, count + 3]
    assert words[5] == limit - 1
    assert words[:count].max() < limit


def test_rejected_words_are_replaced_in_order_wherever_they_are(rng):
    """Words are looked at many at a time: their ends, whole runs, and a number that is no multiple."""
    limit = word_limit(IN_USE[0])
    for count in (127, 128, 129, 1000, 32_768):
        words = rng.integers(0, limit, count + RESERVE_WORDS, dtype=np.uint32)
        anywhere = {0, 126, 127, 128, 255, 256, *range(600, 700), count - 1, *rng.integers(0, count, 50).tolist()}
        rejected = sorted(i for i in anywhere if i < count)
        words[rejected] = rng.integers(limit, 2**32, len(rejected), dtype=np.uint32)
        words[count + 7] = limit
        expected = words[:count].tolist()
        reserve = (word for word in words[count:].tolist() if word < limit)
        for i in rejected:
            expected[i] = next(reserve)
        assert replace_rejected(words, count, np.uint32(limit)) == len(rejected)
        assert words[:count].tolist() == expected


def test_an_exhausted_reserve_stays_in_bounds():
    q = IN_USE[-1]
    words = np.full(STREAM_WORDS, 2**32 - 1, dtype=np.uint32)
    assert replace_rejected(words, BATCH, np.uint32(4 * q)) == BATCH
    assert words[:BATCH].max() < 4 * q


def test_a_tail_changes_nothing_before_it(monkeypatch):
    plain = np.empty(1000, dtype=np.uint8)
    Keystream(SEED).fill(plain, 1, 77)
    for fastest in (keystream._by_gcm, keystream._by_ctr):
        monkeypatch.setattr(keystream, "_fastest", lambda fastest=fastest: fastest)
        out = np.empty(1000 + keystream.TAIL_BYTES, dtype=np.uint8)
        stream = Keystream(SEED)
        stream.fill_with_tail(out, 1, 77)
        assert np.array_equal(out[:1000], plain)
        stream.wipe()
        with pytest.raises(ValueError, match="wiped"):
            stream.fill_with_tail(out, 1, 78)
        assert np.array_equal(out[:1000], plain)


def test_both_ciphers_give_the_same_keystream():
    size, idle = keystream.MAX_FILL_BYTES, deque()
    for limb, batch in ((0, 0), (1, 2**64 - 1)):
        nonce = limb.to_bytes(4, "big") + batch.to_bytes(8, "big")
        out = np.empty((2, size), dtype=np.uint8)
        key = algorithms.AES(SEED)
        keystream._by_ctr(key, nonce, out[0], idle)
        keystream._by_gcm(key, nonce, out[1], idle)
        assert np.array_equal(out[0], out[1])
        assert np.array_equal(out[0], reference.keystream(SEED, limb, batch, size))


@pytest.mark.parametrize("fastest", [keystream._by_gcm, keystream._by_ctr])
def test_what_one_fill_used_is_not_seen_by_the_next(monkeypatch, rng, fastest):
    """One stream in several threads, in any order, with ends in the middle of a block."""
    monkeypatch.setattr(keystream, "_fastest", lambda: fastest)
    stream = Keystream(SEED)

    def filled(limb, batch, size):
        out = np.empty(size, dtype=np.uint8)
        stream.fill(out, limb, batch)
        return out

    wanted = [(int(rng.integers(0, 3)), int(rng.integers(0, 2**60)), int(rng.integers(1, 5000))) for _ in range(200)]
    with ThreadPoolExecutor(4) as pool:
        for asked, out in zip(wanted, pool.map(filled, *zip(*wanted, strict=True)), strict=True):
            assert np.array_equal(out, reference.keystream(SEED, *asked))


def test_a_wiped_keystream_is_silent():
    stream = Keystream(SEED)
    stream.wipe()
    assert "wiped" in repr(stream)
    with pytest.raises(ValueError, match="wiped"):
        stream.fill(np.empty(16, dtype=np.uint8), 0, 0)
    with pytest.raises(ValueError, match="32 bytes"):
        Keystream(SEED[:16])
    with pytest.raises(ValueError, match="at most"):
        Keystream(SEED).fill(np.empty(keystream.MAX_FILL_BYTES + 1, dtype=np.uint8), 0, 0)


def test_every_field_of_the_a_key_counts():
    base = ("clinic", 1, 2, 3, b"plan")
    others = [
        ("clini", 1, 2, 3, b"plan"),
        ("clinic", 2, 1, 3, b"plan"),
        ("clinic", 1, 2, 4, b"plan"),
        ("clinic", 1, 2, 3, b"plans"),
        ("clinic\0", 1, 2, 3, b"plan"),
        ("", 1, 2, 3, b"clinicplan"),
    ]
    keys = {a_key(*base), *(a_key(*o) for o in others)}
    assert len(keys) == 1 + len(others)
    assert a_key(*base) == a_key(b"clinic", 1, 2, 3, b"plan")
    with pytest.raises(OverflowError):
        a_key("clinic", -1, 2, 3, b"plan")
