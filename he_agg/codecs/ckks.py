"""The codec `ckks`: the whole vector in TenSEAL CKKS vectors under the group key.

Readable by stock TenSEAL: every ciphertext, and every ciphertext of a sum, is an ordinary `CKKSVector`. The reference
codec: slow and large beside `hybrid`, and nothing in it is ours but the rounding and the packing.
"""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType

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
    check_sums,
    packed_part,
    sum_type,
    unwatched,
)
from he_agg.codecs.ckks_vectors import CkksVectors, OpenedKey, new_secret_context
from he_agg.errors import HeAggError, PlanError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import first_not_below, pack, unpack
from he_agg.plan.ckks_parameters import CkksParameters
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import Part, Section

__all__ = ["CkksCodec"]


class CkksCodec:
    """Exact integers <-> parts of CKKS residues.

    Raises:
        PlanError: a plan of another codec.
    """

    def __init__(self, plan: PublicPlan) -> None:
        self._plan = plan
        self._opened = OpenedKey(_parameters(plan))

    @classmethod
    def new_key_material(cls, plan: PublicPlan) -> bytes:
        """Make a TenSEAL context with a fresh secret key. See `Codec.new_key_material`."""
        return new_secret_context(_parameters(plan).profile)

    @property
    def sections(self) -> tuple[Section, ...]:
        """Moduli and residue counts."""
        return self._plan.sections

    @property
    def repeats(self) -> bool:
        """No: TenSEAL takes no seed."""
        return False

    def encrypt(
        self,
        values: Values,
        key: GroupKey,
        round_id: RoundId,
        *,
        threads: int | None = None,  # noqa: ARG002 - TenSEAL holds the interpreter lock
        watch: Watch = unwatched,
        room: Room | None = None,
        deal: Deal | None = None,
        seed: bytes | None = None,  # noqa: ARG002 - TenSEAL takes none
        key_part: Part | None = None,  # noqa: ARG002 - there is no such part
    ) -> Generator[Part]:
        """See `Codec.encrypt`."""
        check_key(key, self._plan, round_id)
        check_shape(values, self._plan)
        check_given(self._plan, "deal", deal)
        integers = values[:]
        if int(integers.max()) > self._plan.magnitude or int(integers.min()) < -self._plan.magnitude:
            # TenSEAL corrupts the neighbours of a large value without a word.
            raise beyond_plan(self._plan)
        return self._encrypt(integers, self._opened.vectors(key), watch, room)

    def _encrypt(
        self, values: NDArray[np.int32], vectors: CkksVectors, watch: Watch, room: Room | None
    ) -> Generator[Part]:
        slots, unit = vectors.slots, vectors.residues
        (section,) = self.sections
        for place in self._plan.places:
            residues = np.empty(place.residues, dtype=np.uint64)
            first = place.index * section.part_residues // unit
            for i in range(place.residues // unit):
                chunk = values[(first + i) * slots : (first + i + 1) * slots]
                residues[i * unit : (i + 1) * unit] = vectors.encrypt(chunk)
            packed = pack(residues, section.modulus_bits, None if room is None else room(place))
            watch(place.number)(packed)
            yield Part(place.number, packed.data)

    def decrypt(
        self,
        total: PartSource,
        n_sites: int,
        key: GroupKey,
        round_id: RoundId,
        *,
        threads: int | None = None,  # noqa: ARG002 - TenSEAL holds the interpreter lock
        key_sum: NDArray[np.int64] | None = None,
    ) -> NDArray[np.signedinteger]:
        """See `Codec.decrypt`."""
        with self.opening(total, n_sites, key, round_id, key_sum=key_sum) as opening:
            for place in self._plan.places:
                opening.take(Part(place.number, packed_part(total, place)))
                opening.check()
            return opening.sums()

    def opening(
        self,
        total: PartSource,  # noqa: ARG002 - a part opens by itself
        n_sites: int,
        key: GroupKey,
        round_id: RoundId,
        *,
        key_sum: NDArray[np.int64] | None = None,
    ) -> CkksOpening:
        """See `Codec.opening`."""
        check_key(key, self._plan, round_id)
        check_n_sites(n_sites, self._plan)
        check_given(self._plan, "key_sum", key_sum)
        return CkksOpening(self._plan, self._opened.vectors(key), n_sites)


class CkksOpening:
    """A sum that is opened part by part. See `Opening`. A class because what was opened is wiped unless handed out."""

    def __init__(self, plan: PublicPlan, vectors: CkksVectors, n_sites: int) -> None:
        self._plan, self._vectors, self._n_sites = plan, vectors, n_sites
        (section,) = plan.sections
        self._sums = np.zeros(section.residues // vectors.residues * vectors.slots, dtype=np.int64)
        self._missing = {place.number for place in plan.places}
        self._fault: HeAggError | None = None

    def take(self, part: Part) -> None:
        """See `Opening.take`."""
        self._missing.remove(part.number)
        place, vectors = self._plan.places[part.number], self._vectors
        section, unit, slots = place.section, vectors.residues, vectors.slots
        position = place.index * section.part_residues // unit * slots
        try:
            residues = unpack(packed_part(lambda _: part, place), place.residues, section.modulus_bits)
            if (bad := first_not_below(residues, section.modulus)) >= 0:
                raise WireError(Reason.RESIDUE_OUT_OF_RANGE, f"sum, part {place.number}: residue {bad} is not below q")
            for start in range(0, place.residues, unit):
                sums = vectors.decrypt(residues[start : start + unit], self._n_sites)
                self._sums[position : position + slots] = sums
                position += slots
        except HeAggError as error:
            self._fault = self._fault or error

    def check(self) -> None:
        """Raise what was wrong with a part, if anything was."""
        if self._fault is not None:
            raise self._fault

    def sums(self) -> NDArray[np.signedinteger]:
        """See `Opening.sums`."""
        if self._missing:
            raise ValueError(f"{len(self._missing)} parts were not taken")
        self.check()
        sums = self._sums[: self._plan.values]
        check_sums(max(int(sums.max()), -int(sums.min())), self._n_sites, self._plan)
        return sums.astype(sum_type(self._plan))

    def __enter__(self) -> CkksOpening:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sums.fill(0)


def _parameters(plan: PublicPlan) -> CkksParameters:
    if not isinstance(plan.parameters, CkksParameters):
        raise PlanError(Reason.BAD_PLAN, f"expected a plan of the codec ckks, got {plan.codec}")
    return plan.parameters
