"""Small cells: counts so low that they may point at a person.

Results go to every hospital. Suppression keeps small counts out of the result objects, tables and pictures; the
software of a hospital has opened the sum all the same, so it protects against disclosure by a publication, not against
a hospital that looks into its own memory. Against that, coarsen the question or add noise (docs/privacy.md).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from client_sdk.agreed import settle
from client_sdk.columns import refuse

__all__ = ["SmallCellWarning", "SmallCells"]


class SmallCellWarning(UserWarning):
    """A result contains counts below the agreed threshold."""


@dataclass(frozen=True)
class SmallCells:
    """What to do about counts from 1 to `below - 1`. Zero is not small: it says nothing about anybody in the cell.

    Attributes:
        below: the threshold. Many registries use 5 or 10.
        action: "warn", or "suppress" to mask such counts.
    """

    below: int = 5
    action: Literal["warn", "suppress"] = "warn"

    def __post_init__(self) -> None:
        settle(self)
        if self.below < 1 or self.action not in ("warn", "suppress"):
            raise refuse(f"SmallCells: expected below >= 1 and action 'warn' or 'suppress', got {self}")

    def of(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Find the small counts."""
        return (counts > 0) & (counts < self.below)

    def applied(self, counts: NDArray[np.int64], what: str) -> NDArray[Any]:
        """Return the counts as they may be shown.

        All cells together are known, and so is the sum of the hidden ones. If that would give them away, being of one
        cell or small itself, the smallest other cells that are not zero are hidden too.

        Args:
            what: what is counted, for the warning.

        Returns:
            The same counts, or with "suppress" a masked array, whose sums and pictures leave the masked cells out.
        """
        small = self.of(counts)
        if not small.any():
            return counts
        if self.action == "warn":
            warnings.warn(
                f"{what}: {int(small.sum())} of {small.size} counts are below {self.below}; every hospital gets them",
                SmallCellWarning,
                stacklevel=2,
            )
            return counts
        flat, hidden = counts.reshape(-1), small.reshape(-1)
        for place in np.argsort(flat, kind="stable"):
            if hidden.sum() > 1 and flat[hidden].sum() >= self.below:
                break
            hidden[place] |= flat[place] > 0
        # Zeros under the mask: a masked array is easily saved with what it hides.
        return np.ma.MaskedArray(np.where(small, 0, counts), mask=small, fill_value=0)
