"""Matrices modulo P: every entry is what Python's integers say, at the bound as well."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg.errors import Reason, WireError
from he_agg.ring.primes import is_prime
from he_agg.sharing.field import MAX_INNER, P, add, fixed_lagrange, inverse, lagrange, multiply, read, write
from tests.sharing.dealt import value_at

seeds = st.integers(0, 2**32)


def test_the_field_is_the_largest_that_fits_two_bytes():
    assert is_prime(P)
    assert not any(is_prime(number) for number in range(P + 1, 2**16))


@given(seeds, st.integers(1, 5), st.integers(1, 40), st.integers(1, 4))
def test_products_are_those_of_integers(seed, n, inner, width):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, P, shape).astype(np.uint16) for shape in ((n, inner), (inner, width)))
    got = multiply(a, b)
    assert got.dtype == np.uint16
    for i in range(n):
        for j in range(width):
            assert got[i, j] == sum(int(x) * int(y) for x, y in zip(a[i], b[:, j], strict=True)) % P


def test_the_longest_product_of_the_largest_numbers_is_exact():
    largest = np.full(MAX_INNER, P - 1, dtype=np.uint16)
    assert MAX_INNER * (P - 1) ** 2 < 2**51
    assert multiply(largest[np.newaxis], largest)[0] == MAX_INNER % P
    with pytest.raises(ValueError, match="524288"):
        multiply(np.ones((1, MAX_INNER + 1)), np.ones(MAX_INNER + 1))


@given(st.integers(1, (2**51 - 1) // P), st.integers(-2, 2))
def test_remainders_next_to_multiples_of_p(multiple, off):
    """x = high * 65520 + low, as one product of two terms; the largest x that the bound allows is among these."""
    x = min(multiple * P + off, 2**51 - 1)
    high, low = divmod(x, P - 1)
    sums = np.array([[float(high), float(low)]])
    assert multiply(sums, np.array([P - 1.0, 1.0]))[0] == x % P


@given(st.lists(st.integers(-70_000, 70_000), min_size=1, max_size=12, unique_by=lambda x: x % P), seeds)
def test_weights_give_a_polynomial_at_other_points(known, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, P, len(known)).astype(np.uint16)
    wanted = (*known[:2], 0, 5, P + 7)
    expected = [value_at(x, dict(zip(known, values, strict=True))) for x in wanted]
    if not {x % P for x in wanted[2:]} & {x % P for x in known}:  # else Python's formula divides by zero, in effect
        assert multiply(lagrange(tuple(known), wanted), values).tolist() == expected
    at_known = multiply(lagrange(tuple(known), tuple(known)), values)
    assert at_known.tolist() == values.tolist()


def test_weights_that_are_remembered_cannot_be_changed():
    assert fixed_lagrange((1, 2), (0,)) is fixed_lagrange((1, 2), (0,))
    with pytest.raises(ValueError, match="read-only"):
        fixed_lagrange((1, 2), (0,))[0, 0] = 1


def test_inverses():
    assert all(a * inverse(a) % P == 1 for a in (1, 2, P - 1, P + 3, -5))
    with pytest.raises(ValueError, match="not invertible"):
        inverse(P)
    with pytest.raises(ValueError, match="not invertible"):
        lagrange((1, P + 1), (0,))


def test_rows_add_up(rng):
    rows = rng.integers(0, P, (300, 7)).astype(np.uint16)
    rows[:, 0] = P - 1
    assert add(iter(rows)).tolist() == [sum(map(int, column)) % P for column in rows.T]
    before = rows[0].copy()
    add([rows[0], rows[1]])
    assert np.array_equal(rows[0], before)
    with pytest.raises(ValueError, match="none"):
        add([])


def test_elements_are_read_strictly(rng):
    elements = rng.integers(0, P, 20).astype(np.uint16)
    data = write(elements)
    assert data == b"".join(int(x).to_bytes(2, "little") for x in elements)
    assert np.array_equal(read(data, 20, "row"), elements)
    for wrong, reason in (
        (data[:-1], Reason.TRUNCATED),
        (data + b"\0", Reason.TRAILING_BYTES),
        (P.to_bytes(2, "little") + data[2:], Reason.RESIDUE_OUT_OF_RANGE),
        (data[:-2] + b"\xff\xff", Reason.RESIDUE_OUT_OF_RANGE),
    ):
        with pytest.raises(WireError, match="row") as refused:
            read(wrong, 20, "row")
        assert refused.value.reason == reason
    assert read((P - 1).to_bytes(2, "little"), 1, "row").tolist() == [P - 1]
