"""The transform against its definition, its round trip, and the ranges that the kernels promise."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from he_agg.ring import ntt
from he_agg.ring.modulus import modulus, shoup_quotients
from he_agg.ring.ntt_lanes import inverse_product
from he_agg.ring.primes import LANES, N, is_prime, ntt_primes, smallest_root
from tests.ring import reference
from tests.ring.primes import IN_USE


@pytest.mark.parametrize("bits", range(16, 31))
def test_primes_are_the_two_largest_of_their_width(bits):
    by_trial = (
        q
        for q in range((1 << bits) - 4095, 1 << (bits - 1), -4096)
        if all(q % d for d in range(3, 40000, 2) if d * d <= q)
    )
    assert tuple(islice(by_trial, 2)) == ntt_primes(bits)
    assert all(is_prime(q) and q.bit_length() == bits and q % (2 * N) == 1 for q in ntt_primes(bits))


@pytest.mark.parametrize("q", IN_USE)
def test_root_is_the_smallest(q):
    assert smallest_root(q, 2 * N) == modulus(q).root == reference.root(q)


@pytest.mark.parametrize("number", [0, 1, 4, 561, 41 * 41, 3215031751, 1073692673 * 1073668097])
def test_composites_are_no_primes(number):
    assert not is_prime(number)


def test_no_root_of_a_wrong_order():
    with pytest.raises(ValueError, match="no root of unity"):
        smallest_root(1073692673, 1 << 20)


def test_unknown_prime_is_refused():
    with pytest.raises(ValueError, match="not one of the primes"):
        modulus(65537)


@pytest.mark.parametrize("q", IN_USE)
def test_shoup_quotients_are_the_floors(q, rng):
    w = np.concatenate([rng.integers(0, q, 100_000), [0, 1, 2, q - 1, q - 2, q // 2]]).astype(np.uint32)
    assert np.array_equal(shoup_quotients(w, q), (w.astype(np.uint64) << np.uint64(32)) // np.uint64(q))


@pytest.mark.parametrize("q", IN_USE)
def test_lazy_product_is_congruent_and_below_2q_for_any_32_bit_factor(q, rng):
    w = int(rng.integers(0, q))
    for x in [0, 1, q - 1, q, 2 * q, 4 * q - 1, 2**32 - 1, *map(int, rng.integers(0, 2**32, 500))]:
        r = int(ntt.mul_lazy(np.uint32(x), np.uint32(w), np.uint32((w << 32) // q), np.uint32(q)))
        assert r < 2 * q
        assert r % q == x * w % q


@pytest.mark.parametrize("q", IN_USE)
def test_forward_is_the_definition(q, rng):
    m, x = modulus(q), rng.integers(0, q, N).astype(np.uint32)
    expected = reference.transform(x, q)
    ntt.forward(x, m.forward, m.forward_quotients, 1, np.uint32(q))
    assert np.array_equal(x, expected)


@pytest.mark.parametrize("q", IN_USE)
@pytest.mark.parametrize("highest", [1, 2], ids=["any", "all-at-the-edge"])
def test_round_trip_of_sixteen_lanes(q, highest, rng):
    m, count = modulus(q), N * LANES
    x = rng.integers(0, q, count) if highest == 1 else np.full(count, q - 1)
    y = x.astype(np.uint32)
    ntt.forward(y, m.forward, m.forward_quotients, LANES, np.uint32(q))
    lane = int(rng.integers(LANES))
    one = x[lane::LANES].astype(np.uint32)
    ntt.forward(one, m.forward, m.forward_quotients, 1, np.uint32(q))
    assert np.array_equal(y[lane::LANES], one)
    y += np.uint32(q) * rng.integers(0, 2**32 // q, count).astype(np.uint32)  # any 32 bits are allowed
    factor = np.full(N, m.n_inverse, dtype=np.uint32)
    inverse_product(y, factor, shoup_quotients(factor, q), m.inverse, m.inverse_quotients, np.uint32(q), y)
    assert y.max() < 2 * q
    assert np.array_equal(y % np.uint32(q), x)


@pytest.mark.parametrize("q", IN_USE)
def test_product_with_a_transformed_key_is_the_negacyclic_product(q, rng):
    m = modulus(q)
    s = rng.integers(-651, 652, N).astype(np.int64)
    a, times = rng.integers(0, q, N), int(rng.integers(1, q))
    factor, quotients = ntt.transform_key(s, m, times)
    x = np.zeros(N * LANES, dtype=np.uint32)
    x[3::LANES] = a
    ntt.forward(x, m.forward, m.forward_quotients, LANES, np.uint32(q))
    inverse_product(x, factor, quotients, m.inverse, m.inverse_quotients, np.uint32(q), x)
    assert np.array_equal(x[3::LANES] % q, reference.product(a, s, q) * times % q)
    assert not (x[4::LANES] % q).any()
