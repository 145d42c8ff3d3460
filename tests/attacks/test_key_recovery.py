"""Safe release: what our API gives out can be published, and the server that holds every ciphertext learns no key.

The same attack, on the same kind of ciphertexts, first where it works (stock TenSEAL; our own ciphertexts, opened
without rounding) and then on what the API returns. The first half shows that the second can fail.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import tenseal as ts

from he_agg import Layout, Plan
from he_agg.codecs import ckks_vectors, codec_for
from he_agg.codecs.ckks_vectors import CkksVectors
from he_agg.codecs.seal_format import read_vector
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import unpack
from he_agg.plan import fixedpoint
from he_agg.plan.security import NOISE_BOUND
from he_agg.ring.keystream import a_key
from he_agg.ring.primes import BATCH, LANES, N
from tests.attacks.recovery import Observed, Ring, ckks_key, real_slots, ring_key
from tests.ring import reference
from tests.support.federation import by_number, fold_all, key_of, source

sealapi = pytest.importorskip("tenseal.sealapi")

SITES = 5
WEIGHTS = [1, 4, 10, 2, 3]
LITTLE = 0.01
"""Of a key that was not found, fewer coefficients than this look like one. Of random residues it is 3/q for a ternary
key, 211/q for the sum of five one-time keys."""

cached_ring = cache(Ring)


def ternary(key) -> float:
    return float(np.mean([abs(int(x)) <= 1 for x in key]))


def updates(kind: str, n_values: int, seed: int) -> np.ndarray:
    if kind == "zero":
        return np.zeros((SITES, n_values))
    return np.random.default_rng(seed).normal(0, 0.05, (SITES, n_values)).clip(-1, 1)


# Stock TenSEAL, at NVFlare's parameters.


class Stock:
    """Two sums of ciphertexts of 4096 values each, as the server has them, and the first site's first ciphertext."""

    degree, bits, scale = 8192, [60, 40, 40], 2.0**40

    def __init__(self, kind: str) -> None:
        context = ts.context(
            ts.SCHEME_TYPE.CKKS,
            self.degree,
            coeff_mod_bit_sizes=self.bits,
            encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
        )
        prime = sealapi.CoeffModulus.Create(self.degree, self.bits)[1].value()
        self.ring = cached_ring(self.degree, prime)
        self.plaintexts = updates(kind, self.degree, 1)
        self.sums, self.means, self.firsts = [], [], []
        for half in np.split(self.plaintexts, 2, axis=1):
            vectors = [ts.ckks_vector(context, values.tolist(), self.scale) for values in half]
            self.firsts.append(self._limb(vectors[0]))
            total = vectors[0]
            for vector in vectors[1:]:
                total = total + vector
            self.sums.append(self._limb(total))
            self.means.append(np.array(total.decrypt()) / SITES)

    def _limb(self, vector):
        _, ciphertext = read_vector(vector.serialize())
        assert ciphertext.residues.shape == (2, 2, self.degree)
        return ciphertext.residues[:, 1]

    def attack(self, published) -> np.ndarray:
        observed = [
            Observed(c0, c1, mean.astype(np.float64) * SITES * self.scale)
            for (c0, c1), mean in zip(self.sums, published, strict=True)
        ]
        return ckks_key(self.ring, *observed)

    def read_update(self, key) -> np.ndarray:
        """The first site's own values, with the key that was found."""
        ring, (c0, c1) = self.ring, self.firsts[0]
        at_roots = (ring.from_seal(c0) + ring.from_seal(c1) * ring.evaluate(key % ring.q)) % ring.q
        return real_slots(ring.interpolate(at_roots).astype(np.float64)) / self.scale


@pytest.mark.parametrize(("kind", "dtype"), [("random", np.float64), ("zero", np.float64), ("zero", np.float32)])
def test_stock_tenseal_gives_its_key_away(kind, dtype):
    stock = Stock(kind)
    key = stock.attack([mean.astype(dtype) for mean in stock.means])
    assert ternary(key) == 1.0
    # And it is the key: the server reads one site's update with it.
    assert np.abs(stock.read_update(key) - stock.plaintexts[0, : stock.degree // 2]).max() < 2**-20


def test_rounding_would_have_saved_it():
    stock = Stock("random")
    assert ternary(stock.attack([np.rint(mean * 2**24) / 2**24 for mean in stock.means])) < LITTLE


# What we release.


class Round:
    """One round of ours: the residues that the server has, and everything that the API gives out.

    The attacker is given more than a server has: the plan's layout and the sum of the weights, so that the mean can be
    scaled back to the integers.
    """

    def __init__(self, codec: str, kind: str, dtype: str, n_values: int, number: int = 1) -> None:
        self.round_id = RoundId("test", number, 1)
        self.plan, self.key = _plan(codec, dtype, n_values)
        self.public, coder = self.plan.public, codec_for(self.plan.public)
        submissions = []
        for update, weight in zip(updates(kind, n_values, number), WEIGHTS, strict=True):
            values = fixedpoint.quantize(self.plan, {"w": update.astype(dtype)}, weight).values
            submissions.append(by_number(coder.encrypt(values, self.key, self.round_id)))
        self.parts = fold_all(self.public, submissions)
        self.sums = coder.decrypt(source(self.parts), SITES, self.key, self.round_id)
        mean = fixedpoint.dequantize(self.plan, self.sums, SITES)
        tensor = mean.tensors["w"]
        assert tensor.dtype == dtype
        self.released = {
            "sums": self.sums.astype(np.float64),
            "sums of the mean": mean.sums.astype(np.float64),
            "mean": tensor.astype(np.float64) / mean.resolution["w"],
        }

    def residues(self, section: int) -> np.ndarray:
        places = [p for p in self.public.places if p.section_index == section]
        return np.concatenate([unpack(self.parts[p.number].packed, p.residues, p.section.modulus_bits) for p in places])


@cache
def _plan(codec: str, dtype: str, n_values: int):
    layout = Layout.of({"w": np.zeros(n_values, dtype=dtype)}, clip=1.0, weight_cap=10)
    plan = Plan.create("test", layout, max_sites=SITES, codec=codec)
    return plan, key_of(plan)


@pytest.fixture
def unrounded(monkeypatch):
    """Opens one of our CKKS vectors as TenSEAL does, noise and all. What must never be public."""

    def opened(parameters, key, residues) -> np.ndarray:
        with monkeypatch.context() as patch:
            patch.setattr(ckks_vectors, "_to_integers", lambda values, *_: values)
            return CkksVectors(parameters, key).decrypt(residues, SITES)

    return opened


EVERY_RELEASE = [(kind, dtype) for kind in ("random", "zero") for dtype in ("float64", "float32")]


@pytest.mark.parametrize(("kind", "dtype"), EVERY_RELEASE)
def test_codec_ckks_releases_nothing_of_the_key(kind, dtype, unrounded):
    parameters = _plan("ckks", dtype, 5000)[0].public.parameters
    n, slots, scale = parameters.profile.ring_degree, parameters.profile.slots, 2.0**parameters.scale_bits
    made = Round("ckks", kind, dtype, 5000)
    ring = cached_ring(n, parameters.profile.modulus)
    ciphertexts = made.residues(0).reshape(-1, 2, n)[:2]

    def attack(values) -> np.ndarray:
        return ckks_key(ring, *(Observed(c0, c1, v * scale) for (c0, c1), v in zip(ciphertexts, values, strict=True)))

    noisy = [unrounded(parameters, made.key, c.reshape(-1)) for c in ciphertexts]
    key = attack(noisy)
    assert ternary(key) == 1.0  # the attack fits these ciphertexts
    for name, values in made.released.items():
        found = attack(values[: 2 * slots].reshape(2, slots))
        assert ternary(found) < LITTLE, name
        assert np.mean(found == key) < LITTLE, name


@pytest.mark.parametrize(("kind", "dtype"), EVERY_RELEASE)
def test_codec_hybrid_releases_nothing_of_the_one_time_keys(kind, dtype):
    """The bulk: from the sum's residues and what is released to the sum of the one-time keys."""
    made = Round("hybrid", kind, dtype, 2 * BATCH + 100)
    parameters = made.public.parameters
    p, q = math.prod(parameters.moduli), parameters.modulus
    assert parameters.packing == 2
    delta, base, first = parameters.delta, 2 * SITES * parameters.magnitude + 1, parameters.primes[0]
    # The first polynomial of the first batch, lifted to the ring again, and the attack modulo one of its primes.
    sent = [made.residues(1 + i)[:BATCH:LANES].tolist() for i in range(len(parameters.moduli))]
    lane = np.array([(2 * h * q + p) // (2 * p) for h in reference.join(sent, parameters.moduli)], dtype=object)
    ring = cached_ring(N, first)
    public = a_key("test", made.key.epoch, 1, 1, bytes.fromhex(made.plan.plan_id))
    a = reference.uniform(public, 0, 0, first)[:, 0]

    def packed(values) -> np.ndarray:
        """The integers of this polynomial's coefficients."""
        return sum(
            np.rint(values[j * BATCH : (j + 1) * BATCH : LANES]).astype(int).astype(object) * base**j for j in (0, 1)
        )

    # What the one-time keys are, from the group key; and D*M + E, which a site has in memory for an instant.
    key = CkksVectors(parameters.key, made.key).decrypt(made.residues(0), SITES)[:N]
    noisy = (lane - np.array(reference.key_products(parameters.primes, public, key, 0)[::LANES], dtype=object)) % q
    noisy = np.where(noisy > q // 2, noisy - q, noisy)
    assert max(abs(noisy - packed(made.sums) * delta)) < delta // 2
    assert np.array_equal(ring_key(ring, a, lane, noisy), key)
    if kind == "zero":  # float32 keeps all digits of noise that has nothing to hide behind
        single = (noisy.astype(np.float64) / delta).astype(np.float32).astype(np.float64)
        assert np.array_equal(ring_key(ring, a, lane, np.rint(single * delta).astype(np.int64)), key)

    for name, released in made.released.items():
        found = ring_key(ring, a, lane, packed(released) * delta)
        assert np.mean(np.abs(found) <= NOISE_BOUND * SITES) < LITTLE, name
        assert np.mean(found == key) < LITTLE, name


def test_codec_hybrid_releases_nothing_of_the_group_key(unrounded):
    """The key's vector: three rounds, and an attacker who even knows the sums of the one-time keys."""
    rounds = [Round("hybrid", "zero", "float32", 100, number) for number in (1, 2, 3)]
    parameters = rounds[0].public.parameters.key
    ring, scale = cached_ring(parameters.profile.ring_degree, parameters.profile.modulus), 2.0**parameters.scale_bits
    ciphertexts = [made.residues(0) for made in rounds]
    vectors = CkksVectors(parameters, rounds[0].key)

    def attack(opened) -> np.ndarray:
        halves = [np.split(c, 2) for c in ciphertexts]
        observed = (Observed(c0, c1, v * scale) for (c0, c1), v in zip(halves, opened, strict=True))
        return ckks_key(ring, *observed)

    key = attack([unrounded(parameters, rounds[0].key, c) for c in ciphertexts])
    assert ternary(key) == 1.0
    found = attack([vectors.decrypt(c, SITES).astype(np.float64) for c in ciphertexts])
    assert ternary(found) < LITTLE
    assert np.mean(found == key) < LITTLE
