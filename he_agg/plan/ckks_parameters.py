"""Parameters of CKKS vectors of integers: named profiles, the scale that makes sums exact, the room, the sections.

The scale makes the noise small: half a step is 14.6 standard deviations of it. The room is what the modulus needs for
the coefficients that a sum embeds to, and depends on what is summed:

    values of the codec `ckks`      4 * K*M * 2^scale_bits < q
    keys of the codec `hybrid`      2 * (14.6 * sqrt(10.5*K * (4^scale_bits/2048 + 1)) + K) < q

Values are chosen by whoever sends them: all slots may be M at all sites, so that one coefficient is K*M at the scale.
The modulus keeps a factor of two over that. Keys are drawn, each slot by itself, from the law of the noise. Coefficient
k of the sum is 2^scale_bits/2048 times the sum of the slots times cos(k*t_j), fixed factors of 1 at most: of 2048*K
independent centred binomials. So it is sub-Gaussian with its own variance, 4^scale_bits * 10.5*K/2048 for k = 0 and
half of that for all others (for these the squares of the cosines add up to 1024; coefficient 2048 is always 0). The
noise of encryption adds 10.5*K, and the K is for what the encoder rounds: half a unit a site, and float64's error, much
less than another half. More in docs/exactness.md.

Arithmetic only: the aggregator checks a plan with it and loads no HE library for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from he_agg import canonical
from he_agg.errors import PlanError, Reason
from he_agg.plan.sections import Section, residues_per_part
from he_agg.plan.security import (
    EXACTNESS_SIGMAS,
    NOISE_BOUND,
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
# 1 mod 8192: the second largest where both have the same length. tests/plan/test_ckks_parameters.py asks SEAL for them
# again.
PROFILES = (
    CkksProfile("ckks-n4096-q17", 4096, 114689, 188417),
    CkksProfile("ckks-n4096-q19", 4096, 417793, 1032193),
    CkksProfile("ckks-n4096-q22", 4096, 4169729, 8380417),
    CkksProfile("ckks-n4096-q24", 4096, 16736257, 16760833),
    CkksProfile("ckks-n4096-q27", 4096, 134111233, 134176769),
    CkksProfile("ckks-n4096-q30", 4096, 1073668097, 1073692673),
    CkksProfile("ckks-n4096-q40", 4096, 1099511390209, 1099511480321),
    CkksProfile("ckks-n4096-q50", 4096, 1125899906629633, 1125899906826241),
    CkksProfile("ckks-n4096-q60", 4096, 1152921504606830593, 70368743669761),
)
"""Smallest first. All within 106 bits at N = 4096: 35, 39, 45, 48, 54, 60, 80, 100 and 106."""

_BY_NAME = {profile.name: profile for profile in PROFILES}

_Room = Callable[[CkksProfile, int, int, int], float]
"""What the modulus has to be larger than: by profile, magnitude, sites and `scale_bits`."""

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
        """Choose the smallest profile that is safe and exact for any values.

        Args:
            magnitude: M, the largest absolute value of one site's integers.

        Raises:
            PlanError: no profile holds sums of that size.
        """
        return cls._choose(magnitude, max_sites, _room_for_values)

    @classmethod
    def for_keys(cls, max_sites: int) -> CkksParameters:
        """Choose the smallest profile that is safe and exact for one-time keys, a coefficient in each slot.

        Only for what each site draws by itself from the law of the noise, since chosen values could wrap. A sum of
        drawn ones does with a probability of 2^-152.

        Raises:
            PlanError: no profile holds so many.
        """
        return cls._choose(NOISE_BOUND, max_sites, _room_for_keys)

    @classmethod
    def _choose(cls, magnitude: int, max_sites: int, room: _Room) -> CkksParameters:
        for profile in PROFILES:
            try:
                return cls._of(profile, magnitude, max_sites, room)
            except PlanError:
                continue
        raise PlanError(
            Reason.NO_HEADROOM,
            f"codec ckks: no profile holds the sum of {max_sites} sites' values of up to {magnitude}",
            "ask for fewer value bits or fewer sites",
        )

    @classmethod
    def of(cls, profile: CkksProfile, magnitude: int, max_sites: int) -> CkksParameters:
        """Check and return the parameters of one profile for any values.

        The scale is the smallest power of two that keeps half a step 14.6 standard deviations of the noise of K
        ciphertexts away.

        Raises:
            PlanError: insecure, or no room for the sum.

        Source:
            shared analysis of exact CKKS sums; eprint 2024/853 for rounding as the cure of IND-CPA-D.
        """
        return cls._of(profile, magnitude, max_sites, _room_for_values)

    @classmethod
    def _of(cls, profile: CkksProfile, magnitude: int, max_sites: int, room: _Room) -> CkksParameters:
        check_security(profile.ring_degree, sum(profile.chain_bits))
        sigma = math.sqrt(_slot_variance(profile, max_sites))
        scale_bits = math.ceil(math.log2(2 * EXACTNESS_SIGMAS * sigma))
        needed = room(profile, magnitude, max_sites, scale_bits)
        if max_sites * magnitude >= 2**_FLOAT_BITS or needed >= profile.modulus:
            raise PlanError(
                Reason.NO_HEADROOM,
                f"{profile.name}: expected room for the sum of {max_sites} x {magnitude} at scale 2^{scale_bits}, "
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


def _room_for_values(_profile: CkksProfile, magnitude: int, sites: int, scale_bits: int) -> float:
    """Return twice the range of a sum whose slots are as large as they can be, all with the same sign."""
    return math.ldexp(4 * sites * magnitude, scale_bits)


def _room_for_keys(profile: CkksProfile, _magnitude: int, sites: int, scale_bits: int) -> float:
    """Return the range that a sum of drawn keys leaves with a probability of 2^-152. See above."""
    variance = NOISE_VARIANCE * sites * (4**scale_bits / profile.slots + 1)
    return 2 * (EXACTNESS_SIGMAS * math.sqrt(variance) + sites)
