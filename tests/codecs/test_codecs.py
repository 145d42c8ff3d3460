"""The property of every codec: for any integers within the plan, decrypt(fold(encrypt(x_i))) == sum(x_i), exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tenseal as ts
from hypothesis import given, settings
from hypothesis import strategies as st

import he_agg
from he_agg.codecs import ckks_vectors, codec_for
from he_agg.codecs.base import sum_type
from he_agg.codecs.ckks_vectors import CkksVectors
from he_agg.errors import DecryptionError, InputError, KeystoreError, PlanError, WireError
from he_agg.ids import RoundId
from he_agg.plan.ckks_parameters import CkksParameters
from he_agg.plan.fixedpoint import Quantizing, quantize
from he_agg.plan.plan import PublicPlan
from he_agg.plan.schemes import SCHEMES
from he_agg.plan.sections import Part
from he_agg.ring.encryptor import Encryptor
from he_agg.ring.opener import Opener
from keys import GroupKey
from tests.support.federation import ROUND, by_number, fold_all, key_of, plan_of, source

SIZES = [1, 2, 2045, 2046, 2047, 2048, 4096, 6200]
"""Around the edges of ciphertexts (weight digits and count included), and of the shortest parts."""

MORE_SIZES = {"hybrid": [32_764, 32_765, 32_766, 32_767, 65_534, 65_540, 100_000]}
"""Edges that one codec has besides: of batches."""


def integers(plan, n_sites, seed, edge):
    """Vectors of one kind: everything at +M, at -M, alternating, one-hot by site, or uniform."""
    rng = np.random.default_rng(seed)
    shape, magnitude = (n_sites, plan.values), plan.magnitude
    if edge == "uniform":
        return rng.integers(-magnitude, magnitude, shape, dtype=np.int32, endpoint=True)
    if edge == "one-hot":
        vectors = np.zeros(shape, dtype=np.int32)
        vectors[np.arange(n_sites), rng.integers(0, plan.values, n_sites)] = 1
        return vectors
    vectors = np.full(shape, magnitude, dtype=np.int32)
    if edge == "minus":
        vectors *= -1
    if edge == "alternating":
        vectors[:, ::2] *= -1
    return vectors


@pytest.mark.parametrize("codec", sorted(SCHEMES))
def test_an_entry_is_whole(codec):
    """A plan of it reads back, its codec is made and refuses a plan of another, and FORMAT.md has its section."""
    plan = plan_of(10, codec=codec)
    assert PublicPlan.from_json(plan.public.to_json()) == plan.public
    coder = codec_for(plan.public)
    assert coder.sections == plan.public.sections
    assert SCHEMES[codec].name == codec
    for other in SCHEMES.keys() - {codec}:
        for make in (type(coder), type(coder).new_key_material):
            with pytest.raises(PlanError):
                make(plan_of(10, codec=other).public)
    assert f"\n## Codec `{codec}`\n" in (Path(he_agg.__file__).parent / "FORMAT.md").read_text()


@pytest.mark.parametrize("codec", sorted(SCHEMES))
def test_key_material_that_is_none_is_refused(codec):
    plan = plan_of(10, codec=codec)
    key = GroupKey(plan, 1, b"nothing of the kind", bytes(32))
    with pytest.raises(KeystoreError):
        list(codec_for(plan.public).encrypt(np.zeros(plan.public.values, dtype=np.int32), key, ROUND))


EDGES = [(codec, size) for codec in sorted(SCHEMES) for size in (*SIZES, *MORE_SIZES.get(codec, []))]


@pytest.mark.parametrize(("codec", "size"), EDGES)
@given(data=st.data())
@settings(max_examples=3)
def test_the_opened_sum_is_the_sum(codec, size, data):
    """Many sites where vectors are short: what they add up to and where batches end have nothing to do with another."""
    check_sum(codec, size, data, [2, 5, 12, 40] if size <= max(SIZES) else [2, 5])


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "size"), EDGES)
@given(data=st.data())
@settings(max_examples=50)
def test_the_opened_sum_is_the_sum_of_many(codec, size, data):
    check_sum(codec, size, data, [2, 5, 12, 40])


def check_sum(codec, size, data, most_sites):
    value_bits = data.draw(st.sampled_from([2, 3, 8, 16, 20, 24]), label="value_bits")
    max_sites = data.draw(st.sampled_from(most_sites), label="max_sites")
    plan = plan_of(size, codec=codec, value_bits=value_bits, max_sites=max_sites, part_bytes=2**16)
    n_sites = data.draw(st.sampled_from(sorted({1, 2, max_sites})), label="n_sites")
    edge = data.draw(st.sampled_from(["uniform", "plus", "minus", "alternating", "one-hot"]), label="edge")
    vectors = integers(plan.public, n_sites, data.draw(st.integers(0, 2**32), label="seed"), edge)
    coder, key = codec_for(plan.public), key_of(plan)

    submissions = [by_number(coder.encrypt(vector, key, ROUND)) for vector in vectors]
    order = data.draw(st.permutations(range(n_sites)), label="order")
    total = fold_all(plan.public, [submissions[i] for i in order])
    assert np.array_equal(coder.decrypt(source(total), n_sites, key, ROUND), vectors.sum(axis=0, dtype=np.int64))

    # Any grouping gives the very same bytes: partial sums are sums.
    cut = data.draw(st.integers(0, n_sites), label="cut")
    halves = [fold_all(plan.public, group) for group in (submissions[:cut], submissions[cut:])]
    assert fold_all(plan.public, halves) == total


@pytest.mark.parametrize("codec", sorted(SCHEMES))
def test_integers_made_when_asked_for_encrypt_like_an_array(codec):
    plan = plan_of(100_000, codec=codec, max_sites=5, part_bytes=2**16)
    tensors = {"w": np.linspace(-1, 1, 100_000)}
    coder, key = codec_for(plan.public), key_of(plan)
    parts = by_number(coder.encrypt(Quantizing(plan, tensors, 1), key, ROUND))
    assert np.array_equal(coder.decrypt(source(parts), 1, key, ROUND), quantize(plan, tensors, 1).values)


@pytest.mark.parametrize("codec", sorted(SCHEMES))
@pytest.mark.parametrize(("max_sites", "value_bits", "dtype"), [(5, 16, np.int32), (1000, 24, np.int64)])
def test_sums_are_as_narrow_as_the_plan_allows(codec, max_sites, value_bits, dtype):
    plan = plan_of(5000, codec=codec, max_sites=max_sites, value_bits=value_bits).public
    assert sum_type(plan) == dtype
    assert np.iinfo(sum_type(plan)).max >= 2 * max_sites * plan.magnitude


def test_memory_of_sums_is_never_used_again_while_somebody_has_them():
    plan = plan_of(5000, codec="hybrid")
    coder, key = codec_for(plan.public), key_of(plan)
    one, two = (np.full(plan.public.values, number, np.int32) for number in (1, 2))
    parts = {number: by_number(coder.encrypt(values, key, ROUND)) for number, values in ((1, one), (2, two))}
    first = coder.decrypt(source(parts[1]), 1, key, ROUND)
    second = coder.decrypt(source(parts[2]), 1, key, ROUND)
    view = first[:10]
    del first
    third = coder.decrypt(source(parts[2]), 1, key, ROUND)
    assert np.array_equal(view, one[:10])
    assert np.array_equal(second, two)
    assert np.array_equal(third, two)


@pytest.mark.parametrize("codec", sorted(SCHEMES))
def test_two_encryptions_of_one_vector_differ(codec):
    plan = plan_of(10, codec=codec)
    coder, key = codec_for(plan.public), key_of(plan)
    vector = np.zeros(plan.public.values, dtype=np.int32)
    assert list(coder.encrypt(vector, key, ROUND)) != list(coder.encrypt(vector, key, ROUND))


def test_stock_tenseal_reads_a_ciphertext_of_ours():
    """A ciphertext of ours, put back into a CKKSVector by hand, opens with TenSEAL alone."""
    from he_agg.codecs import seal_format
    from he_agg.kernels.bitpack import unpack

    plan = plan_of(100)
    key, (section,) = key_of(plan), plan.public.sections
    vector = np.arange(plan.public.values, dtype=np.int32)
    (part,) = codec_for(plan.public).encrypt(vector, key, ROUND)
    residues = unpack(part.packed, section.residues, section.modulus_bits).astype(np.uint64)
    context = ts.context_from(key.key_material)
    assert isinstance(plan.public.parameters, CkksParameters)
    scale = 2.0**plan.public.parameters.scale_bits
    _, template = seal_format.read_vector(ts.ckks_vector(context, [0.0] * 2048, scale).serialize())
    ours = seal_format.SealCiphertext(template.version, template.parms_id, scale, residues.reshape(2, 1, 4096))
    opened = ts.ckks_vector_from(context, seal_format.write_vector(2048, ours)).decrypt()
    assert np.rint(opened[: vector.size]).tolist() == vector.tolist()


@pytest.mark.parametrize("codec", sorted(SCHEMES))
def test_values_beyond_the_plan_are_refused_before_tenseal_sees_them(codec):
    plan = plan_of(10, codec=codec)
    vector = np.zeros(plan.public.values, dtype=np.int32)
    for value in (plan.public.magnitude + 1, -plan.public.magnitude - 1):
        vector[3] = value
        with pytest.raises(InputError):
            list(codec_for(plan.public).encrypt(vector, key_of(plan), ROUND))


@pytest.mark.parametrize("codec", sorted(SCHEMES))
def test_a_sum_under_two_keys_is_refused(codec):
    plan = plan_of(10, codec=codec)
    coder, mine, other = codec_for(plan.public), key_of(plan), GroupKey.create(plan)
    vector = np.ones(plan.public.values, dtype=np.int32)
    total = fold_all(plan.public, [list(coder.encrypt(vector, mine, ROUND)), list(coder.encrypt(vector, other, ROUND))])
    for key in (mine, other):
        with pytest.raises(DecryptionError):
            coder.decrypt(source(total), 2, key, ROUND)


@pytest.mark.parametrize("codec", sorted(SCHEMES))
def test_a_key_for_another_plan_is_refused(codec):
    plan, other = plan_of(10, codec=codec), plan_of(11, codec=codec)
    coder = codec_for(plan.public)
    with pytest.raises(KeystoreError):
        coder.encrypt(np.ones(plan.public.values, dtype=np.int32), key_of(other), ROUND)


def test_one_changed_residue_is_refused():
    """Without the MAC of a later release this catches gross changes only; the test pins down that it does."""
    plan = plan_of(10)
    coder, key = codec_for(plan.public), key_of(plan)
    (part,) = coder.encrypt(np.ones(plan.public.values, dtype=np.int32), key, ROUND)
    changed = bytearray(part.packed)
    changed[100] ^= 0x40
    with pytest.raises(DecryptionError):
        coder.decrypt(source([Part(0, bytes(changed))]), 1, key, ROUND)


@pytest.mark.parametrize("codec", sorted(SCHEMES))
@pytest.mark.parametrize(
    "mutate",
    [
        lambda parts, number: parts[number - 1],
        lambda parts, number: Part(number, parts[number].packed[:-1]),
        lambda parts, number: Part(number, bytes(parts[number].packed) + b"\0"),
        lambda parts, number: Part(number, b"\xff" * len(parts[number].packed)),
    ],
    ids=["another part", "too short", "too long", "no residues"],
)
def test_parts_that_are_not_the_ones_asked_for_are_refused(codec, mutate):
    plan = plan_of(40_000, part_bytes=2**16, codec=codec, value_bits=24, max_sites=40)
    coder, key = codec_for(plan.public), key_of(plan)
    parts = by_number(coder.encrypt(np.ones(plan.public.values, dtype=np.int32), key, ROUND))
    assert len(parts) > 2
    assert np.array_equal(coder.decrypt(source(parts), 1, key, ROUND), np.ones(plan.public.values))
    for number in range(len(parts)):

        def mutated(n, bad=number):
            return mutate(parts, n) if n == bad else parts[n]

        with pytest.raises(WireError):
            coder.decrypt(mutated, 1, key, ROUND)


def test_a_sum_of_another_round_does_not_open():
    """The common polynomials of the hybrid codec belong to one attempt of one round."""
    plan = plan_of(3000, codec="hybrid")
    coder, key = codec_for(plan.public), key_of(plan)
    parts = by_number(coder.encrypt(np.ones(plan.public.values, dtype=np.int32), key, ROUND))
    for other in (RoundId("test", 2, 1), RoundId("test", 1, 2)):
        with pytest.raises(DecryptionError):
            coder.decrypt(source(parts), 1, key, other)
    with pytest.raises(InputError):
        coder.encrypt(np.ones(plan.public.values, dtype=np.int32), key, RoundId("another", 1, 1))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads):
    plan = plan_of(300_000, codec="hybrid", part_bytes=2**17, value_bits=24, max_sites=40)
    coder, key = codec_for(plan.public), key_of(plan)
    values = np.random.default_rng(threads).integers(-5, 6, plan.public.values).astype(np.int32)
    parts = list(coder.encrypt(values, key, ROUND, threads=threads))
    assert sorted(part.number for part in parts) == list(range(len(plan.public.places)))
    assert np.array_equal(coder.decrypt(source(by_number(parts)), 1, key, ROUND, threads=threads), values)


@pytest.mark.parametrize("codec", SCHEMES)
def test_who_watches_sees_every_part_as_it_is_handed_over(codec):
    """In order, and all of it by the time that the part is there."""
    plan = plan_of(300_000 if codec == "hybrid" else 6200, codec=codec, part_bytes=2**19)
    seen: dict[int, list[bytes]] = {}

    def watch(number):
        assert number not in seen
        return seen.setdefault(number, []).append

    values = np.arange(plan.public.values, dtype=np.int32) % 7
    count = 0
    for part in codec_for(plan.public).encrypt(values, key_of(plan), ROUND, threads=2, watch=watch):
        assert b"".join(map(bytes, seen[part.number])) == bytes(part.packed)
        count += len(seen[part.number])
    assert sorted(seen) == list(range(len(plan.public.places)))
    assert count > len(seen) or codec != "hybrid"  # some part came in more than one stretch


@pytest.mark.parametrize("codec", SCHEMES)
def test_parts_are_where_they_were_to_be(codec):
    """Each once, those that were made before included."""
    plan = plan_of(300_000 if codec == "hybrid" else 6200, codec=codec, part_bytes=2**17)
    coder, key = codec_for(plan.public), key_of(plan)
    values = np.arange(plan.public.values, dtype=np.int32) % 7
    rooms: dict[int, np.ndarray] = {}

    def room(place):
        assert place.number not in rooms
        return rooms.setdefault(place.number, np.empty(place.packed_bytes, np.uint8))

    first = None
    for seed in (None, bytes(32), bytes(32)):
        rooms.clear()
        for part in coder.encrypt(values, key, ROUND, room=room, seed=seed, key_part=first):
            assert np.shares_memory(np.frombuffer(part.packed, np.uint8), rooms[part.number])
        parts = [Part(number, rooms[number].data) for number in sorted(rooms)]
        assert np.array_equal(coder.decrypt(source(parts), 1, key, ROUND), values)
        if codec == "hybrid" and seed is not None:
            assert first is None or bytes(first.packed) == bytes(rooms[0])
            first = Part(0, bytes(rooms[0]))


def test_an_abandoned_encryption_wipes_its_key(monkeypatch):
    wiped = []
    monkeypatch.setattr(Encryptor, "wipe", lambda self, wipe=Encryptor.wipe: (wipe(self), wiped.append(self)))
    plan = plan_of(300_000, codec="hybrid", part_bytes=2**17)
    parts = codec_for(plan.public).encrypt(np.zeros(plan.public.values, dtype=np.int32), key_of(plan), ROUND)
    next(parts)
    next(parts)
    assert wiped == []
    parts.close()
    (encryptor,) = wiped
    with pytest.raises(ValueError, match="wiped"):
        encryptor.key_coefficients()


@pytest.mark.parametrize("n_sites", [0, 6, -1])
def test_a_number_of_sites_outside_the_plan_is_refused(n_sites):
    plan = plan_of(10)
    with pytest.raises(DecryptionError):
        codec_for(plan.public).decrypt(source([]), n_sites, key_of(plan), ROUND)


def test_a_fault_of_ours_is_not_called_a_value_beyond_the_bound(monkeypatch):
    """Only what the kernels mean by it is the site's mistake, or the aggregator's; anything else comes out as it is."""
    plan = plan_of(10, codec="hybrid")
    coder, key = codec_for(plan.public), key_of(plan)
    vector = np.zeros(plan.public.values, dtype=np.int32)
    parts = by_number(coder.encrypt(vector, key, ROUND))

    def fails(*_arguments):
        raise ValueError("a fault")

    for kind, name in ((Encryptor, "encrypt"), (Opener, "open")):
        monkeypatch.setattr(kind, name, fails)
    with pytest.raises(ValueError, match="a fault"):
        list(coder.encrypt(vector, key, ROUND))
    with pytest.raises(ValueError, match="a fault"):
        coder.decrypt(source(parts), 1, key, ROUND)


@pytest.mark.parametrize("same", [True, False], ids=["one vector", "vectors of their own"])
def test_noise_of_a_sum_is_what_the_parameters_say(same, monkeypatch):
    """The encoder rounds one vector the same way each time: 600 sites that send it have three times the noise."""
    n = 600
    parameters = CkksParameters.choose(127, n)
    vectors = CkksVectors(parameters, key_of(plan_of(10, codec="ckks", value_bits=8, max_sites=n)))
    monkeypatch.setattr(ckks_vectors, "_to_integers", lambda opened, *_: opened)
    rng = np.random.default_rng(5)
    expected, total = np.zeros(vectors.slots), np.zeros(vectors.residues, dtype=np.uint64)
    for i in range(n):
        if i == 0 or not same:
            integers = rng.integers(-127, 128, vectors.slots)
        expected += integers
        total = (total + vectors.encrypt(integers)) % np.uint64(parameters.profile.modulus)
    noise = vectors.decrypt(total, n) - expected
    variance = (10.5 * n + (n**2 if same else n) / 6) * vectors.slots / 4**parameters.scale_bits
    # The mean of 2048 squares has a standard deviation of 0.031 of itself.
    assert 0.75 < np.square(noise).mean() / variance < 1.25
    assert np.abs(noise).max() <= parameters.largest_distance(n)
    assert np.square(noise).sum() <= parameters.largest_square_sum(n)
