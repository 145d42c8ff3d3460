"""Sharing: any t rows give the secret back, t - 1 say nothing; all of it once more in Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg.sharing.field import P, lagrange, multiply
from he_agg.sharing.shamir import expand, rebuild, share
from tests.sharing.dealt import at_zero, value_at

WIDTH = 9


@st.composite
def shared(draw):
    holders = draw(st.integers(1, 31))
    threshold = draw(st.integers(1, holders))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    secret = rng.integers(0, P, WIDTH).astype(np.uint16)
    seeds = [rng.bytes(32) for _ in range(threshold - 1)]
    chosen = rng.permutation(holders)[:threshold] + 1
    return holders, secret, seeds, [int(point) for point in chosen]


@given(shared())
def test_any_t_rows_give_the_secret_back(case):
    holders, secret, seeds, chosen = case
    rows = share(secret, seeds, holders)
    assert rows.shape == (holders, WIDTH)
    for index, seed in enumerate(seeds):
        assert np.array_equal(rows[index], expand(seed, WIDTH))
    taken = {point: rows[point - 1] for point in chosen}
    assert np.array_equal(rebuild(taken), secret)
    for column in range(WIDTH):
        values = {point: row[column] for point, row in taken.items()}
        assert at_zero(values) == secret[column]
        for index in range(1, holders + 1):
            assert index in values or value_at(index, values) == rows[index - 1][column]


@given(shared(), st.integers(0, 2**32))
def test_t_minus_1_rows_fit_every_secret_in_exactly_one_way(case, seed):
    """Any candidate and t - 1 rows are t values of polynomials of degree below t: there is one such, and only one."""
    holders, secret, seeds, chosen = case
    rows, known = share(secret, seeds, holders), chosen[1:]
    candidate = np.random.default_rng(seed).integers(0, P, WIDTH).astype(np.uint16)
    others = tuple(point for point in range(1, holders + 1) if point not in known)
    completion = multiply(lagrange((0, *known), others), np.stack([candidate, *(rows[point - 1] for point in known)]))
    everyone = {point: rows[point - 1] for point in known} | dict(zip(others, completion, strict=True))
    assert np.array_equal(rebuild({point: everyone[point] for point in chosen}), candidate)
    # It is one: another value of any other holder makes another secret, since no weight is zero.
    weights = lagrange(tuple(chosen), (0,))[0]
    assert (weights != 0).all()
    assert np.array_equal(everyone[others[0]], rows[others[0] - 1]) == np.array_equal(candidate, secret)


def test_a_threshold_above_the_number_of_holders_is_none():
    with pytest.raises(ValueError, match="at most 2 holders"):
        share(np.zeros(3, dtype=np.uint16), [b"1" * 32, b"2" * 32], 2)
