"""Digits: any integers within the bound, summed digit by digit, give exactly their sum."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk.analytics.integers import Field, decode, digits_for, encode, encoded_size
from he_agg.errors import DecryptionError, InputError, Reason


class One(NamedTuple):
    """An analysis's integers, all in one field."""

    x: Any


@given(data=st.data(), bits=st.sampled_from([4, 16, 24]), exponent=st.integers(0, 90), n_sites=st.integers(1, 6))
def test_sums_of_digits_are_the_digits_of_the_sum(data, bits, exponent, n_sites):
    magnitude = 2 ** (bits - 1) - 1
    bound = 2**exponent + data.draw(st.integers(0, 3))
    field = Field((2, 2), bound)
    numbers = st.one_of(st.sampled_from([-bound, bound, 0, -1, 1]), st.integers(-bound, bound))
    sites = [data.draw(st.lists(numbers, min_size=4, max_size=4)) for _ in range(n_sites)]
    total = np.zeros(encoded_size(One(field), magnitude), dtype=np.int64)
    for site in sites:
        digits = encode(One(field), One(np.array(site, dtype=object).reshape(2, 2)), magnitude)
        assert np.abs(digits).max() <= magnitude
        total += digits
    decoded = decode(One(field), total, magnitude, n_sites).x
    assert [int(value) for value in decoded.ravel()] == [sum(column) for column in zip(*sites, strict=True)]


def test_small_numbers_take_one_digit_and_large_ones_as_few_as_they_need():
    magnitude = 2**23 - 1
    assert [digits_for(b, magnitude) for b in (0, 1, magnitude, magnitude + 1, magnitude * 2**23, 2**46)] == [
        1,
        1,
        1,
        2,
        2,
        3,
    ]


def test_int64_arrays_and_objects_give_the_same_digits(rng):
    field = Field((50,), 2**40)
    values = rng.integers(-(2**40), 2**40, 50)
    assert np.array_equal(
        encode(One(field), One(values), 2**23 - 1), encode(One(field), One(values.astype(object)), 2**23 - 1)
    )


@pytest.mark.parametrize("value", [-8, 8])
def test_beyond_the_bound_is_refused_on_both_ends(value):
    field = Field((1,), 7)
    with pytest.raises(InputError) as caught:
        encode(One(field), One(np.array([value])), 127)
    assert caught.value.reason == Reason.BEYOND_CLIP
    assert str(value) not in caught.value.message.replace("within 7", "")
    encode(One(field), One(np.array([value - np.sign(value)])), 127)
    with pytest.raises(DecryptionError):
        decode(One(field), np.array([2 * value]), 127, 2)
    decode(One(field), np.array([2 * (value - np.sign(value))]), 127, 2)


def test_floats_and_other_shapes_are_refused():
    field = Field((2,), 7)
    for wrong in (np.zeros(2), np.zeros((2, 1), np.int64)):
        with pytest.raises(InputError):
            encode(One(field), One(wrong), 127)
