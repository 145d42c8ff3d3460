"""Whole encryption and opening against the oracle; order and threads; misuse."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from he_agg.kernels.bitpack import packed_bytes, unpack
from he_agg.ring import encryptor as encryptor_module
from he_agg.ring.encryptor import Encryptor, ValueBeyondError
from he_agg.ring.limbs import packed_sizes
from he_agg.ring.opener import Opener
from he_agg.ring.params import RingParams
from he_agg.ring.primes import BATCH, N, coefficients_of, ntt_primes, sent_primes
from he_agg.ring.sampling import NOISE_BOUND, fresh_key
from tests.ring import deterministic, reference
from tests.ring.sets import ALL, MANY, ONE, RINGS, SENT, TWO, open_sum, submit

each = pytest.mark.parametrize("params", ALL.values(), ids=ALL)


@each
def test_what_is_sent_is_the_exact_ciphertext_rounded(params, rng):
    """Each is within 1/2 and the error of float64 of c*p/q; so few differ from it rounded exactly, and by one at most.

    c*p/q is uniform: it is within f of the middle between two integers with a probability of 2f.
    """
    a_key, noise_key, s = rng.bytes(32), rng.bytes(32), fresh_key()
    count = BATCH * params.digits - 5
    values = rng.integers(-params.max_abs_value, params.max_abs_value + 1, count).astype(np.int32)
    parts = deterministic.encrypt(params, a_key, noise_key, s, 3, values)
    c = reference.ciphertext(params, a_key, noise_key, s, 3, values)
    used = coefficients_of(count, params.digits)
    h = reference.join(
        [unpack(x, used, b).tolist() for x, b in zip(parts, params.sent_bits, strict=True)], params.moduli
    )
    p, q = int(np.prod(params.moduli, dtype=object)), params.modulus
    error = reference.float_error(p)
    differ = 0
    for sent, exact in zip(h, c, strict=True):
        off = (sent * q - exact * p + q * p // 2) % (q * p) - q * p // 2  # of c*p/q, in units of 1/q
        assert abs(off) <= q * (error + reference.HALF)
        away = (sent - reference.rounded(exact, p, q) + 1) % p - 1
        assert abs(away) <= 1
        differ += away != 0
    assert differ <= 2 * error * used + 5 * (2 * error * used) ** 0.5


@each
def test_a_sum_opens_as_by_exact_arithmetic(params, rng):
    """Distances to the grid too: float64 is off by less than 2 there."""
    key, sites, m = rng.bytes(32), 2, params.max_abs_value
    count = params.digits * 300 + 1
    submissions = [rng.integers(-m, m + 1, count).astype(np.int32) for _ in range(sites)]
    packed, key_sum = submit(params, key, submissions)
    sums, distance, squares, largest = open_sum(params, key, key_sum, sites, packed, count)
    used = coefficients_of(count, params.digits)
    h = reference.join(
        [unpack(x, used, b).tolist() for x, b in zip(packed, params.sent_bits, strict=True)], params.moduli
    )
    p, q = int(np.prod(params.moduli, dtype=object)), params.modulus
    products = reference.key_products(params.primes, key, key_sum, 0)
    z = [reference.remove_key(x, products[i], p, q) for i, x in enumerate(h)]
    rounded = [round(x / params.delta) for x in z]
    off = [float(abs(x - params.delta * m)) for x, m in zip(z, rounded, strict=True)]
    digits = [reference.split_digits(m, params.digits, params.base) for m in rounded]
    expected = [d[j] for j in range(params.digits) for d in digits][:count]
    assert sums.tolist() == expected == np.sum(submissions, axis=0).tolist()
    assert largest == max(map(abs, expected))
    assert abs(distance - max(off)) < 2
    assert abs(squares - sum(x * x for x in off)) <= sum(4 * x + 4 for x in off)


@each
def test_any_order_any_parts_any_threads_give_the_same_sums(params, rng):
    """Eight threads encrypt parts of one to three batches in a shuffled order into one buffer."""
    whole = params.digits * BATCH
    count, m = 6 * whole + 777, params.max_abs_value
    values = rng.integers(-m, m + 1, count).astype(np.int32)
    cuts = sorted({0, 7, *map(int, rng.integers(1, 7, 4))})
    parts = list(pairwise(cuts))
    rng.shuffle(parts)
    out = [np.zeros(size, dtype=np.uint8) for size in packed_sizes(params, count)]
    key, steps = secrets.token_bytes(32), packed_sizes(params, whole)

    def span(part, unit, end):
        first, last = part
        return slice(first * unit, min(last * unit, end))

    with Encryptor(params, key) as encryptor, ThreadPoolExecutor(8) as pool:

        def encrypt(part):
            targets = [o[span(part, step, o.size)] for o, step in zip(out, steps, strict=True)]
            encryptor.encrypt(int(part[0]), values[span(part, whole, count)], targets)

        list(pool.map(encrypt, parts))
        s = encryptor.key_coefficients()
    sums = np.empty(count, dtype=np.int64)
    with Opener(params, key, s, 1) as opener, ThreadPoolExecutor(8) as pool:

        def unlock(part):
            packed = [o[span(part, step, o.size)] for o, step in zip(out, steps, strict=True)]
            opener.open(int(part[0]), packed, sums[span(part, whole, count)])

        list(pool.map(unlock, parts))
    assert np.array_equal(sums, values)


@each
def test_unaligned_and_read_only_buffers_are_fine(params, rng):
    count = params.digits * BATCH
    values = rng.integers(-9, 10, count).astype(np.int32)
    values.setflags(write=False)
    key = secrets.token_bytes(32)
    buffers = [np.zeros(size + 3, dtype=np.uint8) for size in packed_sizes(params, count)]
    with Encryptor(params, key) as encryptor:
        encryptor.encrypt(0, values, [b[3:] for b in buffers])
        s = encryptor.key_coefficients()
    received = [np.frombuffer(b[3:].tobytes(), dtype=np.uint8) for b in buffers]
    for packed in ([b[3:] for b in buffers], received):
        sums, *_ = open_sum(params, key, s, 1, packed, count)
        assert np.array_equal(sums, values)


def test_a_batch_is_encrypted_once_only(rng):
    values = rng.integers(-9, 10, 2 * TWO.digits * BATCH).astype(np.int32)
    encryptor = Encryptor(TWO, bytes(32))
    encryptor.encrypt(1, values)
    for first in (0, 1, 2):
        with pytest.raises(ValueError, match="encrypted before"):
            encryptor.encrypt(first, values)
    encryptor.encrypt(3, values)
    encryptor.encrypt(0, values[:5])


@each
def test_a_value_beyond_the_bound_is_refused_and_nothing_comes_out(params):
    """Wherever it is: in the first digit or the last, in a whole batch or behind it."""
    whole, m = params.digits * BATCH, params.max_abs_value
    values = np.zeros(whole + 5, dtype=np.int32)
    for bad in (m + 1, -m - 1, 2**31 - 1, -(2**31)):
        for place in (0, 1000, whole - 1, whole, whole + 4):
            values[:] = 0
            values[place] = bad
            out = [np.ones(size, dtype=np.uint8) for size in packed_sizes(params, values.size)]
            encryptor = Encryptor(params, bytes(32))
            with pytest.raises(ValueBeyondError, match="exceeds the plan's bound") as caught:
                encryptor.encrypt(0, values, out)
            assert str(bad) not in str(caught.value)
            assert not any(o.any() for o in out)
            with pytest.raises(ValueError, match="encrypted before"):
                encryptor.encrypt(0, values)


def test_wiping_ends_an_encryptor():
    with Encryptor(TWO, bytes(32)) as encryptor:
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
    """A key zeroed under a running kernel would send e + D*m: the plaintext."""
    entered, release, wiped = threading.Event(), threading.Event(), threading.Event()
    real = encryptor_module._encrypt

    def slow(*arguments):
        entered.set()
        assert release.wait(10)
        return real(*arguments)

    monkeypatch.setattr(encryptor_module, "_encrypt", slow)
    encryptor = Encryptor(TWO, bytes(32))
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
    sums, *_ = open_sum(TWO, bytes(32), s, 1, packed, 1000)
    assert (sums == 7).all()


def test_keys_cannot_be_passed_in_and_differ():
    one, other = Encryptor(ONE, bytes(32)), Encryptor(ONE, bytes(32))
    assert not np.array_equal(one.key_coefficients(), other.key_coefficients())
    values = np.zeros(100, dtype=np.int32)
    assert not np.array_equal(one.encrypt(0, values)[0], other.encrypt(0, values)[0])


Q, PAIR, P, MODULI = ntt_primes(30)[0], RINGS[53], sent_primes(20)[0], SENT[49]


@pytest.mark.parametrize(
    ("digits", "primes", "moduli", "delta", "bound", "sites"),
    [
        (1, (), (P,), 1, 1, 1),
        (1, (Q,), (), 1, 1, 1),
        (1, (*PAIR, Q), (P,), 1, 1, 1),
        (1, PAIR[::-1], (P,), 1, 1, 1),
        (1, (Q, Q), (P,), 1, 1, 1),
        (1, (12289,), (P,), 1, 1, 1),
        (1, (2**31 - 1,), (P,), 1, 1, 1),
        (1, PAIR, MODULI[::-1], 1, 1, 1),
        (1, PAIR, (*MODULI, P), 1, 1, 1),
        (1, PAIR, (P, P), 1, 1, 1),
        (1, PAIR, (ntt_primes(20)[0],), 1, 1, 1),
        (1, (Q,), MODULI, 1, 1, 1),
        (1, (Q,), (sent_primes(30)[0],), 1, 1, 1),
        (0, (Q,), (P,), 1, 1, 1),
        (1, (Q,), (P,), 0, 1, 1),
        (1, (Q,), (P,), (Q - 1) // (38 * 32767 + 1) + 1, 32767, 19),
        (2, PAIR, MODULI, (PAIR[0] * PAIR[1] - 1) // (38 * 32767 + 1) ** 2 + 1, 32767, 19),
        (1, (Q,), (P,), 1, 0, 1),
        (1, (Q,), (P,), 1, 1, 0),
        (1, PAIR, (P,), 1, 1 << 23, 1),
    ],
)
def test_parameters_that_do_not_fit_are_refused(digits, primes, moduli, delta, bound, sites):
    with pytest.raises(ValueError, match=r"ring|sum has|step"):
        RingParams(digits, primes, moduli, delta, bound, sites)


def test_opener_refuses_what_is_no_key_sum():
    beyond = 2 * NOISE_BOUND + 1
    wrong: list[Any] = [
        np.zeros(5, dtype=np.int64),
        np.full(N, beyond),
        np.zeros(N),
        np.full(N, -beyond, dtype=np.int8),
    ]
    for bad in wrong:
        with pytest.raises(ValueError, match="not the sum of 2 one-time keys"):
            Opener(MANY, bytes(32), bad, 2)
    Opener(MANY, bytes(32), np.full(N, 1 - beyond), 2)
    with pytest.raises(ValueError, match="1 to 2 sites"):
        Opener(MANY, bytes(32), np.zeros(N, dtype=np.int64), 3)


def test_wrong_shapes_are_refused():
    encryptor = Encryptor(ONE, bytes(32))
    opener = Opener(ONE, bytes(32), np.zeros(N, dtype=np.int64), 1)
    right, three = packed_bytes(3, 26), np.zeros(3, dtype=np.int64)
    not_int32: list[Any] = [three, np.zeros((3, 3), dtype=np.int32), np.zeros(6, dtype=np.int32)[::2]]
    no_sums: list[Any] = [np.zeros(3, dtype=np.uint32), np.zeros(3), np.zeros(6, dtype=np.int64)[::2], np.zeros((3, 1))]
    packed = [np.zeros(right, dtype=np.uint8)]
    calls: list[Callable[[], object]] = [
        *(partial(encryptor.encrypt, 0, values) for values in not_int32),
        lambda: encryptor.encrypt(0, np.zeros(3, dtype=np.int32), [np.zeros(right - 1, dtype=np.uint8)]),
        *(partial(opener.open, 0, packed, sums) for sums in no_sums),
        lambda: opener.open(0, [np.zeros(right + 1, dtype=np.uint8)], three),
        lambda: opener.open(0, [], three),
        lambda: opener.open(0, packed, np.zeros(4, dtype=np.int64)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"array"):
            call()
    encryptor.encrypt(0, np.zeros(3, dtype=np.int32))  # a refused call claimed nothing
