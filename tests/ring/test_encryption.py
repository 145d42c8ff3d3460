"""Whole encryption and opening: against the oracle, exact sums, misuse, threads."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from he_agg.kernels.bitpack import fold, pack, packed_bytes, unpack
from he_agg.plan.security import NOISE_VARIANCE, largest_square_sum
from he_agg.ring import encryptor as encryptor_module
from he_agg.ring.encryptor import Encryptor
from he_agg.ring.limbs import packed_sizes
from he_agg.ring.opener import Opener
from he_agg.ring.params import RingParams, largest_delta
from he_agg.ring.primes import BATCH, N, ntt_primes
from he_agg.ring.sampling import NOISE_BOUND, fresh_ternary
from tests.ring import deterministic, reference

Q = ntt_primes(30)[0]
PAIR = (ntt_primes(26)[0], ntt_primes(27)[0])
ONE = RingParams.widest((Q,), 32767, 19)
TWO = RingParams.widest(PAIR, (1 << 23) - 1, 300)


def submit(params, key, submissions):
    """Encrypt and fold; return what the sites download: packed sums and the sum of the keys."""
    count = submissions[0].size
    totals = [np.zeros(count, dtype=np.uint32) for _ in params.primes]
    key_sum = np.zeros(N, dtype=np.int64)
    for values in submissions:
        with Encryptor(params, key) as encryptor:
            parts = encryptor.encrypt(0, values)
            for part, total, q, bits in zip(parts, totals, params.primes, params.limb_bits, strict=True):
                assert fold(total, part, bits, q) == -1
            key_sum += encryptor.key_coefficients()
    return [pack(t, b) for t, b in zip(totals, params.limb_bits, strict=True)], key_sum


@pytest.mark.parametrize("params", [ONE, TWO], ids=["one-limb", "two-limbs"])
def test_ciphertexts_match_the_oracle(params, rng):
    a_key, noise_key, s = rng.bytes(32), rng.bytes(32), fresh_ternary()
    values = rng.integers(-params.max_abs_value, params.max_abs_value + 1, BATCH - 5).astype(np.int32)
    parts = deterministic.encrypt(params, a_key, noise_key, s, 3, values)
    for limb, part in enumerate(parts):
        expected = reference.encrypt(limb, params.primes[limb], params.delta, a_key, noise_key, s, 3, values)
        assert unpack(part, values.size, params.limb_bits[limb]).tolist() == expected.tolist()


@pytest.mark.parametrize("params", [ONE, TWO], ids=["one-limb", "two-limbs"])
@pytest.mark.parametrize("count", [1, 2, 15, 17, BATCH - 1, BATCH, BATCH + 1, 70_001])
@pytest.mark.parametrize("sites", [1, 3])
def test_sums_are_exact_at_every_length(params, count, sites, rng):
    m = params.max_abs_value
    submissions = [rng.integers(-m, m + 1, count).astype(np.int32) for _ in range(sites)]
    key = secrets.token_bytes(32)
    packed, key_sum = submit(params, key, submissions)
    with Opener(params, key, key_sum, sites) as opener:
        sums, distance, squares = opener.open(0, count, packed)
    assert np.array_equal(sums, np.sum(submissions, axis=0, dtype=np.int64))
    assert distance <= NOISE_BOUND * sites
    assert distance**2 <= squares <= largest_square_sum(count, NOISE_VARIANCE * sites)
    if count >= BATCH - 1:  # 42 sigma of a mean over so many
        assert squares > 0.67 * NOISE_VARIANCE * sites * count


@pytest.mark.parametrize(
    "params",
    [ONE, RingParams.widest((ntt_primes(19)[0], ntt_primes(20)[0]), (1 << 23) - 1, 40)],
    ids=["one-limb", "two-limbs"],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_all_sites_at_the_bound_everywhere(params, sign):
    """The sum is K*M, the last value before wrapping."""
    values = np.full(BATCH, sign * params.max_abs_value, dtype=np.int32)
    key = secrets.token_bytes(32)
    packed, key_sum = submit(params, key, [values] * params.max_sites)
    with Opener(params, key, key_sum, params.max_sites) as opener:
        sums, distance, _ = opener.open(0, values.size, packed)
    assert (sums == sign * params.max_abs_value * params.max_sites).all()
    assert distance <= NOISE_BOUND * params.max_sites


@pytest.mark.slow
def test_no_failure_in_100_million_values_at_the_edge(rng):
    """19 sites of 16 bits, all at +-M in agreement, batch by batch: 3052 batches of sums."""
    sites, m, key = ONE.max_sites, ONE.max_abs_value, secrets.token_bytes(32)
    batches = -(-(10**8) // BATCH)
    encryptors = [Encryptor(ONE, key) for _ in range(sites)]
    key_sum = np.sum([e.key_coefficients() for e in encryptors], axis=0)
    opener, worst = Opener(ONE, key, key_sum, sites), 0
    for batch in range(batches):
        values = np.where(rng.random(BATCH) < 0.5, -m, m).astype(np.int32)
        total = np.zeros(BATCH, dtype=np.uint32)
        for e in encryptors:
            fold(total, e.encrypt(batch, values)[0], 30, Q)
        sums, distance, _ = opener.open(batch, BATCH, [pack(total, 30)])
        assert np.array_equal(sums, sites * values.astype(np.int64)), batch
        worst = max(worst, distance)
    assert worst <= 14.6 * 3.2404 * sites**0.5
    print(f"largest distance to the grid in {batches * BATCH} sums: {worst} of {ONE.delta // 2}")


@pytest.mark.parametrize("params", [ONE, TWO], ids=["one-limb", "two-limbs"])
def test_any_order_any_parts_any_threads_give_the_same_sums(params, rng):
    """Eight threads encrypt parts of one to three batches in a shuffled order into one buffer."""
    count = 20 * BATCH + 777
    m = params.max_abs_value
    values = rng.integers(-m, m + 1, count).astype(np.int32)
    cuts = sorted({0, 21, *map(int, rng.integers(1, 21, 9))})
    parts = list(pairwise(cuts))
    rng.shuffle(parts)
    sizes = packed_sizes(params, count)
    out = [np.zeros(size, dtype=np.uint8) for size in sizes]
    key, steps = secrets.token_bytes(32), packed_sizes(params, BATCH)

    def span(part, unit, end):
        first, last = part
        return slice(first * unit, min(last * unit, end))

    with Encryptor(params, key) as encryptor, ThreadPoolExecutor(8) as pool:

        def encrypt(part):
            targets = [o[span(part, step, o.size)] for o, step in zip(out, steps, strict=True)]
            encryptor.encrypt(int(part[0]), values[span(part, BATCH, count)], targets)

        list(pool.map(encrypt, parts))
        s = encryptor.key_coefficients()
    sums = np.empty(count, dtype=np.int64)
    with Opener(params, key, s, 1) as opener, ThreadPoolExecutor(8) as pool:

        def unlock(part):
            target = sums[span(part, BATCH, count)]
            packed = [o[span(part, step, o.size)] for o, step in zip(out, steps, strict=True)]
            opener.open(int(part[0]), target.size, packed, target)

        list(pool.map(unlock, parts))
    assert np.array_equal(sums, values)


def test_unaligned_and_read_only_buffers_are_fine(rng):
    values = rng.integers(-9, 10, BATCH).astype(np.int32)
    values.setflags(write=False)
    size, key = packed_bytes(BATCH, 30), secrets.token_bytes(32)
    buffer = np.zeros(size + 3, dtype=np.uint8)
    with Encryptor(ONE, key) as encryptor:
        encryptor.encrypt(0, values, [buffer[3:]])
        s = encryptor.key_coefficients()
    received = np.frombuffer(buffer[3:].tobytes(), dtype=np.uint8)
    for packed in (buffer[3:], received):
        sums, _, _ = Opener(ONE, key, s, 1).open(0, BATCH, [packed])
        assert np.array_equal(sums, values)


def test_a_wrong_key_shows_in_the_distance_to_the_grid(rng):
    values = rng.integers(-9, 10, BATCH).astype(np.int32)
    key = secrets.token_bytes(32)
    packed, key_sum = submit(ONE, key, [values])
    key_sum[5] += 1 if key_sum[5] < 1 else -1  # one coefficient of 2048
    _, distance, _ = Opener(ONE, key, key_sum, 1).open(0, BATCH, packed)
    assert distance > 0.99 * ONE.delta / 2


def test_a_batch_is_encrypted_once_only(rng):
    values = rng.integers(-9, 10, 2 * BATCH).astype(np.int32)
    encryptor = Encryptor(ONE, bytes(32))
    encryptor.encrypt(1, values)
    for first in (0, 1, 2):
        with pytest.raises(ValueError, match="encrypted before"):
            encryptor.encrypt(first, values)
    encryptor.encrypt(3, values)
    encryptor.encrypt(0, values[:5])


@pytest.mark.parametrize("bad", [32768, -32768, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("place", [0, 1000, BATCH, BATCH + 4])
def test_a_value_beyond_the_bound_is_refused_and_nothing_comes_out(bad, place):
    values = np.zeros(BATCH + 5, dtype=np.int32)
    values[place] = bad
    out = np.ones(packed_bytes(values.size, 30), dtype=np.uint8)
    encryptor = Encryptor(ONE, bytes(32))
    with pytest.raises(ValueError, match="exceeds the plan's bound") as caught:
        encryptor.encrypt(0, values, [out])
    assert str(bad) not in str(caught.value)
    assert not out.any()
    with pytest.raises(ValueError, match="encrypted before"):
        encryptor.encrypt(0, values)


def test_wiping_ends_an_encryptor():
    with Encryptor(ONE, bytes(32)) as encryptor:
        inner, keys = encryptor._coefficients, encryptor._keys
        assert inner.any()
    assert not inner.any()
    assert not any(k.factor.any() or k.quotients.any() for k in keys)
    assert "key>" in repr(encryptor)
    with pytest.raises(ValueError, match="wiped"):
        encryptor.encrypt(0, np.zeros(1, dtype=np.int32))
    with pytest.raises(ValueError, match="wiped"):
        encryptor.key_coefficients()
    encryptor.wipe()


def test_wiping_waits_for_running_threads(monkeypatch):
    """A key zeroed under a running kernel would send e + D*k: the plaintext."""
    entered, release, wiped = threading.Event(), threading.Event(), threading.Event()
    real = encryptor_module._encrypt

    def slow(*arguments):
        entered.set()
        assert release.wait(10)
        return real(*arguments)

    monkeypatch.setattr(encryptor_module, "_encrypt", slow)
    encryptor = Encryptor(ONE, bytes(32))
    s = encryptor.key_coefficients()
    values = np.full(1000, 7, dtype=np.int32)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(encryptor.encrypt, 0, values)
        assert entered.wait(10)
        pool.submit(lambda: (encryptor.wipe(), wiped.set()))
        assert not wiped.wait(0.2)
        with pytest.raises(ValueError, match="wiped"):  # nothing new begins meanwhile
            encryptor.encrypt(1, values)
        release.set()
        packed = running.result(10)
        assert wiped.wait(10)
    assert not encryptor._keys[0].factor.any()
    sums, distance, _ = Opener(ONE, bytes(32), s, 1).open(0, 1000, packed)
    assert (sums == 7).all()
    assert distance <= NOISE_BOUND


def test_keys_cannot_be_passed_in_and_differ():
    one, other = Encryptor(ONE, bytes(32)), Encryptor(ONE, bytes(32))
    assert not np.array_equal(one.key_coefficients(), other.key_coefficients())
    values = np.zeros(100, dtype=np.int32)
    assert not np.array_equal(one.encrypt(0, values)[0], other.encrypt(0, values)[0])


def test_residues_not_below_the_prime_are_refused():
    packed = [pack(np.full(100, Q, dtype=np.uint32), 30)]
    with pytest.raises(ValueError, match="not below its prime"):
        Opener(ONE, bytes(32), np.zeros(N, dtype=np.int64), 1).open(0, 100, packed)


@pytest.mark.parametrize(
    ("primes", "delta", "bound", "sites"),
    [
        ((), 1, 1, 1),
        ((*PAIR, Q), 1, 1, 1),
        (PAIR[::-1], 1, 1, 1),
        ((Q, Q), 1, 1, 1),
        ((12289,), 1, 1, 1),
        ((2**31 - 1,), 1, 1, 1),
        ((Q,), 0, 1, 1),
        ((Q,), 863, 32767, 19),
        ((Q,), 1, 0, 1),
        ((Q,), 1, 1, 0),
        (PAIR, 1, 1 << 23, 1),
    ],
)
def test_parameters_that_do_not_fit_are_refused(primes, delta, bound, sites):
    with pytest.raises(ValueError, match=r"ring|step"):
        RingParams(primes, delta, bound, sites)


@pytest.mark.parametrize("sites", [1, 19, 31, 40])
def test_the_widest_step_is_the_formula_of_the_specification(sites):
    m, q = 32767, Q
    assert largest_delta(q, sites * m) == int(((q - 1) // 2) / (sites * m + 0.5))


def test_opener_refuses_what_is_no_key_sum():
    wrong: list[Any] = [np.zeros(5, dtype=np.int64), np.full(N, 4), np.zeros(N), np.full(N, -4, dtype=np.int8)]
    for bad in wrong:
        with pytest.raises(ValueError, match="not the sum of 3 ternary keys"):
            Opener(ONE, bytes(32), bad, 3)
    with pytest.raises(ValueError, match="1 to 19 sites"):
        Opener(ONE, bytes(32), np.zeros(N, dtype=np.int64), 20)


def test_wrong_shapes_are_refused():
    encryptor = Encryptor(ONE, bytes(32))
    opener = Opener(ONE, bytes(32), np.zeros(N, dtype=np.int64), 1)
    for call in (
        lambda: encryptor.encrypt(0, np.zeros(3, dtype=np.int64)),
        lambda: encryptor.encrypt(0, np.zeros((3, 3), dtype=np.int32)),
        lambda: encryptor.encrypt(0, np.zeros(3, dtype=np.int32), [np.zeros(11, dtype=np.uint8)]),
        lambda: opener.open(0, 3, [np.zeros(11, dtype=np.uint8)]),
        lambda: opener.open(0, 3, []),
        lambda: opener.open(0, 3, [np.zeros(12, dtype=np.uint8)], np.zeros(4, dtype=np.int64)),
    ):
        with pytest.raises(ValueError, match=r"array|bytes|int64"):
            call()
    encryptor.encrypt(0, np.zeros(3, dtype=np.int32))  # a refused call claimed nothing
