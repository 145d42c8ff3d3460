"""What every codec does, and what it needs of a key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from he_agg.sections import Part, Section

__all__ = ["Codec", "GroupKey"]


class GroupKey(Protocol):
    """The secret that all sites of an epoch share, as far as a codec sees it. `keys.GroupKey` is the real one."""

    @property
    def key_id(self) -> str:
        """Commitment to the secret, 64 hex digits; safe to publish."""

    @property
    def plan_id(self) -> str:
        """The plan it was made for."""

    @property
    def ckks_context(self) -> bytes:
        """A serialised TenSEAL context with the secret key."""


class Codec(Protocol):
    """Exact integers <-> parts of residues.

    The property of every codec: for any integers within the plan, `decrypt` of the residue-wise sum of
    `encrypt(x_i)` is `sum(x_i)`, exactly, in any order and any grouping.
    """

    @property
    def sections(self) -> tuple[Section, ...]:
        """Moduli and residue counts: all that the aggregator ever needs."""

    def encrypt(self, values: NDArray[np.int32], key: GroupKey) -> Iterator[Part]:
        """Encrypt one vector under fresh randomness, part by part, in order.

        Args:
            values: the integers. Shape: (plan.values,), each at most `plan.magnitude` in absolute value.
            key: the group key of the epoch.

        Raises:
            InputError: another shape or dtype, or a value beyond the plan.
            KeystoreError: a key made for another plan.
        """

    def decrypt(self, total: Iterable[Part], n_sites: int, key: GroupKey) -> NDArray[np.int64]:
        """Open a sum, exactly.

        Args:
            total: all parts of the sum, in order.
            n_sites: how many submissions were added.
            key: the group key of the epoch.

        Returns:
            The sums. Shape: (plan.values,).

        Raises:
            DecryptionError: the sum did not open to integers within `n_sites * plan.magnitude`; nothing is released.
            KeystoreError: a key made for another plan.
        """
