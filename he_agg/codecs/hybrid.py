"""The codec `hybrid`: the bulk under a one-time ring key, and that key in one CKKS vector under the group key.

    pack      m_b  = k_0 + k_1*B + ... + k_(v-1)*B^(v-1)      v values a coefficient, B = 2*K*M + 1: sums do not carry
    block b   c_b  = a_b * s + e_b + D*m_b mod q          a_b common to the round, s fresh for this call
    send      h_b  = round(c_b * p/q) mod p               p < q, by its one or two primes
    key       E(s) = one CKKS vector of the coefficients of s; where the plan splits keys: a dealing (he_agg/sharing)
    sum       H_b  = sum of h_b mod p,   E(S) = sum of E(s)
    open      S    = round(decrypt(E(S))), or what holders answer,
              m_b  = round((H_b * q/p - a_b * S mod q) / D), whose digits are the sums

Why this is sound: the bulk is RLWE under a secret that lives for one call, is never an argument and never stored, with
the law of the noise; rounding only forgets. The group key only ever touches one small ciphertext, whose decryption is
rounded to integers before anyone sees it. All a_b are common to the round, so opening costs the same for 3 sites and
for 300, and the sum has the size of one submission.

Source: key-additive homomorphic encryption, Willow (eprint 2024/936).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from he_agg.codecs.base import (
    Deal,
    GroupKey,
    PartSource,
    Room,
    Values,
    Watch,
    beyond_plan,
    check_given,
    check_key,
    check_n_sites,
    check_shape,
    packed_part,
    sum_type,
    unwatched,
)
from he_agg.codecs.ckks_vectors import CkksVectors, OpenedKey, new_secret_context
from he_agg.codecs.hybrid_opening import HybridOpening, first_batch
from he_agg.errors import PlanError, Reason
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import Bytes, pack
from he_agg.kernels.buffers import Buffers
from he_agg.plan.hybrid_parameters import KEY_SECTION, HybridParameters
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import Part, PartPlace, Section
from he_agg.ring.encryptor import Encryptor, ValueBeyondError
from he_agg.ring.keystream import a_key
from he_agg.ring.opener import Opener
from he_agg.ring.params import RingParams

__all__ = ["HybridCodec"]

Task = TypeVar("Task")
Result = TypeVar("Result")


class HybridCodec:
    """Exact integers <-> one key section and one section for each modulus.

    Raises:
        PlanError: a plan of another codec.
    """

    def __init__(self, plan: PublicPlan) -> None:
        self._plan = plan
        self._parameters = _parameters(plan)
        self._ring = RingParams(
            digits=self._parameters.packing,
            primes=self._parameters.primes,
            moduli=self._parameters.moduli,
            delta=self._parameters.delta,
            max_abs_value=self._parameters.magnitude,
            max_sites=self._parameters.max_sites,
        )
        self._opened = OpenedKey(self._parameters.key)
        self._buffers = Buffers()
        self._sums = Buffers(most=1)
        bulk = [place for place in plan.places if place.section.name != KEY_SECTION]
        # Parts of the same coefficients, one of each modulus, belong together.
        limbs = len(self._parameters.moduli)
        self._groups = [tuple(bulk[i : i + limbs]) for i in range(0, len(bulk), limbs)]

    @classmethod
    def new_key_material(cls, plan: PublicPlan) -> bytes:
        """Make a TenSEAL context with a fresh secret key, or nothing where keys are split."""
        return b"" if plan.splits_keys else new_secret_context(_parameters(plan).key.profile)

    @property
    def sections(self) -> tuple[Section, ...]:
        """Moduli and residue counts."""
        return self._plan.sections

    @property
    def repeats(self) -> bool:
        """Yes: all but the part of the one-time key, which TenSEAL makes, follows from the seed."""
        return True

    def encrypt(
        self,
        values: Values,
        key: GroupKey,
        round_id: RoundId,
        *,
        threads: int | None = None,
        watch: Watch = unwatched,
        room: Room | None = None,
        deal: Deal | None = None,
        seed: bytes | None = None,
        key_part: Part | None = None,
    ) -> Generator[Part]:
        """See `Codec.encrypt`. The one-time key comes first, then the limbs of the same values together."""
        check_key(key, self._plan, round_id)
        check_shape(values, self._plan)  # the kernels look at every value themselves
        check_given(self._plan, "deal", deal)
        carrier = deal or key_part or self._opened.vectors(key)
        begin = partial(Encryptor, self._ring, self._a_key(key, round_id), seed)
        return self._encrypt(values, carrier, begin, threads, watch, room or self._own_room)

    def _encrypt(
        self,
        values: Values,
        carrier: Deal | Part | CkksVectors,
        begin: Callable[[], Encryptor],
        threads: int | None,
        watch: Watch,
        room: Room,
    ) -> Generator[Part]:
        with begin() as encryptor:
            if (packed_key := self._carry(encryptor, carrier, room)) is not None:
                watch(self._key_place.number)(packed_key)
                yield Part(self._key_place.number, packed_key.data)

            def encrypt_group(group: tuple[PartPlace, ...]) -> list[Part]:
                span = self._values_of(group)
                integers = values[span]
                out = [room(place) for place in group]
                watching = [watch(place.number) for place in group]
                try:
                    packed = encryptor.encrypt(first_batch(group), integers, out, watching)
                except ValueBeyondError as error:
                    raise beyond_plan(self._plan) from error
                return [Part(place.number, limb.data) for place, limb in zip(group, packed, strict=True)]

            for parts in _in_threads(encrypt_group, self._groups, threads):
                yield from parts

    def _carry(self, encryptor: Encryptor, carrier: Deal | Part | CkksVectors, room: Room) -> Bytes | None:
        """Have the one-time key dealt, or put into the part that it travels in; return that part's residues, packed."""
        if isinstance(carrier, Part):
            packed = room(self._key_place)
            packed[:] = np.frombuffer(carrier.packed, dtype=np.uint8)
            return packed
        coefficients = encryptor.key_coefficients()
        try:
            if not isinstance(carrier, CkksVectors):
                carrier(coefficients)
                return None
            residues = carrier.encrypt(coefficients)
        finally:
            coefficients.fill(0)
        return pack(residues, self._key_place.section.modulus_bits, room(self._key_place))

    def _own_room(self, place: PartPlace) -> Bytes:
        return self._buffers.take(place.packed_bytes)

    def decrypt(
        self,
        total: PartSource,
        n_sites: int,
        key: GroupKey,
        round_id: RoundId,
        *,
        threads: int | None = None,
        key_sum: NDArray[np.int64] | None = None,
    ) -> NDArray[np.signedinteger]:
        """See `Codec.decrypt`."""
        with self.opening(total, n_sites, key, round_id, key_sum=key_sum) as opening:
            if not self._plan.splits_keys:
                opening.take(Part(self._key_place.number, packed_part(total, self._key_place)))
                opening.check()
            for _ in _in_threads(opening.open_group, self._groups, threads):
                pass
            return opening.sums()

    def opening(
        self,
        total: PartSource,
        n_sites: int,
        key: GroupKey,
        round_id: RoundId,
        *,
        key_sum: NDArray[np.int64] | None = None,
    ) -> HybridOpening:
        """See `Codec.opening`. The one-time keys' sum comes first in a sum, and may come last."""
        check_key(key, self._plan, round_id)
        check_n_sites(n_sites, self._plan)
        check_given(self._plan, "key_sum", key_sum)
        dtype, a = sum_type(self._plan), self._a_key(key, round_id)
        return HybridOpening(
            self._plan,
            self._parameters,
            self._groups,
            total,
            n_sites,
            key=self._opened.vectors(key) if key_sum is None else key_sum.copy(),
            make_opener=lambda sum_of_keys: Opener(self._ring, a, sum_of_keys, n_sites),
            sums=self._sums.take(dtype.itemsize * self._plan.values).view(dtype),
            values_of=self._values_of,
        )

    @property
    def _key_place(self) -> PartPlace:
        return self._plan.places[0]

    def _values_of(self, group: tuple[PartPlace, ...]) -> slice:
        """Return the values that a group of parts carries. Parts hold whole batches but for the last."""
        place = group[0]
        first = place.index * place.section.part_residues
        packing = self._parameters.packing
        return slice(first * packing, min((first + place.residues) * packing, self._plan.values))

    def _a_key(self, key: GroupKey, round_id: RoundId) -> bytes:
        plan_id = bytes.fromhex(self._plan.plan_id)
        return a_key(round_id.federation, key.epoch, round_id.number, round_id.attempt, plan_id)


def _parameters(plan: PublicPlan) -> HybridParameters:
    if not isinstance(plan.parameters, HybridParameters):
        raise PlanError(Reason.BAD_PLAN, f"expected a plan of the codec hybrid, got {plan.codec}")
    return plan.parameters


def _in_threads(work: Callable[[Task], Result], tasks: Iterable[Task], threads: int | None) -> Iterator[Result]:
    """Map over tasks in order, at most `threads` at a time and as many results ahead, so that memory stays bounded."""
    width = threads or os.cpu_count() or 1
    if width == 1:
        yield from map(work, tasks)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(width, thread_name_prefix="he-agg") as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) > width:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
