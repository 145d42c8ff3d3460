"""Parameters of the codec `ckks`: named profiles, the scale that makes sums exact, and the sections.

Arithmetic only: the aggregator checks a plan with it and loads no HE library for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from he_agg import canonical
from he_agg.errors import PlanError, Reason
from he_agg.plan.sections import Section, residues_per_part
from he_agg.plan.security import (
    EXACTNESS_SIGMAS,
    NOISE_VARIANCE,
    TERNARY_SOURCE,
    check_security,
    failure_log2,
    largest_square_sum,
    security_bits,
)

__all__ = ["PROFILES", "CkksParameters", "CkksProfile"]


@dataclass(frozen=True)
class CkksProfile:
    """A ring and its primes.

    Attributes:
        name: carries its facts.
        ring_degree: N; one ciphertext holds N/2 values and 2N residues.
        modulus: the prime that ciphertexts live under.
        special_modulus: the prime that TenSEAL demands for key switching and a sum never uses. It counts for security.
    """

    name: str
    ring_degree: int
    modulus: int
    special_modulus: int

    @property
    def slots(self) -> int:
        """Values in one ciphertext."""
        return self.ring_degree // 2

    @property
    def chain_bits(self) -> tuple[int, int]:
        """Bit lengths of the primes, as TenSEAL is asked for them."""
        return self.modulus.bit_length(), self.special_modulus.bit_length()


# The primes are the ones that SEAL's CoeffModulus.Create(4096, bits) returns, the largest of their length that are
# 1 mod 8192. tests/plan/test_ckks_parameters.py asks SEAL for them again.
PROFILES = (
    CkksProfile("ckks-n4096-q24", 4096, 16736257, 16760833),
    CkksProfile("ckks-n4096-q27", 4096, 134111233, 134176769),
    CkksProfile("ckks-n4096-q30", 4096, 1073668097, 1073692673),
    CkksProfile("ckks-n4096-q40", 4096, 1099511390209, 1099511480321),
    CkksProfile("ckks-n4096-q50", 4096, 1125899906629633, 1125899906826241),
    CkksProfile("ckks-n4096-q60", 4096, 1152921504606830593, 70368743669761),
)
"""Smallest first. All within 106 bits at N = 4096: 48, 54, 60, 80, 100 and 106."""

_BY_NAME = {profile.name: profile for profile in PROFILES}

_FLOAT_BITS = 40
_FLOAT_ERROR = 2.0**-12
"""K*M stays below 2^40, so that float64 slots of 53 bits are right to 2^-12 of a grid step through the transforms."""


@dataclass(frozen=True)
class CkksParameters:
    """A profile and a scale, seen to be safe and exact for a number of sites.

    Attributes:
        profile: the ring.
        scale_bits: log2 of the CKKS scale: integers are encrypted at this scale and rounded on decryption.
        sigmas: distance to a wrong rounding, in standard deviations of the noise of `max_sites` ciphertexts.
    """

    profile: CkksProfile
    scale_bits: int
    sigmas: float

    @property
    def name(self) -> str:
        """The profile's name."""
        return self.profile.name

    @property
    def security_bits(self) -> int:
        """Estimated security."""
        return security_bits(self.ring_degree, self.security_modulus_bits)

    @property
    def failure_log2(self) -> float:
        """log2 of the probability that one value of a full sum is rounded wrongly."""
        return failure_log2(self.sigmas)

    @property
    def security_modulus_bits(self) -> int:
        """log2 of the whole modulus, rounded up, as the security table counts it."""
        return sum(self.profile.chain_bits)

    @property
    def security_source(self) -> str:
        """Where the estimate comes from, and for which keys."""
        return TERNARY_SOURCE

    @property
    def ring_degree(self) -> int:
        """N."""
        return self.profile.ring_degree

    @property
    def bits_per_value(self) -> float:
        """Four residues for each value: two polynomials of N coefficients for N/2 values."""
        return 4.0 * self.profile.modulus.bit_length()

    @property
    def costs(self) -> tuple[tuple[str, float], ...]:
        """Say what the bits of a value are spent on: they add up to `bits_per_value`."""
        bits = self.profile.modulus.bit_length()
        return (
            ("the sum", float(bits - self.scale_bits)),
            ("noise", float(self.scale_bits)),
            ("ring", 3.0 * bits),
        )

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """Describe the parameters: rows of a name and a sentence."""
        return (
            ("ring", f"N = {self.ring_degree}, q = {self.profile.modulus}; 4 residues for each value"),
            ("scale", f"2^{self.scale_bits}: half a step is {self.sigmas:.1f} standard deviations of the summed noise"),
        )

    @property
    def why(self) -> str:
        """Why these parameters, in a sentence."""
        return (
            f"the smallest of {len(PROFILES)} profiles that holds the sum at scale 2^{self.scale_bits}, which keeps "
            f"half a step {self.sigmas:.1f} standard deviations of the noise away"
        )

    @classmethod
    def choose(cls, magnitude: int, max_sites: int) -> CkksParameters:
        """Choose the smallest profile that is safe and exact.

        Args:
            magnitude: M, the largest absolute value of one site's integers.

        Raises:
            PlanError: no profile holds sums of that size.
        """
        for profile in PROFILES:
            try:
                return cls.of(profile, magnitude, max_sites)
            except PlanError:
                continue
        raise PlanError(
            Reason.NO_HEADROOM,
            f"codec ckks: no profile holds the sum of {max_sites} sites' values of up to {magnitude}",
            "ask for fewer value bits or fewer sites",
        )

    @classmethod
    def of(cls, profile: CkksProfile, magnitude: int, max_sites: int) -> CkksParameters:
        """Check and return the parameters of one profile.

        The scale is the smallest power of two that keeps half a step 14.6 standard deviations of the noise of K
        ciphertexts away. The modulus keeps a factor of two over the largest sum.

        Raises:
            PlanError: insecure, or no room for the sum.

        Source:
            shared analysis of exact CKKS sums; eprint 2024/853 for rounding as the cure of IND-CPA-D.
        """
        check_security(profile.ring_degree, sum(profile.chain_bits))
        sigma = math.sqrt(_slot_variance(profile, max_sites))
        scale_bits = math.ceil(math.log2(2 * EXACTNESS_SIGMAS * sigma))
        largest = max_sites * magnitude
        if largest >= 2**_FLOAT_BITS or 4 * largest * 2**scale_bits >= profile.modulus:
            raise PlanError(
                Reason.NO_HEADROOM,
                f"{profile.name}: expected room for {max_sites} x {magnitude} at scale 2^{scale_bits}, "
                f"got a modulus of {profile.modulus.bit_length()} bits",
                "ask for fewer value bits or fewer sites",
            )
        return cls(profile, scale_bits, 2**scale_bits / 2 / sigma)

    def largest_distance(self, n_sites: int) -> float:
        """Bound how far a slot of an honest sum is from an integer: 14.6 sigma, and what float64 adds."""
        sigma = math.sqrt(_slot_variance(self.profile, n_sites))
        return math.ldexp(EXACTNESS_SIGMAS * sigma, -self.scale_bits) + _FLOAT_ERROR

    def largest_square_sum(self, n_sites: int) -> float:
        """Bound the sum of the squares of those distances over the slots of one ciphertext.

        The real parts of the slots are a rotation of N/2 dimensions of the coefficients' noise, times sqrt(N/2).
        """
        slots = self.profile.slots
        noise = math.sqrt(largest_square_sum(slots, _slot_variance(self.profile, n_sites)))
        return math.pow(math.ldexp(noise, -self.scale_bits) + math.sqrt(slots) * _FLOAT_ERROR, 2)

    def sections(self, values: int, part_bytes: int) -> tuple[Section, ...]:
        """Return one section: ciphertexts one after the other, polynomial by polynomial."""
        unit = 2 * self.profile.ring_degree
        ciphertexts = -(-values // self.profile.slots)
        modulus = self.profile.modulus
        return (Section("ckks", modulus, ciphertexts * unit, residues_per_part(part_bytes, unit, modulus)),)

    def to_json(self) -> canonical.Json:
        """Return the canonical document."""
        return {"profile": self.profile.name, "scale_bits": self.scale_bits}

    @classmethod
    def from_json(cls, value: canonical.Json, magnitude: int, max_sites: int) -> CkksParameters:
        """Read what `to_json` wrote and check it again."""
        fields = canonical.Fields(value, "plan.parameters")
        name = fields.string("profile")
        scale_bits = fields.integer("scale_bits", 1, 60)
        fields.end()
        if name not in _BY_NAME:
            raise PlanError(Reason.BAD_PLAN, f"expected a profile out of {sorted(_BY_NAME)}, got {name!r}")
        parameters = cls.of(_BY_NAME[name], magnitude, max_sites)
        if parameters.scale_bits != scale_bits:
            raise PlanError(Reason.BAD_PLAN, f"plan: expected scale 2^{parameters.scale_bits}, got 2^{scale_bits}")
        return parameters


def _slot_variance(profile: CkksProfile, sites: int) -> float:
    """Return the variance of a slot's noise in a sum, at the scale: N/2 coefficients' worth of it.

    Each ciphertext adds a centred binomial, independent of all others, and the rounding of the encoder. That is uniform
    over one unit, but the polynomial of real slots is its own mirror image, so all of it lands in the real parts: 2/12.
    And it is the same for the same integers: sites that send one and the same vector add it up in step.
    """
    return profile.ring_degree / 2 * (NOISE_VARIANCE * sites + sites**2 / 6)
