"""Define what a plan asks of the parameters of any scheme. Arithmetic only: the aggregator checks plans with it."""

from __future__ import annotations

from typing import Protocol, Self

from he_agg import canonical
from he_agg.plan.sections import Section

__all__ = ["Parameters"]


class Parameters(Protocol):
    """Parameters that were seen to be secure and exact for a magnitude M and at most K sites."""

    @property
    def name(self) -> str:
        """The profile's name; it carries its facts."""

    @property
    def ring_degree(self) -> int:
        """N of the ring that carries the bulk."""

    @property
    def security_modulus_bits(self) -> int:
        """log2 of the whole modulus, rounded up, as the security table counts it."""

    @property
    def security_bits(self) -> int:
        """Estimated security."""

    @property
    def failure_log2(self) -> float:
        """log2 of the probability that one value of a full sum is rounded wrongly; minus infinity if none can be."""

    @property
    def security_source(self) -> str:
        """Where that estimate comes from, and for which keys."""

    @property
    def bits_per_value(self) -> float:
        """What is sent for each value of a long update."""

    @property
    def costs(self) -> tuple[tuple[str, float], ...]:
        """What these bits are spent on: they add up to `bits_per_value`."""

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """The parameters as rows of a name and a sentence."""

    @property
    def why(self) -> str:
        """Why these parameters, in a sentence."""

    @classmethod
    def choose(cls, magnitude: int, max_sites: int) -> Self:
        """Choose the parameters with the fewest bytes a value.

        Args:
            magnitude: M, the largest absolute value of one site's integers.

        Raises:
            PlanError: no secure parameters hold sums of that size exactly.
        """

    def sections(self, values: int, part_bytes: int) -> tuple[Section, ...]:
        """Cut a submission of so many values into sections, with parts of at most so many bytes."""

    def to_json(self) -> canonical.Json:
        """Make the canonical document."""

    @classmethod
    def from_json(cls, value: canonical.Json, magnitude: int, max_sites: int) -> Self:
        """Read what `to_json` wrote and check it again.

        Raises:
            WireError: another document.
            PlanError: parameters that are unsafe, inexact or not the ones of this scheme's formula.
        """
