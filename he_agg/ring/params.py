"""The numbers that encryption and opening must agree on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from he_agg.ring.primes import in_use

MAX_ABS_VALUE = (1 << 23) - 1
"""Largest magnitude of a site's value: 24-bit values."""


def largest_delta(modulus: int, max_sum: int) -> int:
    """Return the widest step between plaintexts that leaves room for sums of magnitude up to max_sum.

    D = floor((q - 1)/2 / (max_sum + 1/2)): half a step beyond the largest sum must not wrap around.

    Source: 2-scheme.md, Codec hybrid.
    """
    return (modulus - 1) // (2 * max_sum + 1)


@dataclass(frozen=True)
class RingParams:
    """Checked parameters of the ring part. Whether they are secure enough is the planner's business.

    Attributes:
        primes: One prime out of `ntt_primes`, or two, the smaller first; one limb each.
        delta: The step D between plaintexts.
        max_abs_value: No site's value exceeds this in magnitude.
        max_sites: How many submissions may be summed.
    """

    primes: tuple[int, ...]
    delta: int
    max_abs_value: int
    max_sites: int

    def __post_init__(self) -> None:
        ours = all(in_use(q) for q in self.primes) and list(self.primes) == sorted(set(self.primes))
        if self.limbs not in (1, 2) or not ours:
            raise ValueError(f"the ring has 1 or 2 primes of ours, the smaller first, got {self.primes}")
        if not 1 <= self.max_abs_value <= MAX_ABS_VALUE or self.max_sites < 1:
            raise ValueError(f"no ring parameters for {self.max_sites} sites, values to {self.max_abs_value}")
        if not 1 <= self.delta <= largest_delta(self.modulus, self.max_sites * self.max_abs_value):
            raise ValueError(f"step {self.delta} leaves no room for the sum in a modulus of {self.modulus}")

    @classmethod
    def widest(cls, primes: tuple[int, ...], max_abs_value: int, max_sites: int) -> RingParams:
        """Return the parameters with the widest step."""
        return cls(primes, largest_delta(prod(primes), max_abs_value * max_sites), max_abs_value, max_sites)

    @property
    def limbs(self) -> int:
        """How many primes there are."""
        return len(self.primes)

    @property
    def limb_bits(self) -> tuple[int, ...]:
        """Bits of a packed residue, for each limb."""
        return tuple(q.bit_length() for q in self.primes)

    @cached_property
    def modulus(self) -> int:
        """Their product."""
        return prod(self.primes)
