"""Parameters of the codec `hybrid`: the fewest bytes that are secure and exact, the step, and the sections.

Arithmetic only: the aggregator checks a plan with it and loads no HE library for that.

The bulk is RLWE in Z_q[X]/(X^2048 + 1) under a one-time key, one key per submission; that key travels in one CKKS
vector under the group key (he_agg/codecs/hybrid.py). A coefficient carries v values as the digits of one integer m, in
base B; what is sent is rounded to a smaller modulus p:

    B = 2*K*M + 1                       a digit of the sum has so many values, so that digits never carry
    D = floor((q - 1) / B^v)            the step between plaintexts: half a step beyond the largest sum does not wrap
    h = round(c * p/q) mod p            what is sent of c = a*s + e + D*m mod q

A sum opens to the right m as long as what is added to D*m stays below half a step. Of K sites that is, in units of 1,
with e centred binomial of 21 + 21 (|e| <= 21, variance 10.5) and each rounding off by r, |r| <= 1/2 and by what the
product in float64 adds, f = p * 2^-52:

    certain     21*K               + K * q/p * (1/2 + f)         + 2
    mixed       14.6 * sqrt(10.5*K)  + K * q/p * (1/2 + f)       + 2
    by chance   14.6 * sqrt((10.5 + (q/p)^2 / 12) * K) + K * q/p * f  + 2

The least of the three counts. Two roundings of a relative 2^-53 each make f, that of p/q and that of the product, which
may be up to p; ours stays below p/2, since c is taken between -q/2 and q/2. The last 2 are those of the sum when it is
opened, where |H * q/p| is about 2^52 at most: 1/2 by q/p, 1/2 by the product, 1/2 by rounding to an integer.

By chance means 14.6 standard deviations: 2^-158 a coefficient for a normal distribution, and less for these sums. In
each coefficient r is uniform and independent of e and of the other sites' r, because c is: a*s is uniform for all but
a share of 2^-1000 and less of the a (leftover hash), whatever the values are, even if chosen by who knows a. More in
docs/exactness.md; tests/plan/test_hybrid_parameters.py calculates the tails themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from he_agg import canonical
from he_agg.errors import PlanError, Reason
from he_agg.plan import hybrid_explained
from he_agg.plan.ckks_parameters import CkksParameters
from he_agg.plan.sections import Section, residues_per_part
from he_agg.plan.security import (
    EXACTNESS_SIGMAS,
    KEY_LAW_SOURCE,
    MAX_MODULUS_BITS,
    NOISE_BOUND,
    NOISE_VARIANCE,
    check_security,
    failure_log2,
    key_law_security_bits,
    largest_square_sum,
)
from he_agg.ring.params import largest_delta
from he_agg.ring.primes import (
    BATCH,
    MAX_PRIME_BITS,
    MAX_SENT_BITS,
    MIN_PRIME_BITS,
    MIN_SENT_BITS,
    N,
    coefficients_of,
    ntt_primes,
    sent_primes,
)

__all__ = ["KEY_SECTION", "HybridParameters", "ring_primes", "sent_moduli"]

KEY_SECTION = "key"
"""Carries the one-time key, where keys are shared."""

MAX_RING_BITS = MAX_MODULUS_BITS[N]
"""What the security table leaves, and what float64 holds."""

MAX_ROUNDED_BITS = 50
"""Of the product of the moduli that are sent: beyond, products in float64 would be off by more than the rounding."""

MAX_DELTA = 2**25
"""So that the squares of a batch's distances to the grid add up within 64 bits: 2^15 * (2^24)^2."""

EQUAL = 1.025
"""Bytes that are taken for equal: among those the faster parameters win."""

_OPENING_ERROR = 2
_FLOAT_ERROR = 2.0**-52
"""Relative to the modulus that is sent."""


@dataclass(frozen=True)
class HybridParameters:
    """Packing, moduli and step of the bulk, and the parameters of the key's CKKS vector; seen to be safe and exact.

    Attributes:
        packing: v, the values in a coefficient.
        primes: one or two primes, the ring's limbs.
        moduli: one or two primes that residues are sent modulo; residues of each are a section of their own.
        delta: D, the step between plaintexts.
        magnitude: M, the largest absolute value of one site's integers.
        max_sites: K.
        key: parameters of the CKKS vector that carries the one-time key.
    """

    packing: int
    primes: tuple[int, ...]
    moduli: tuple[int, ...]
    delta: int
    magnitude: int
    max_sites: int
    key: CkksParameters

    @property
    def name(self) -> str:
        """The profile's name; it carries its facts."""
        return f"hybrid-n{N}-q{self.modulus.bit_length()}-p{sum(self._sent_bits)}-v{self.packing}"

    @property
    def ring_degree(self) -> int:
        """N of the bulk ring."""
        return N

    @cached_property
    def modulus(self) -> int:
        """q: the product of the ring's primes."""
        return math.prod(self.primes)

    @property
    def _sent_bits(self) -> tuple[int, ...]:
        return tuple(modulus.bit_length() for modulus in self.moduli)

    @property
    def security_modulus_bits(self) -> int:
        """log2 of the bulk modulus, rounded up, as the security table counts it."""
        return self.modulus.bit_length()

    @property
    def security_bits(self) -> int:
        """Estimated security of the bulk; the key's CKKS vector is within the table's 128 bits."""
        return key_law_security_bits(self.modulus.bit_length())

    @property
    def bits_per_value(self) -> float:
        """What is sent for each value of a long update."""
        return sum(self._sent_bits) / self.packing

    @cached_property
    def _ratio(self) -> float:
        return self.modulus / math.prod(self.moduli)

    def largest_distance(self, n_sites: int) -> int:
        """Bound how far an honest sum is from a multiple of the step."""
        return min(_largest_noise(n_sites, self.primes, self.moduli), (self.delta - 1) // 2)

    def largest_square_sum(self, n_sites: int, coefficients: int) -> float:
        """Bound the sum of the squares of those distances over so many coefficients.

        With `max_sites` in it, the largest distance may be half a step and refuse nothing. Under a wrong key distances
        are uniform and their squares 71 times what they should be, where half a step is 14.6 sigma; max_sites times
        and more, where it is what cannot be exceeded. Twice as much shows from about 1,200 coefficients on.
        """
        by_chance = math.sqrt(largest_square_sum(coefficients, self._variance(n_sites)))
        of_floats = n_sites * self._ratio * _FLOAT_ERROR * math.prod(self.moduli) + _OPENING_ERROR
        return (by_chance + math.sqrt(coefficients) * of_floats) ** 2

    def unnoticed_log2(self, coefficients: int) -> float:
        """Bound how likely a full sum opens under a wrong key to what looks like honest noise: log2.

        Each distance to the grid is then uniform, within half a step. That all are within the largest distance is one
        bound; that their squares add up to no more than those of noise may is another, by Chernoff: for u uniform
        between -h and h, E exp(-t u^2 / h^2) = sqrt(pi/t) erf(sqrt(t)) / 2.
        """
        within = (2 * self.largest_distance(self.max_sites) + 1) / self.delta
        squares = self.largest_square_sum(self.max_sites, coefficients) / (self.delta / 2) ** 2
        by_squares = (
            t * squares + coefficients * math.log(math.sqrt(math.pi / t) * math.erf(math.sqrt(t)) / 2)
            for t in (2.0**k for k in range(-4, 20))
        )
        return min(coefficients * math.log2(min(1.0, within)), min(by_squares) / math.log(2))

    def _variance(self, n_sites: int) -> float:
        return n_sites * (NOISE_VARIANCE + self._ratio**2 / 12)

    @property
    def failure_log2(self) -> float:
        """log2 of the probability that one coefficient of a full sum is rounded wrongly; minus infinity if none can."""
        certain, of_floats, noise = _noise(self.max_sites, self.primes, self.moduli)
        wrong = (self.delta + 1) // 2  # the least distance that may be rounded to another multiple; an integer, too
        if wrong > certain:
            return -math.inf
        mixed = (wrong - of_floats - self.max_sites * self._ratio / 2) / math.sqrt(NOISE_VARIANCE * self.max_sites)
        return failure_log2(max(mixed, (wrong - of_floats) / noise))

    @property
    def bounds(self) -> tuple[float, float, float]:
        """What noise and roundings of `max_sites` sites add: with certainty, mixed, and by chance. See above."""
        return _bounds(self.max_sites, self.primes, self.moduli)

    @property
    def least_delta(self) -> int:
        """The least step that noise and roundings of `max_sites` sites leave exact."""
        return 2 * _largest_noise(self.max_sites, self.primes, self.moduli) + 1

    @property
    def fewest_bits(self) -> dict[int, float]:
        """The fewest bits a value with each number of values in a coefficient that fits."""
        found: dict[int, float] = {}
        for bits, _, packing, *_ in _candidates(self.magnitude, self.max_sites):
            found[packing] = min(bits, found.get(packing, math.inf))
        return found

    @property
    def security_source(self) -> str:
        """Where the estimate comes from, and for which keys."""
        return KEY_LAW_SOURCE

    @property
    def why(self) -> str:
        """Why these parameters, in a sentence."""
        return hybrid_explained.why(self)

    @property
    def costs(self) -> tuple[tuple[str, float], ...]:
        """Say what the bits of a value are spent on: they add up to `bits_per_value`."""
        return hybrid_explained.costs(self)

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """Describe the parameters: rows of a name and a sentence."""
        return hybrid_explained.details(self)

    @classmethod
    def choose(cls, magnitude: int, max_sites: int) -> HybridParameters:
        """Choose the parameters with the fewest bytes a value, and of those that are as good as equal the fastest.

        Raises:
            PlanError: no ring within the security table holds sums of that size exactly.
        """
        found = list(_candidates(magnitude, max_sites))
        if not found:
            raise PlanError(
                Reason.NO_HEADROOM,
                f"codec hybrid: no ring within the security table holds the sum of {max_sites} sites' values of up to "
                f"{magnitude}",
                "ask for fewer value bits or fewer sites",
            )
        most = EQUAL * min(bits for bits, *_ in found)
        _, _, packing, primes, moduli = min((one for one in found if one[0] <= most), key=_work)
        return cls.of(packing, primes, moduli, magnitude, max_sites)

    @classmethod
    def of(
        cls, packing: int, primes: tuple[int, ...], moduli: tuple[int, ...], magnitude: int, max_sites: int
    ) -> HybridParameters:
        """Check and return the parameters over given primes.

        Raises:
            PlanError: insecure, inexact, or primes that no plan of ours has.
        """
        if primes not in ring_primes():
            raise PlanError(Reason.BAD_PLAN, "plan.parameters.primes: expected a set of primes that he-agg uses")
        if moduli not in sent_moduli() or math.prod(moduli) >= math.prod(primes):
            raise PlanError(
                Reason.BAD_PLAN, "plan.parameters.moduli: expected primes that he-agg sends, below the ring's modulus"
            )
        modulus = math.prod(primes)
        check_security(N, modulus.bit_length())
        least = 2 * _largest_noise(max_sites, primes, moduli) + 1
        delta = largest_delta(modulus, 2 * max_sites * magnitude + 1, packing)
        if not least <= delta <= MAX_DELTA:
            raise PlanError(
                Reason.NO_HEADROOM,
                f"codec hybrid: expected a step of {least} to {MAX_DELTA} between plaintexts, got {delta}",
                "ask for fewer value bits or fewer sites",
            )
        return cls(packing, primes, moduli, delta, magnitude, max_sites, CkksParameters.for_keys(max_sites))

    def sections(self, values: int, part_bytes: int) -> tuple[Section, ...]:
        """Return the one-time key's section, which is needed first to open a sum, then one for each modulus."""
        (key,) = self.key.sections(N, part_bytes)
        # All are cut at the same coefficients, so that one part of each belong together.
        part_residues = residues_per_part(part_bytes, BATCH, max(self.moduli))
        count = coefficients_of(values, self.packing)
        return (
            Section(KEY_SECTION, key.modulus, key.residues, key.part_residues),
            *(Section(f"limb-{i}", modulus, count, part_residues) for i, modulus in enumerate(self.moduli)),
        )

    def to_json(self) -> canonical.Json:
        """Return the canonical document."""
        return {
            "packing": self.packing,
            "primes": list(self.primes),
            "moduli": list(self.moduli),
            "delta": self.delta,
            "key": self.key.to_json(),
        }

    @classmethod
    def from_json(cls, value: canonical.Json, magnitude: int, max_sites: int) -> HybridParameters:
        """Read what `to_json` wrote and check it again."""
        fields = canonical.Fields(value, "plan.parameters")
        packing = fields.integer("packing", 1, MAX_RING_BITS)
        primes, moduli = tuple(fields.array("primes", 2)), tuple(fields.array("moduli", 2))
        stated = (fields.integer("delta", 1, MAX_DELTA), fields.object("key"))
        fields.end()
        parameters = cls.of(packing, primes, moduli, magnitude, max_sites)
        if stated != (parameters.delta, parameters.key.to_json()):
            raise PlanError(Reason.BAD_PLAN, "plan.parameters: expected the ones that follow from the primes")
        return parameters


def _noise(sites: int, primes: tuple[int, ...], moduli: tuple[int, ...]) -> tuple[float, float, float]:
    """Return what a sum's noise cannot exceed, what of it float64 adds, and the standard deviation of the rest."""
    sent = math.prod(moduli)
    ratio = math.prod(primes) / sent
    of_floats = sites * ratio * _FLOAT_ERROR * sent + _OPENING_ERROR
    certain = sites * (NOISE_BOUND + ratio / 2) + of_floats
    return certain, of_floats, math.sqrt(sites * (NOISE_VARIANCE + ratio**2 / 12))


def _bounds(sites: int, primes: tuple[int, ...], moduli: tuple[int, ...]) -> tuple[float, float, float]:
    """Bound what is added to D*m in a sum: the three bounds above."""
    certain, of_floats, sigma = _noise(sites, primes, moduli)
    mixed = certain - NOISE_BOUND * sites + EXACTNESS_SIGMAS * math.sqrt(NOISE_VARIANCE * sites)
    return certain, mixed, EXACTNESS_SIGMAS * sigma + of_floats


def _largest_noise(sites: int, primes: tuple[int, ...], moduli: tuple[int, ...]) -> int:
    return math.floor(min(_bounds(sites, primes, moduli)))


_Candidate = tuple[float, int, int, tuple[int, ...], tuple[int, ...]]


def _candidates(magnitude: int, max_sites: int) -> Iterator[_Candidate]:
    """Yield what holds the sums: bits a value, bits of the ring, packing, primes, moduli; the fewest bits of each."""
    base = 2 * max_sites * magnitude + 1
    for packing in range(1, MAX_ROUNDED_BITS):
        for primes in ring_primes():
            modulus = math.prod(primes)
            delta = largest_delta(modulus, base, packing)
            for moduli in sent_moduli() if 1 <= delta <= MAX_DELTA else ():
                if math.prod(moduli) >= modulus:
                    break
                if 2 * _largest_noise(max_sites, primes, moduli) + 1 <= delta:
                    bits = sum(sent.bit_length() for sent in moduli)
                    yield bits / packing, modulus.bit_length(), packing, primes, moduli
                    break


def _work(one: _Candidate) -> tuple[float, float, int]:
    """Order candidates by transforms a value, by bits, and by bits of the ring, of which fewer are safer."""
    bits, ring_bits, packing, primes, _ = one
    return len(primes) / packing, bits, ring_bits


@cache
def ring_primes() -> tuple[tuple[int, ...], ...]:
    """Return all sets of ring primes in use, one limb before two; within each the fewest bits first."""
    one = [(ntt_primes(bits)[0],) for bits in range(MIN_PRIME_BITS, MAX_PRIME_BITS + 1)]
    return (*one, *(_pair(ntt_primes, bits) for bits in range(2 * MIN_PRIME_BITS, MAX_RING_BITS + 1)))


@cache
def sent_moduli() -> tuple[tuple[int, ...], ...]:
    """Return all sets of moduli that residues are sent modulo, the fewest bits first: one up to 31 bits, then two."""
    one = [(sent_primes(bits)[0],) for bits in range(MIN_SENT_BITS, MAX_SENT_BITS + 1)]
    return (*one, *(_pair(sent_primes, bits) for bits in range(MAX_SENT_BITS + 1, MAX_ROUNDED_BITS + 1)))


def _pair(primes: Callable[[int], tuple[int, int]], bits: int) -> tuple[int, int]:
    """Return two primes of together so many bits: the smaller first, which is what joining two limbs relies on."""
    low, high = bits // 2, -(-bits // 2)
    return primes(low)[1 if low == high else 0], primes(high)[0]
