"""Define the codec: what each does, what it needs of a key, and the checks they share."""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import DecryptionError, InputError, KeystoreError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import Bytes
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import Part, PartPlace, Section

__all__ = [
    "OFF_GRID_HINT",
    "Codec",
    "Deal",
    "GroupKey",
    "Integers",
    "Opening",
    "PartSource",
    "Room",
    "Values",
    "Watch",
    "beyond_plan",
    "check_given",
    "check_key",
    "check_n_sites",
    "check_shape",
    "check_sums",
    "packed_part",
    "sum_type",
    "unwatched",
]

PartSource = Callable[[int], Part]
"""Hands over one part of a sum by its number. A codec asks for each once, in an order of its own, so that a sum never
has to be in memory whole."""


Watch = Callable[[int], Callable[[Bytes], None]]
"""Is asked before a part is made, by its number, who looks at it. That one is called with the part's packed residues,
stretch by stretch, in order, in the thread that has just made them: while they are in its cache. All stretches but the
last are whole batches. Several threads ask at a time, each for parts of its own."""


Room = Callable[[PartPlace], Bytes]
"""Says where the packed residues of a part are to be. Asked once a part, by several threads. Shape: (packed_bytes,)."""


Deal = Callable[[NDArray[np.int8]], None]
"""Is handed the coefficients of a one-time key where a plan splits keys, before anything is encrypted under it. They
are secret, and zeros after the call."""


def unwatched(_: int) -> Callable[[Bytes], None]:
    """Have nobody look at a part. See `Watch`."""
    return lambda _: None


class Integers(Protocol):
    """Integers that are made when they are asked for. An array of int32 will do as well."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(plan.values,)."""

    @property
    def dtype(self) -> np.dtype[np.int32]:
        """int32."""

    def __getitem__(self, span: slice, /) -> NDArray[np.int32]:
        """Return a span of them, contiguous and in order; from any thread."""


OFF_GRID_HINT = "most likely a site used another group key; compare key ids with `he-agg keys show`"
"""What to say of a sum that does not open to integers."""


Values = NDArray[np.int32] | Integers
"""What a codec encrypts. It asks for each span once."""


class GroupKey(Protocol):
    """The secret that all sites of an epoch share, as far as a codec sees it. `keys.GroupKey` is the real one."""

    @property
    def key_id(self) -> str:
        """Commitment to the secret, 64 hex digits; safe to publish."""

    @property
    def plan_id(self) -> str:
        """The plan it was made for."""

    @property
    def epoch(self) -> int:
        """Number of the epoch."""

    @property
    def key_material(self) -> bytes:
        """What `Codec.new_key_material` made for the plan; only that codec can read it. Secret."""


class Opening(Protocol):
    """A sum that is opened as its parts come. Use it as a context manager: what is not handed out is wiped at the end.

    Until `sums`, nothing that a caller could notice depends on what parts open to, but for time that it may take.
    """

    def take(self, part: Part) -> None:
        """Open what can be opened now that one more part is there. In any order; any thread may.

        Args:
            part: one of the sum, which was verified. Nothing of it is kept after the call; what it takes several parts
                to open is asked of the source again.
        """

    def sums(self) -> NDArray[np.signedinteger]:
        """Hand over the sums, when all parts were taken. See `Codec.decrypt` for what it returns and raises."""

    def __enter__(self) -> Opening: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Codec(Protocol):
    """Exact integers <-> parts of residues.

    The property of every codec: for any integers within the plan, `decrypt` of the residue-wise sum of
    `encrypt(x_i)` is `sum(x_i)`, exactly, in any order and any grouping.
    """

    def __init__(self, plan: PublicPlan) -> None:
        """Take the public half of a plan.

        Raises:
            PlanError: a plan of another codec.
        """

    @classmethod
    def new_key_material(cls, plan: PublicPlan) -> bytes:
        """Make the secret part of a group key, fresh from the operating system's randomness.

        Opaque to everybody else: `encrypt` and `decrypt` read it, and refuse what is not theirs.

        Raises:
            PlanError: a plan of another codec.
        """

    @property
    def sections(self) -> tuple[Section, ...]:
        """Moduli and residue counts: all that the aggregator ever needs."""

    @property
    def repeats(self) -> bool:
        """Whether the same seed and integers give the same parts again, but for the part of the one-time key.

        Only then may parts leave before all are made: a process that is killed in between has to go on with them.
        """

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
        """Encrypt one vector under fresh randomness, part by part, each part once, in an order of the codec's own.

        Args:
            values: the integers. Shape: (plan.values,), each at most `plan.magnitude` in absolute value.
            round_id: the attempt that it is for; it opens in no other.
            threads: how many parts to work on at a time; all cores if left out.
            watch: looks at residues as they are made; when a part is handed over it has seen all of it.
            room: where parts go; memory of the codec's own if left out.
            deal: deals the one-time key, where the plan splits keys; there it must be given, and elsewhere not.
            seed: what randomness follows from, where the codec `repeats`; the operating system's if left out. Of these
                very integers and no others. Secret. 32 bytes.
            key_part: the part of the one-time key, which comes first, as it was made with that seed before: it is
                handed over again instead of another one.

        Raises:
            InputError: another shape or dtype; while iterating, a value beyond the plan.
            KeystoreError: a key made for another plan, or whose material is not this codec's.
        """

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
        """Open a sum, exactly.

        Args:
            n_sites: how many submissions were added.
            round_id: the attempt that it is the sum of.
            threads: how many parts to work on at a time; all cores if left out.
            key_sum: the sum of the one-time keys, where the plan splits keys; there it must be given, and elsewhere
                not. Secret; wiping it is the caller's business.

        Returns:
            The sums, int32 where all of them fit, else int64. Shape: (plan.values,).

        Raises:
            DecryptionError: the sum did not open to integers within `n_sites * plan.magnitude`; nothing is released.
            KeystoreError: a key made for another plan, or whose material is not this codec's.
            WireError: a part of another number or length, or with a residue out of range.
        """

    def opening(
        self,
        total: PartSource,
        n_sites: int,
        key: GroupKey,
        round_id: RoundId,
        *,
        key_sum: NDArray[np.int64] | None = None,
    ) -> Opening:
        """Open a sum as its parts come. For arguments and what is raised see `decrypt`.

        Args:
            total: is asked again for parts that were taken.
        """


def check_key(key: GroupKey, plan: PublicPlan, round_id: RoundId) -> None:
    """Refuse a key of another plan, and a round of another federation.

    Raises:
        KeystoreError: another plan.
        InputError: another federation.
    """
    if key.plan_id != plan.plan_id:
        raise KeystoreError(
            Reason.KEY_MISMATCH,
            f"expected a group key for plan {plan.plan_id[:12]}, got key {key.key_id[:12]} for plan {key.plan_id[:12]}",
            "ask the coordinator for the group key of this plan",
        )
    if round_id.federation != plan.federation:
        raise InputError(
            Reason.PLAN_MISMATCH, f"expected a round of federation {plan.federation}, got {round_id.federation}"
        )


def check_given(plan: PublicPlan, what: str, given: object) -> None:
    """Check that what belongs to split keys is given where, and only where, a plan splits them.

    Raises:
        ValueError: it is not: a fault of the caller.
    """
    if (given is None) == plan.splits_keys:
        raise ValueError(f"{what} is given where, and only where, a plan splits keys; this one: {plan.keys}")


def check_shape(values: Values, plan: PublicPlan) -> None:
    """Refuse a vector that is not the plan's.

    Raises:
        InputError: another shape or dtype.
    """
    if values.shape != (plan.values,) or values.dtype != np.int32:
        raise InputError(Reason.WRONG_SHAPE, f"expected {plan.values} int32 values, got {values.shape} {values.dtype}")


def beyond_plan(plan: PublicPlan) -> InputError:
    """Return the error for a value that the plan does not allow; it does not say which."""
    return InputError(Reason.BEYOND_CLIP, f"expected values within {plan.magnitude}, got one beyond")


def check_n_sites(n_sites: int, plan: PublicPlan) -> None:
    """Refuse a number of submissions whose sum the plan does not hold.

    Raises:
        DecryptionError: none, or more than the plan's.
    """
    if not 1 <= n_sites <= plan.max_sites:
        raise DecryptionError(Reason.COUNT_MISMATCH, f"expected a sum of 1 to {plan.max_sites} sites, got {n_sites}")


def check_sums(largest: int, n_sites: int, plan: PublicPlan) -> None:
    """Refuse sums that so many honest submissions cannot make.

    Args:
        largest: absolute value of the sum furthest from zero.
        n_sites: how many submissions were added.

    Raises:
        DecryptionError: a sum beyond `n_sites * M`.
    """
    bound = n_sites * plan.magnitude
    if largest > bound:
        raise DecryptionError(
            Reason.SUM_OUT_OF_RANGE, f"expected sums within {n_sites} x {plan.magnitude}, got one beyond"
        )


def sum_type(plan: PublicPlan) -> np.dtype[np.signedinteger]:
    """Return the narrowest type that holds a plan's sums, and twice as much, so that what is beyond them is seen.

    Memory costs more than adding.
    """
    return np.dtype(np.int32 if 2 * plan.max_sites * plan.magnitude < 2**31 else np.int64)


def packed_part(total: PartSource, place: PartPlace) -> bytes | memoryview:
    """Ask for one part of a sum and see that it is that part.

    Raises:
        WireError: another part, or one of another length.
    """
    part = total(place.number)
    if part.number != place.number or len(part.packed) != place.packed_bytes:
        raise WireError(
            Reason.BAD_FIELD,
            f"sum: expected part {place.number} of {place.packed_bytes} bytes, "
            f"got part {part.number} of {len(part.packed)}",
        )
    return part.packed
