"""Malicious members that hold the group key: they send what they like, and their signatures are right."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from he_agg import Plan
from he_agg.codecs import Codec
from he_agg.codecs.ckks_vectors import CkksVectors
from he_agg.kernels.bitpack import pack, unpack
from he_agg.mac import RoundMac
from he_agg.plan.ckks_parameters import CkksParameters
from he_agg.plan.hybrid_parameters import HybridParameters
from he_agg.plan.sections import Part
from he_agg.ring.keystream import a_key
from he_agg.ring.primes import BATCH, N
from tests.attacks.recovery import Ring, polynomial
from tests.ring import deterministic, reference
from tests.ring.sets import ring_of

__all__ = ["Member", "WrongTags"]


class WrongTags(RoundMac):
    """Makes tags that do not hold. What is encrypted is right, so it opens for whoever does not look at them."""

    def tags(self, *arguments, **named):
        parts = super().tags(*arguments, **named)
        return ((parts[0][0] ^ 1, *parts[0][1:]), *parts[1:])


class Member:
    """A codec of a member that encrypts what it likes, with the real key: any integers, any noise.

    Args:
        plan: the federation's plan.
        codec: the honest codec, which makes what this one leaves alone.
        integers: instead of its values; of any size.
        noise: for `hybrid` instead of e, in units of the ring, in every coefficient; for `ckks` on top of its own, as a
            part of a step, in every value.
        one_time_key: for `hybrid` instead of one that is drawn; of any size.
    """

    repeats = False
    """Nothing leaves before all of it is made: it could not make it again."""

    def __init__(
        self,
        plan: Plan,
        codec: Codec,
        integers: np.ndarray,
        noise: float = 0.0,
        one_time_key: np.ndarray | None = None,
    ) -> None:
        self._plan, self._codec, self._integers, self._noise = plan.public, codec, integers, noise
        self._made_up = one_time_key

    def encrypt(self, values, key, round_id, *, watch, room, **_) -> Iterator[Part]:
        for part in self._encrypt(key, round_id):
            packed = room(self._plan.places[part.number])
            packed[:] = np.frombuffer(part.packed, np.uint8)
            watch(part.number)(packed)
            yield Part(part.number, packed.data)

    def _encrypt(self, key, round_id) -> Iterator[Part]:
        parts = self._codec.encrypt(np.zeros(self._plan.values, dtype=np.int32), key, round_id)
        if isinstance(self._plan.parameters, HybridParameters):
            carrier, parameters = next(parts), self._plan.parameters
            s = self._one_time_key(carrier, key) if self._made_up is None else self._made_up
            yield carrier if self._made_up is None else self._carrying(s, parameters.key, key)
            yield from self._bulk(parameters, s, key, round_id)
        else:
            yield from (self._ckks(part, key) for part in parts)

    def _one_time_key(self, carrier: Part, key) -> np.ndarray:
        """Read its own one-time key out of the vector that carries it."""
        assert isinstance(self._plan.parameters, HybridParameters)
        place = self._plan.places[carrier.number]
        residues = unpack(carrier.packed, place.residues, place.section.modulus_bits)
        return CkksVectors(self._plan.parameters.key, key).decrypt(residues, 1)[:N]

    def _carrying(self, s: np.ndarray, parameters: CkksParameters, key) -> Part:
        """Encrypt a key that SEAL's encoder may refuse: its polynomial modulo q, on top of an encryption of zeros."""
        place, q = self._plan.places[0], parameters.profile.modulus
        ring = Ring(parameters.profile.ring_degree, q)
        encoded = np.rint(2**parameters.scale_bits * polynomial(s.astype(np.float64))).astype(np.int64)
        residues = CkksVectors(parameters, key).encrypt(np.zeros(N)).astype(np.int64)
        residues[: ring.n] += ring.to_seal(ring.evaluate(encoded)).astype(np.int64)
        return Part(place.number, pack((residues % q).astype(np.uint64), place.section.modulus_bits).data)

    def _bulk(self, parameters: HybridParameters, s: np.ndarray, key, round_id) -> Iterator[Part]:
        """Encrypt as an honest site does, a*s + e + D*m rounded, but for m and e, which are of any size."""
        a = a_key(round_id.federation, key.epoch, round_id.number, round_id.attempt, bytes.fromhex(self._plan.plan_id))
        ring, sent = ring_of(parameters), []
        whole, p = ring.digits * BATCH, math.prod(ring.moduli)
        for batch, start in enumerate(range(0, self._integers.size, whole)):
            m = reference.pack_digits(self._integers[start : start + whole], ring.digits, ring.base)
            limbs = [deterministic.common(a, limb, batch, q) for limb, q in enumerate(ring.primes)]
            products = [deterministic.product(x, s, q).tolist() for x, q in zip(limbs, ring.primes, strict=True)]
            added = [ring.delta * x + round(self._noise) for x in m]
            exact = (x + y for x, y in zip(reference.join(products, ring.primes), added, strict=False))
            sent += [reference.rounded(c % ring.modulus, p, ring.modulus) for c in exact]
        for place in self._plan.places:
            if place.section_index:
                first, section = place.index * place.section.part_residues, place.section
                residues = np.array([h % section.modulus for h in sent[first : first + place.residues]], np.uint32)
                yield Part(place.number, pack(residues, section.modulus_bits).data)

    def _ckks(self, part: Part, key) -> Part:
        """Encrypt its integers, and noise as a part of a step, with TenSEAL."""
        assert isinstance(self._plan.parameters, CkksParameters)
        vectors, place = CkksVectors(self._plan.parameters, key), self._plan.places[part.number]
        values = np.zeros(-(-self._plan.values // vectors.slots) * vectors.slots)
        values[: self._plan.values] = self._integers + self._noise
        first, count = place.index * place.section.part_residues, place.residues // vectors.residues
        chunks = np.split(values, values.size // vectors.slots)[first // vectors.residues :][:count]
        # TenSEAL encodes floats; `CkksVectors.encrypt` passes them on as they are.
        residues = np.concatenate([vectors.encrypt(chunk) for chunk in chunks])
        return Part(part.number, pack(residues, place.section.modulus_bits).data)
