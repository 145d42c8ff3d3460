"""Tags of parts before pads, collected until all parts of a submission are there."""

from __future__ import annotations

import threading

from he_agg.mac.bound import tag_count
from he_agg.plan.plan import PublicPlan

__all__ = ["TagTotal", "Tags"]

Tags = tuple[tuple[int, ...], ...]
"""One tuple for each part of the plan, each of `tag_count(section)` integers below its section's modulus."""


class TagTotal:
    """The tags of all parts of one submission, before pads. A class because parts come from threads, in any order.

    Secret: the coefficients follow from enough of them. Make it with `RoundMac.new_total`.
    """

    def __init__(self, plan: PublicPlan) -> None:
        self._places = plan.places
        self._counts = [tag_count(section) for section in plan.sections]
        self._values: dict[int, tuple[int, ...]] = {}
        self._lock = threading.Lock()

    def add(self, number: int, contribution: tuple[int, ...]) -> None:
        """Add what one part comes to.

        Raises:
            ValueError: a part that was added before or does not exist, or a contribution of another length.
        """
        with self._lock:
            if number in self._values or not 0 <= number < len(self._places):
                raise ValueError(f"part {number} was added before, or is not one of {len(self._places)}")
            expected = self._counts[self._places[number].section_index]
            if len(contribution) != expected:
                raise ValueError(f"part {number}: expected {expected} tags, got {len(contribution)}")
            self._values[number] = contribution

    def values(self) -> Tags:
        """Return the tags before pads."""
        with self._lock:
            missing = len(self._places) - len(self._values)
            if missing:
                raise ValueError(f"{missing} of {len(self._places)} parts are missing")
            return tuple(self._values[place.number] for place in self._places)

    def __repr__(self) -> str:
        return f"TagTotal({len(self._values)} of {len(self._places)} parts)"
