"""Malicious members that hold the group key: they send what they like, and their signatures are right."""

from __future__ import annotations

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

__all__ = ["Member", "WrongTags"]


class WrongTags(RoundMac):
    """Makes tags that do not hold. What is encrypted is right, so it opens for whoever does not look at them."""

    def tags(self, *arguments, **named):
        sections = super().tags(*arguments, **named)
        return ((sections[0][0] ^ 1, *sections[0][1:]), *sections[1:])


class Member:
    """A codec of a member that encrypts what it likes, with the real key: any integers, any noise on top of its own."""

    def __init__(self, plan: Plan, codec: Codec, integers: np.ndarray, noise: np.ndarray) -> None:
        self._plan, self._codec, self._integers, self._noise = plan.public, codec, integers, noise

    def encrypt(self, values, key, round_id, **_) -> Iterator[Part]:
        change = self._ckks if self._plan.codec == "ckks" else self._hybrid
        nothing = np.zeros(self._plan.values, dtype=np.int32)
        for part in self._codec.encrypt(nothing, key, round_id):
            yield change(part, key)

    def _hybrid(self, part: Part, key) -> Part:
        """Add the step times its integers, and noise, to a ciphertext of zeros."""
        place, parameters = self._plan.places[part.number], self._plan.parameters
        if place.section_index == 0:
            return part  # the one-time key
        q, start = place.section.modulus, place.index * place.section.part_residues
        here = slice(start, start + place.residues)
        residues = unpack(part.packed, place.residues, place.section.modulus_bits).astype(np.int64)
        assert isinstance(parameters, HybridParameters)
        residues += parameters.delta % q * (self._integers[here] % q) + self._noise[here]
        return Part(part.number, pack((residues % q).astype(np.uint32), place.section.modulus_bits).data)

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
