"""Parameters of the codec `hybrid`: the smallest ring that is secure and exact, the step, and the sections.

Arithmetic only: the aggregator checks a plan with it and loads no HE library for that.

The bulk is RLWE in Z_q[X]/(X^2048 + 1) under a one-time ternary key, one key per submission; that key travels in one
CKKS vector under the group key (he_agg/codecs/hybrid.py). Plaintext integers are multiples of the step D:

    D = floor((q - 1)/2 / (K*M + 1/2))          so that the largest sum and half a step more do not wrap
    D >= 2 * 14.6 * sigma * sqrt(K)             failure below 2^-128 over 2^30 values, or
    D >= 2 * 21 * K + 1                         no failure at all: the noise of one value never exceeds 21
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

from he_agg import canonical
from he_agg.errors import PlanError, Reason
from he_agg.plan.ckks_parameters import CkksParameters
from he_agg.plan.sections import Section, residues_per_part
from he_agg.plan.security import (
    EXACTNESS_SIGMAS,
    MAX_MODULUS_BITS,
    NOISE_BOUND,
    NOISE_VARIANCE,
    check_security,
    failure_log2,
    largest_square_sum,
    security_bits,
)
from he_agg.ring.primes import BATCH_VALUES, MAX_PRIME_BITS, MIN_PRIME_BITS, N, ntt_primes

__all__ = ["HybridParameters", "prime_sets"]

MAX_TWO_LIMB_BITS = MAX_MODULUS_BITS[N]
"""What the security table leaves."""


@dataclass(frozen=True)
class HybridParameters:
    """Primes and step of the bulk ring, and the parameters of the key's CKKS vector; seen to be safe and exact.

    Attributes:
        primes: one or two primes; residues of each are a section of their own.
        delta: D, the step between plaintexts.
        magnitude: M, the largest absolute value of one site's integers.
        max_sites: K.
        key: parameters of the CKKS vector that carries the one-time key.
    """

    primes: tuple[int, ...]
    delta: int
    magnitude: int
    max_sites: int
    key: CkksParameters

    @property
    def name(self) -> str:
        """The profile's name; it carries its facts."""
        return f"hybrid-n{N}-" + "-".join(f"q{prime.bit_length()}" for prime in self.primes)

    @property
    def ring_degree(self) -> int:
        """N of the bulk ring."""
        return N

    @cached_property
    def modulus(self) -> int:
        """q: the product of the primes."""
        return math.prod(self.primes)

    @property
    def security_modulus_bits(self) -> int:
        """log2 of the bulk modulus, rounded up, as the security table counts it."""
        return self.modulus.bit_length()

    @property
    def security_bits(self) -> int:
        """Estimated security of the bulk ring; the key's CKKS vector is within the table's 128 bits."""
        return security_bits(N, self.modulus.bit_length())

    def largest_distance(self, n_sites: int) -> int:
        """Bound how far an honest sum is from a multiple of the step: certain to 21 a site, or at 14.6 sigma."""
        by_chance = math.floor(EXACTNESS_SIGMAS * math.sqrt(NOISE_VARIANCE * n_sites))
        return min(NOISE_BOUND * n_sites, by_chance, (self.delta - 1) // 2)

    def largest_square_sum(self, n_sites: int, values: int) -> float:
        """Bound the sum of the squares of those distances over so many values.

        With `max_sites` in it, half a step may be 14.6 sigma, and the largest distance then refuses nothing; under a
        wrong key the squares still are 71 times what they should be.
        """
        return largest_square_sum(values, NOISE_VARIANCE * n_sites)

    @property
    def failure_log2(self) -> float:
        """log2 of the probability that one value of a full sum is rounded wrongly; minus infinity if none can be."""
        if self.delta >= 2 * NOISE_BOUND * self.max_sites + 1:
            return -math.inf
        return failure_log2(self.delta / 2 / math.sqrt(NOISE_VARIANCE * self.max_sites))

    @property
    def why(self) -> str:
        """Why these parameters, in a sentence."""
        least = _least_step(self.max_sites)
        return (
            f"the fewest bits whose step between plaintexts ({self.delta}) is at least the {least} that the noise of "
            f"{self.max_sites} sites asks for, within the {MAX_TWO_LIMB_BITS} bits that are secure at N = {N}"
        )

    @classmethod
    def choose(cls, magnitude: int, max_sites: int) -> HybridParameters:
        """Choose the parameters with the fewest bytes a value.

        Raises:
            PlanError: no ring within the security table holds sums of that size exactly.
        """
        for primes in prime_sets():
            delta = _largest_step(math.prod(primes), magnitude * max_sites)
            if delta >= _least_step(max_sites):
                return cls.of(primes, magnitude, max_sites)
        raise PlanError(
            Reason.NO_HEADROOM,
            f"codec hybrid: no ring within the security table holds the sum of {max_sites} sites' values of up to "
            f"{magnitude}",
            "ask for fewer value bits or fewer sites",
        )

    @classmethod
    def of(cls, primes: tuple[int, ...], magnitude: int, max_sites: int) -> HybridParameters:
        """Check and return the parameters over given primes.

        Raises:
            PlanError: insecure, inexact, or primes that no plan of ours has.
        """
        if primes not in prime_sets():
            raise PlanError(Reason.BAD_PLAN, "plan.parameters.primes: expected a set of primes that he-agg uses")
        modulus = math.prod(primes)
        check_security(N, modulus.bit_length())
        delta = _largest_step(modulus, magnitude * max_sites)
        if delta < _least_step(max_sites):
            raise PlanError(
                Reason.NO_HEADROOM,
                f"codec hybrid: expected a step of at least {_least_step(max_sites)} between plaintexts, got {delta}",
                "ask for fewer value bits or fewer sites",
            )
        # The key's coefficients are -1, 0 or 1, one in each slot.
        key = CkksParameters.choose(1, max_sites)
        return cls(primes, delta, magnitude, max_sites, key)

    def sections(self, values: int, part_bytes: int) -> tuple[Section, ...]:
        """Return the one-time key's section, which is needed first to open a sum, then one for each limb."""
        (key,) = self.key.sections(N, part_bytes)
        # Every limb is cut at the same values, so that one part of each belong together.
        widest = max(self.primes)
        part_residues = residues_per_part(part_bytes, BATCH_VALUES, widest)
        return (
            Section("key", key.modulus, key.residues, key.part_residues),
            *(Section(f"limb-{i}", prime, values, part_residues) for i, prime in enumerate(self.primes)),
        )

    def to_json(self) -> canonical.Json:
        """Return the canonical document."""
        return {"primes": list(self.primes), "delta": self.delta_text, "key": self.key.to_json()}

    @property
    def delta_text(self) -> str:
        """The step as a decimal string: with two limbs it may exceed 53 bits."""
        return str(self.delta)

    @classmethod
    def from_json(cls, value: canonical.Json, magnitude: int, max_sites: int) -> HybridParameters:
        """Read what `to_json` wrote and check it again."""
        fields = canonical.Fields(value, "plan.parameters")
        primes = tuple(fields.array("primes", 2))
        stated = (fields.string("delta"), fields.object("key"))
        fields.end()
        parameters = cls.of(primes, magnitude, max_sites)
        if stated != (parameters.delta_text, parameters.key.to_json()):
            raise PlanError(Reason.BAD_PLAN, "plan.parameters: expected the ones that follow from the primes")
        return parameters


def _largest_step(modulus: int, largest_sum: int) -> int:
    return (modulus - 1) // (2 * largest_sum + 1)


def _least_step(max_sites: int) -> int:
    by_chance = math.ceil(2 * EXACTNESS_SIGMAS * math.sqrt(NOISE_VARIANCE * max_sites))
    return min(by_chance, 2 * NOISE_BOUND * max_sites + 1)


@cache
def prime_sets() -> tuple[tuple[int, ...], ...]:
    """Return all sets of primes in use, one limb before two; within each the fewest bits first."""
    one = [(ntt_primes(bits)[0],) for bits in range(MIN_PRIME_BITS, MAX_PRIME_BITS + 1)]
    two = []
    for bits in range(2 * MIN_PRIME_BITS, MAX_TWO_LIMB_BITS + 1):
        low, high = bits // 2, -(-bits // 2)
        # The smaller prime first, which is what joining two limbs relies on.
        two.append((ntt_primes(low)[1 if low == high else 0], ntt_primes(high)[0]))
    return (*one, *two)
