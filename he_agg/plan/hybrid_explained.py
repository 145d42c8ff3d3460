"""Explain parameters of the codec `hybrid`: what their bits are spent on, and why these and no others.

What is sent for a coefficient has log2(p) bits, rounded up for each modulus. p = q * p/q has to be B^v * D * p/q at
least; with D = 2*L + 1, twice what noise and roundings reach, that is a product of three:

    B^v             v digits of a sum
    s               twice what roundings alone would reach, in units of p: the lesser of K, each off by half a unit, and
                    14.6 * sqrt(K/3), which is 2 * 14.6 standard deviations of K roundings by chance
    (2*L + 1) / (s * q/p)       what the noise of encryption adds to that; 1 where q is so much larger that it vanishes

Their logarithms are the costs of the sum, of rounding and of noise; what is left are fractions of whole bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from he_agg.plan.security import EXACTNESS_SIGMAS, MAX_MODULUS_BITS, NOISE_BOUND

if TYPE_CHECKING:
    from he_agg.plan.hybrid_parameters import HybridParameters

__all__ = ["KEY_ROW", "costs", "details", "split_key", "why"]

KEY_ROW = "one-time key"
"""The row that says how one-time keys travel."""

_SHOWN = 6
"""Numbers of values in a coefficient of which the bytes are shown: the fewest bytes, and those beside them."""


def costs(parameters: HybridParameters) -> tuple[tuple[str, float], ...]:
    """Split the bits of a value into what they are spent on. See above."""
    sites, packing = parameters.max_sites, parameters.packing
    value = math.log2(2 * parameters.magnitude + 1)
    of_sum = math.log2(2 * sites * parameters.magnitude + 1)
    steps = min(sites, EXACTNESS_SIGMAS * math.sqrt(sites / 3))
    ratio = parameters.modulus / math.prod(parameters.moduli)
    rounding = math.log2(steps) / packing
    noise = math.log2(parameters.least_delta / (ratio * steps)) / packing
    return (
        ("a site's value", value),
        ("room for the sum", of_sum - value),
        ("rounding", rounding),
        ("noise", noise),
        ("whole bits", parameters.bits_per_value - of_sum - rounding - noise),
    )


def details(parameters: HybridParameters) -> tuple[tuple[str, str], ...]:
    """Describe parameters: rows of a name and a sentence."""
    sites, packing, key = parameters.max_sites, parameters.packing, parameters.key
    sent = math.prod(parameters.moduli).bit_length()
    primes = " * ".join(map(str, parameters.primes))
    modulo = " and ".join(f"{modulus} ({modulus.bit_length()} bits)" for modulus in parameters.moduli)
    return (
        ("packing", _packing(packing, 2 * sites * parameters.magnitude + 1, sites)),
        (
            "ring",
            f"N = {parameters.ring_degree}, q = {primes}, {parameters.security_modulus_bits} bits; step D = "
            f"{parameters.delta} between plaintexts",
        ),
        ("sent", f"rounded from q to p of {sent} bits: residues modulo {modulo}"),
        (
            KEY_ROW,
            f"coefficients to {NOISE_BOUND}, in the sum to {NOISE_BOUND * sites}: one CKKS ciphertext, {key.name} at "
            f"scale 2^{key.scale_bits}, with room for all sums of drawn keys but one in 2^152, under the group key, "
            f"{key.security_bits} bits of security or more",
        ),
        ("exactness", _exactness(parameters)),
    )


def split_key(parameters: HybridParameters) -> str:
    """Describe how the one-time key travels where a plan splits keys: in the place of what `details` says of it."""
    return (
        f"coefficients to {NOISE_BOUND}, in the sum to {NOISE_BOUND * parameters.max_sites}: masked under the group "
        "key, and dealt in shares to the roster's holders, who answer for one sum of a round"
    )


def why(parameters: HybridParameters) -> str:
    """Say why these parameters: the search, and what it found with other numbers of values in a coefficient."""
    found = sorted(parameters.fewest_bits.items())
    best = min(range(len(found)), key=lambda i: found[i][1])
    first = max(0, min(best - _SHOWN // 2, len(found) - _SHOWN))
    shown = found[first : first + _SHOWN]
    packings, sizes = _list(str(packing) for packing, _ in shown), _list(f"{bits / 8:.3f}" for _, bits in shown)
    return (
        f"the fewest bytes of all that are secure ({MAX_MODULUS_BITS[parameters.ring_degree]} bits of q at most) and "
        "exact, and of those within 2.5 % the fewest transforms a value, which are the work. With "
        f"v = {packings} it would be {sizes} bytes"
    )


def _packing(packing: int, base: int, sites: int) -> str:
    sums = f"the sum of {sites} sites has so many values"
    if packing == 1:
        return f"v = 1: a coefficient carries one value, as a digit in base {base}: {sums}"
    return (
        f"v = {packing}: a coefficient carries {packing} values, as the digits of one number in base {base}: {sums}, "
        "so that no digit carries"
    )


def _exactness(parameters: HybridParameters) -> str:
    sites, wrong = parameters.max_sites, (parameters.delta + 1) // 2
    certain, mixed, by_chance = parameters.bounds
    if wrong > certain:
        reach, what = certain, f"noise and roundings of {sites} sites cannot exceed"
    elif mixed < by_chance:
        reach, what = mixed, f"the worst roundings of {sites} sites and 14.6 standard deviations of the noise make"
    else:
        reach, what = by_chance, f"14.6 standard deviations of noise and roundings of {sites} sites make"
    return f"{what} {math.floor(reach)}; a value would be wrong from {wrong} on"


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)
