"""Contributions of parts, collected until all of a submission, or of a sum, are there."""

from __future__ import annotations

import threading

from he_agg.mac.bound import tag_count
from he_agg.plan.plan import PublicPlan

__all__ = ["TagTotal", "Tags"]

Tags = tuple[tuple[int, ...], ...]
"""One tuple for each section of the plan, each of `tag_count(section)` integers below the section's modulus."""


class TagTotal:
    """The sum of the parts' contributions, before pads. A class because parts come from threads, in any order.

    Secret: the coefficients follow from enough of them. Make it with `RoundMac.new_total`.
    """

    def __init__(self, plan: PublicPlan) -> None:
        self._places = plan.places
        self._moduli = tuple(section.modulus for section in plan.sections)
        self._values = [[0] * tag_count(section) for section in plan.sections]
        self._missing = {place.number for place in plan.places}
        self._lock = threading.Lock()

    def add(self, number: int, contribution: tuple[int, ...]) -> None:
        """Add what one part contributes.

        Raises:
            ValueError: a part that was added before or does not exist, or a contribution of another length.
        """
        with self._lock:
            if number not in self._missing:
                raise ValueError(f"part {number} was added before, or is not one of {len(self._places)}")
            index = self._places[number].section_index
            values, modulus = self._values[index], self._moduli[index]
            if len(contribution) != len(values):
                raise ValueError(f"part {number}: expected {len(values)} tags, got {len(contribution)}")
            self._values[index] = [(v + c) % modulus for v, c in zip(values, contribution, strict=True)]
            self._missing.remove(number)

    def values(self) -> Tags:
        """Return the tags before pads."""
        with self._lock:
            if self._missing:
                raise ValueError(f"{len(self._missing)} of {len(self._places)} parts are missing")
            return tuple(tuple(values) for values in self._values)

    def __repr__(self) -> str:
        return f"TagTotal({len(self._places) - len(self._missing)} of {len(self._places)} parts)"
