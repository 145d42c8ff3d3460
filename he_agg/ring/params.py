"""The numbers that encryption and opening must agree on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from he_agg.ring.primes import in_use, is_sent

MAX_ABS_VALUE = (1 << 23) - 1
"""Largest magnitude of a site's value: 24-bit values."""


def largest_delta(modulus: int, base: int, digits: int) -> int:
    """Return the widest step between plaintexts that leaves room for every sum of so many digits.

    D = floor((q - 1) / B^digits): half a step beyond the largest sum, (B^digits - 1)/2, must not wrap around.

    Why: docs/exactness.md.
    """
    most: int = base**digits
    return (modulus - 1) // most


@dataclass(frozen=True)
class RingParams:
    """Checked parameters of the ring part. Whether they are secure and exact is the planner's business.

    Attributes:
        digits: Values in a coefficient.
        primes: One prime out of `ntt_primes`, or two, the smaller first: the ring's limbs.
        moduli: One prime out of `sent_primes`, or two, the smaller first: what residues are sent modulo. Their product
            is below the ring's modulus.
        delta: The step D between plaintexts.
        max_abs_value: No site's value exceeds this in magnitude.
        max_sites: How many submissions may be summed.
    """

    digits: int
    primes: tuple[int, ...]
    moduli: tuple[int, ...]
    delta: int
    max_abs_value: int
    max_sites: int

    def __post_init__(self) -> None:
        for what, limbs, known in (("ring", self.primes, in_use), ("sum", self.moduli, is_sent)):
            ours = all(known(q) for q in limbs) and list(limbs) == sorted(set(limbs))
            if len(limbs) not in (1, 2) or not ours:
                raise ValueError(f"the {what} has 1 or 2 primes of ours, the smaller first, got {limbs}")
        if len(self.moduli) > len(self.primes) or prod(self.moduli) >= self.modulus:
            raise ValueError(f"what is sent, mod {self.moduli}, is rounded from a larger ring than {self.primes}")
        if not 1 <= self.max_abs_value <= MAX_ABS_VALUE or self.max_sites < 1 or self.digits < 1:
            raise ValueError(f"no ring parameters for {self.max_sites} sites, values to {self.max_abs_value}")
        if not 1 <= self.delta <= largest_delta(self.modulus, self.base, self.digits):
            raise ValueError(f"step {self.delta} leaves no room for the sum in a modulus of {self.modulus}")

    @property
    def base(self) -> int:
        """B: the sum of a digit has so many possible values, so that digits never carry."""
        return 2 * self.max_sites * self.max_abs_value + 1

    @property
    def sent_bits(self) -> tuple[int, ...]:
        """Bits of a packed residue, for each modulus."""
        return tuple(q.bit_length() for q in self.moduli)

    @cached_property
    def modulus(self) -> int:
        """The ring's: the product of its primes."""
        return prod(self.primes)
