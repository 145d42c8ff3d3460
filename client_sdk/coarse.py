"""Warn of updates that the plan's grid is too coarse for, once per tensor.

A Python warning, and no log record: what it says is about the site's own data, and log records may be collected, by
Flower and NVFlare at the server even.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from he_agg.plan.rounded import ResolutionWarning, Rounded, as_text, coarse

__all__ = ["Coarse"]


class Coarse:
    """What was warned of already."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, who: str, found: Iterable[Rounded]) -> None:
        """Warn of tensors that are coarse and were not warned of before."""
        new = [one for one in coarse(found) if one.tensor not in self._told]
        if new:
            self._told |= {one.tensor for one in new}
            warnings.warn(f"{who}: {as_text(new)}", ResolutionWarning, stacklevel=2)
