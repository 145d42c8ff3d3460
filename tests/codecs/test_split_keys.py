"""Split keys at the codec: the key is handed out once and taken back as a sum; any other sum opens to nothing."""

from __future__ import annotations

import numpy as np
import pytest

from he_agg.codecs import codec_for, new_key_material
from he_agg.errors import DecryptionError, Reason
from he_agg.plan.fixedpoint import dequantize, quantize
from he_agg.plan.security import NOISE_BOUND
from he_agg.ring.primes import N
from keys import GroupKey
from keys.self_test import self_test
from tests.support.federation import ROUND, by_number, fold_all, key_of, plan_of, source

FEW, MANY = 5, 70_000


def split_plan(n_values=FEW, **options):
    return plan_of(n_values, codec="hybrid", keys="split", **{"min_sites": 3, **options})


def encrypted(plan, key, vectors):
    """Submissions, and the one-time key that each dealt."""
    dealt = []
    coder = codec_for(plan.public)
    submissions = [
        by_number(coder.encrypt(vector, key, ROUND, deal=lambda one: dealt.append(one.copy()))) for vector in vectors
    ]
    return submissions, dealt


def vectors_of(plan, rng, sites):
    magnitude = plan.public.magnitude
    return rng.integers(-magnitude, magnitude, (sites, plan.public.values), dtype=np.int32, endpoint=True)


def opened(plan, key, submissions, key_sum):
    total = fold_all(plan.public, submissions)
    return codec_for(plan.public).decrypt(source(total), len(submissions), key, ROUND, key_sum=key_sum)


@pytest.mark.parametrize("n_values", [FEW, 2046, MANY])
@pytest.mark.parametrize(("max_sites", "value_bits"), [(3, 16), (5, 8), (40, 24), (1559, 16)])
def test_the_sum_opens_with_the_sum_of_keys(n_values, max_sites, value_bits, rng):
    plan = split_plan(n_values, max_sites=max_sites, value_bits=value_bits, part_bytes=2**16)
    key, vectors = key_of(plan), vectors_of(plan, rng, 3)
    submissions, dealt = encrypted(plan, key, vectors)
    key_sum = np.sum(dealt, axis=0, dtype=np.int64)
    before = key_sum.copy()
    sums = opened(plan, key, submissions, key_sum)
    assert np.array_equal(sums, vectors.sum(axis=0, dtype=np.int64))
    assert np.array_equal(key_sum, before), "wiping it is the caller's business"


def test_a_key_is_handed_out_once_before_anything_is_encrypted_and_is_zeros_afterwards():
    plan = split_plan()
    handed, shown = [], []
    values = np.zeros(plan.public.values, dtype=np.int32)

    def deal(one):
        assert not shown
        assert one.shape == (N,)
        assert one.dtype == np.int8
        assert 0 < np.abs(one).max() <= NOISE_BOUND
        handed.append(one)

    for part in codec_for(plan.public).encrypt(values, key_of(plan), ROUND, deal=deal):
        shown.append(part.number)
    assert len(handed) == 1
    assert not handed[0].any()
    assert len(shown) == len(plan.public.places)


def test_a_deal_that_fails_ends_the_encryption_and_leaves_no_key():
    plan, seen = split_plan(), []

    def deal(one):
        seen.append(one)
        raise OSError("no space left on device")

    parts = codec_for(plan.public).encrypt(np.zeros(plan.public.values, dtype=np.int32), key_of(plan), ROUND, deal=deal)
    with pytest.raises(OSError, match="no space"):
        next(parts)
    assert not seen[0].any()


@pytest.mark.parametrize("sites", [3, 5])
@pytest.mark.parametrize("wrong", ["one more", "one left out", "another's", "two swapped", "zeros", "negated"])
def test_a_wrong_sum_of_keys_opens_to_nothing(sites, wrong, rng):
    """With few values and as many sites as fit: without the padding there would be next to nothing to see it by."""
    plan = split_plan(FEW, max_sites=sites)
    key = key_of(plan)
    submissions, dealt = encrypted(plan, key, vectors_of(plan, rng, sites))
    key_sum = np.asarray(np.sum(dealt, axis=0, dtype=np.int64))
    right = key_sum.copy()
    if wrong == "one more":
        key_sum[rng.integers(N)] += 1
    elif wrong == "one left out":
        key_sum -= dealt[0]
    elif wrong == "another's":
        key_sum += encrypted(plan, key, vectors_of(plan, rng, 1))[1][0] - dealt[1].astype(np.int64)
    elif wrong == "two swapped":
        i = int(np.flatnonzero(np.diff(key_sum))[0])
        key_sum[[i, i + 1]] = key_sum[[i + 1, i]]
    else:
        key_sum *= 0 if wrong == "zeros" else -1
    with pytest.raises(DecryptionError) as caught:
        opened(plan, key, submissions, key_sum)
    assert caught.value.reason == Reason.OFF_GRID
    assert opened(plan, key, submissions, right) is not None


@pytest.mark.parametrize("sites", [3, 5])
@pytest.mark.parametrize("altered", ["dropped", "doubled", "replaced", "repeated"])
def test_another_sum_than_the_keys_are_of_opens_to_nothing(sites, altered, rng):
    """Somebody with the group key makes tags that hold for it: whether it opens is then all that keeps it out."""
    plan = split_plan(FEW, max_sites=sites)
    key = key_of(plan)
    submissions, dealt = encrypted(plan, key, vectors_of(plan, rng, sites))
    key_sum = np.asarray(np.sum(dealt, axis=0, dtype=np.int64))
    first, second, *rest = submissions
    (other,), _ = encrypted(plan, key, vectors_of(plan, rng, 1))
    summed = {
        "dropped": [second, *rest],
        "doubled": [first, first, *submissions[1:]],
        "replaced": [other, second, *rest],
        "repeated": [second, second, *rest],
    }[altered]
    coder, total = codec_for(plan.public), fold_all(plan.public, summed)
    with pytest.raises(DecryptionError) as caught:
        coder.decrypt(source(total), sites, key, ROUND, key_sum=key_sum.copy())
    assert caught.value.reason == Reason.OFF_GRID
    assert opened(plan, key, submissions, key_sum) is not None


def test_the_mean_is_that_of_shared_keys(rng):
    """Bit for bit: how a key travels does not change what is summed."""
    tensors, means = [{"w": rng.uniform(-1, 1, FEW)} for _ in range(3)], []
    for keys in ("shared", "split"):
        plan = plan_of(FEW, codec="hybrid", keys=keys, min_sites=3)
        key = key_of(plan)
        vectors = [quantize(plan, update, weight).values for weight, update in enumerate(tensors, start=1)]
        if keys == "split":
            submissions, dealt = encrypted(plan, key, vectors)
            sums = opened(plan, key, submissions, np.sum(dealt, axis=0, dtype=np.int64))
        else:
            coder = codec_for(plan.public)
            submissions = [by_number(coder.encrypt(vector, key, ROUND)) for vector in vectors]
            sums = coder.decrypt(source(fold_all(plan.public, submissions)), 3, key, ROUND)
        means.append(dequantize(plan, sums, 3))
    shared, split = means
    assert np.array_equal(shared.tensors["w"], split.tensors["w"])
    assert np.array_equal(shared.sums, split.sums)
    assert shared.total_weight == split.total_weight == 6


def test_values_in_the_padding_are_refused():
    """A site that fills up with something else than zeros is noticed by all."""
    plan = split_plan(FEW)
    values = [quantize(plan, {"w": np.zeros(FEW)}, 1).values for _ in range(3)]
    values[1] = values[1].copy()
    values[1][-1] = 1
    submissions, dealt = encrypted(plan, key_of(plan), values)
    sums = opened(plan, key_of(plan), submissions, np.sum(dealt, axis=0, dtype=np.int64))
    with pytest.raises(DecryptionError) as caught:
        dequantize(plan, sums, 3)
    assert caught.value.reason == Reason.SUM_OUT_OF_RANGE


@pytest.mark.parametrize("codec", ["hybrid", "ckks"])
def test_who_shares_keys_neither_deals_nor_is_given_a_sum(codec):
    plan = plan_of(FEW, codec=codec)
    coder, key, values = codec_for(plan.public), key_of(plan), np.zeros(plan.public.values, dtype=np.int32)
    with pytest.raises(ValueError, match="deal"):
        next(coder.encrypt(values, key, ROUND, deal=lambda one: None))
    parts = by_number(coder.encrypt(values, key, ROUND))
    with pytest.raises(ValueError, match="key_sum"):
        coder.decrypt(source(parts), 1, key, ROUND, key_sum=np.zeros(N, dtype=np.int64))


def test_who_splits_keys_has_to_deal_and_to_be_given_a_sum(rng):
    plan = split_plan()
    coder, key, vectors = codec_for(plan.public), key_of(plan), vectors_of(plan, rng, 3)
    with pytest.raises(ValueError, match="deal"):
        next(coder.encrypt(vectors[0], key, ROUND))
    total = fold_all(plan.public, encrypted(plan, key, vectors)[0])
    with pytest.raises(ValueError, match="key_sum"):
        coder.decrypt(source(total), 3, key, ROUND)


def test_a_group_key_for_split_keys_has_no_decryption_key_and_passes_its_self_test():
    plan = split_plan(max_sites=8)
    assert new_key_material(plan.public) == b""
    key = GroupKey.create(plan)
    self_test(key)
    assert len({key.mask_key, key.mac_key, GroupKey.create(plan).mask_key}) == 3
