"""Masks: off again exactly, for every sum of so many keys, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from he_agg.ring.primes import N
from he_agg.ring.sampling import NOISE_BOUND, fresh_key
from he_agg.sharing.field import KEY_BOUND, MAX_SITES, P, add
from he_agg.sharing.masks import mask, masked, total_mask, unmasked
from tests.sharing.dealt import MASK_KEY, context_of, keys_of


def test_masks_come_off_a_sum(rng):
    keys, contexts = keys_of(rng, 5), [context_of(site) for site in range(5)]
    total = add(masked(key, MASK_KEY, context) for key, context in zip(keys, contexts, strict=True))
    got = unmasked(total, total_mask(MASK_KEY, contexts), 5)
    assert got.tolist() == keys.astype(int).sum(axis=0).tolist()


def test_a_masked_key_is_the_key_and_the_mask(rng):
    key = keys_of(rng, 1)[0]
    expected = [(int(k) + int(f)) % P for k, f in zip(key, mask(MASK_KEY, context_of()), strict=True)]
    assert masked(key, MASK_KEY, context_of()).tolist() == expected


@pytest.mark.parametrize("sites", [1, 2, 12, MAX_SITES])
def test_the_bound_of_so_many_keys(sites):
    bound, nothing = 21 * sites, np.zeros(N, dtype=np.uint16)
    for value, fits in ((bound, True), (-bound, True), (bound + 1, False), (-bound - 1, False)):
        total = nothing.copy()
        total[7] = value % P
        got = unmasked(total, nothing, sites)
        assert (got is not None) is fits
        assert got is None or got[7] == value
        # The same, wrapped around by the mask.
        other = unmasked((total.astype(int) + 65_000).astype(int) % P, np.full(N, 65_000, dtype=np.uint16), sites)
        assert (other is not None) is fits


def test_one_site_more_and_no_sum_is_noticed():
    assert 21 * (MAX_SITES + 1) == (P - 1) // 2
    with pytest.raises(ValueError, match="1559"):
        unmasked(np.zeros(N, dtype=np.uint16), np.zeros(N, dtype=np.uint16), MAX_SITES + 1)


def test_the_bound_is_that_of_the_law_of_keys():
    assert KEY_BOUND == NOISE_BOUND
    assert np.abs(fresh_key()).max() <= KEY_BOUND


def test_only_a_key_is_masked():
    with pytest.raises(ValueError, match="int8"):
        masked(np.zeros(N, dtype=np.int16), MASK_KEY, context_of())
    with pytest.raises(ValueError, match="32 bytes"):
        mask(b"short", context_of())


def test_with_all_shares_and_without_the_mask_key_any_key_is_possible(rng):
    """What all holders together know is the masked key: for every candidate there is one mask, and masks are PRF's."""
    shared = masked(keys_of(rng, 1)[0], MASK_KEY, context_of())
    for candidate in keys_of(rng, 3):
        fitting = (shared.astype(int) - candidate) % P
        assert np.array_equal((fitting + candidate) % P, shared)
