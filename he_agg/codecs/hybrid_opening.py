"""Open a sum of the codec `hybrid` as its parts come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from he_agg.codecs.base import OFF_GRID_HINT, PartSource, check_sums, packed_part
from he_agg.codecs.ckks_vectors import CkksVectors
from he_agg.errors import DecryptionError, HeAggError, Reason, WireError
from he_agg.kernels.bitpack import first_not_below, unpack
from he_agg.plan.hybrid_parameters import HybridParameters
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import Part, PartPlace
from he_agg.plan.security import NOISE_BOUND
from he_agg.ring.opener import Opener, ResidueError
from he_agg.ring.primes import BATCH, N

__all__ = ["HybridOpening", "first_batch"]

Group = tuple[PartPlace, ...]
"""Parts of the same coefficients, one of each modulus: they are opened together."""


class HybridOpening:
    """A sum that is opened group by group, as soon as a group's parts and the sum of keys are there.

    A class because parts come in any order and from threads, and what was opened is wiped unless it is handed out.

    Args:
        make_opener: takes the sum of keys.
        sums: where the sums go.
        key: opens the part with the sum of keys, or is the sum itself, where the plan splits keys. Wiped.
        values_of: which values a group carries.
    """

    def __init__(
        self,
        plan: PublicPlan,
        parameters: HybridParameters,
        groups: Sequence[Group],
        total: PartSource,
        n_sites: int,
        *,
        key: CkksVectors | NDArray[np.int64],
        make_opener: Callable[[NDArray[np.int64]], Opener],
        sums: NDArray[np.signedinteger],
        values_of: Callable[[Group], slice],
    ) -> None:
        self._plan, self._parameters, self._total, self._n_sites = plan, parameters, total, n_sites
        self._make_opener, self._sums, self._values_of = make_opener, sums, values_of
        self._groups = {place.number: group for group in groups for place in group}
        self._missing = {place.number for place in plan.places}
        self._waiting: list[Group] = []
        self._found: list[tuple[int, int, int]] = []
        self._lock = threading.Lock()
        self._fault: HeAggError | None = None
        self._opener: Opener | None = None
        self._vectors = key if isinstance(key, CkksVectors) else None
        if isinstance(key, np.ndarray):
            self._use(key)

    def take(self, part: Part) -> None:
        """See `Opening.take`."""
        with self._lock:
            if part.number not in self._missing:
                raise ValueError(f"part {part.number} was taken before, or is none of the plan")
            self._missing.remove(part.number)
        if part.number not in self._groups:
            self._use(self._key_sum(part))
            with self._lock:
                ready, self._waiting = self._waiting, []
            for group in ready:
                self._open(group, self._total)
            return
        group = self._groups[part.number]
        with self._lock:
            if any(place.number in self._missing for place in group):
                return
            if self._opener is None:
                self._waiting.append(group)
                return
        self._open(group, lambda number: part if number == part.number else self._total(number))

    def sums(self) -> NDArray[np.signedinteger]:
        """See `Opening.sums`."""
        if self._missing:
            raise ValueError(f"{len(self._missing)} parts were not taken")
        self.check()
        distances, squares, largest = zip(*self._found, strict=True)
        too_far = max(distances) > self._parameters.largest_distance(self._n_sites)
        coefficients = next(iter(self._groups.values()))[0].section.residues
        if too_far or sum(squares) > self._parameters.largest_square_sum(self._n_sites, coefficients):
            raise DecryptionError(Reason.OFF_GRID, "the sum did not open to integers", OFF_GRID_HINT)
        check_sums(max(largest), self._n_sites, self._plan)
        sums, self._sums = self._sums, self._sums[:0]
        return sums

    def check(self) -> None:
        """Raise what was wrong with a part, if anything was. See `sums`."""
        if self._fault is not None:
            raise self._fault

    def open_group(self, group: Group) -> None:
        """Open a group out of the source, and raise at once what is wrong with it. The sum of keys must be there."""
        with self._lock:
            self._missing.difference_update(place.number for place in group)
        self._open(group, self._total)
        self.check()

    def _open(self, group: Group, total: PartSource) -> None:
        opener = self._opener
        if opener is None:
            raise ValueError("the sum of keys is not there yet")
        try:
            packed = [np.frombuffer(packed_part(total, place), dtype=np.uint8) for place in group]
            found = opener.open(first_batch(group), packed, self._sums[self._values_of(group)])
        except ResidueError:
            numbers = ", ".join(str(place.number) for place in group)
            self._refuse(
                WireError(Reason.RESIDUE_OUT_OF_RANGE, f"sum, part {numbers}: a residue is not below its modulus")
            )
        except HeAggError as error:
            self._refuse(error)
        else:
            with self._lock:
                self._found.append(found)

    def _use(self, key_sum: NDArray[np.int64]) -> None:
        opener = self._make_opener(key_sum)
        key_sum.fill(0)
        with self._lock:
            self._opener = opener

    def _key_sum(self, part: Part) -> NDArray[np.int64]:
        """Open the sum of keys; zeros if it does not open, so that the rest takes the same time."""
        place = self._plan.places[part.number]
        section = place.section
        if self._vectors is None:
            raise ValueError("a sum of keys was given, and one came")
        try:
            residues = unpack(packed_part(lambda _: part, place), place.residues, section.modulus_bits)
            if (bad := first_not_below(residues, section.modulus)) >= 0:
                raise WireError(Reason.RESIDUE_OUT_OF_RANGE, f"sum, part {place.number}: residue {bad} is not below q")
            key_sum = self._vectors.decrypt(residues, self._n_sites)[:N]
            if int(np.abs(key_sum).max()) > NOISE_BOUND * self._n_sites:
                raise DecryptionError(
                    Reason.SUM_OUT_OF_RANGE,
                    f"expected the sum of {self._n_sites} one-time keys, got something else",
                    OFF_GRID_HINT,
                )
        except HeAggError as error:
            self._refuse(error)
            return np.zeros(N, dtype=np.int64)
        return key_sum

    def _refuse(self, error: HeAggError) -> None:
        with self._lock:
            self._fault = self._fault or error

    def __enter__(self) -> HybridOpening:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sums.fill(0)  # what was handed out is not here any more; of the rest the memory is used again
        if self._opener is not None:
            self._opener.wipe()

    def __repr__(self) -> str:
        return f"HybridOpening({len(self._missing)} of {len(self._plan.places)} parts are missing)"


def first_batch(group: Group) -> int:
    """Return the number of the first batch of a group. Parts hold whole batches but for the last."""
    return group[0].index * group[0].section.part_residues // BATCH
