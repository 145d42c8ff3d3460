"""The ring's fixed sizes and the primes in use."""

from __future__ import annotations

from functools import cache
from typing import Final

N: Final = 2048
"""Degree of the ring. The 2024 guideline table allows at most 53 bits of modulus with it.

Sources, and estimates for the key law in use: plan/security.py.
"""

LANES: Final = 16
"""Polynomials interleaved in one batch, so that every butterfly runs over a contiguous stretch."""

BATCH: Final = N * LANES
"""Coefficients in a batch, index = coefficient of the polynomial * LANES + lane: the smallest unit to be sought to."""

MIN_PRIME_BITS: Final = 16
MAX_PRIME_BITS: Final = 30
"""Widths of the primes. Of the ring: below 2**30 so that 4q fits 32 bits (Harvey's lazy butterflies); the planner takes
as few bits as a plan needs, because fewer bits are safer."""

MIN_SENT_BITS: Final = 16
MAX_SENT_BITS: Final = 31
"""Widths of the primes that residues are sent modulo: up to 31 bits the adder's sums stay in 32."""


def is_prime(number: int) -> bool:
    """Decide primality for numbers below 3.3e24 (Miller-Rabin, 13 bases, exact there).

    Source: Sorenson and Webster, "Strong pseudoprimes to twelve prime bases", 2015.
    """
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
    if number < 2 or any(number % p == 0 for p in bases):
        return number in bases
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        x = pow(base, odd, number)
        if x in (1, number - 1):
            continue
        if not any((x := x * x % number) == number - 1 for _ in range(twos - 1)):
            return False
    return True


def smallest_root(q: int, order: int) -> int:
    """Return the smallest primitive root of unity of an order that is a power of two.

    The smallest one makes the transform agree with SEAL's bit by bit.

    Args:
        q: A prime with q = 1 mod order.

    Returns:
        The smallest x with x**(order/2) = -1 mod q.
    """
    if (q - 1) % order:
        raise ValueError(f"no root of unity of order {order} modulo {q}")
    root = next(r for g in range(2, q) if pow(r := pow(g, (q - 1) // order, q), order // 2, q) == q - 1)
    square = root * root % q
    best = root
    for _ in range(order // 2 - 1):  # all primitive roots are the odd powers of one
        root = root * square % q
        best = min(best, root)
    return best


@cache
def ntt_primes(bits: int) -> tuple[int, int]:
    """Return the two largest primes of a width that are 1 mod 2N, so that a primitive 2N-th root exists.

    Args:
        bits: `MIN_PRIME_BITS` to `MAX_PRIME_BITS`.

    Returns:
        The primes, largest first: what SEAL's CoeffModulus.Create(2048, [bits, bits]) returns, in its other order
        (tests/ring/test_seal_interop.py checks it).
    """
    if not MIN_PRIME_BITS <= bits <= MAX_PRIME_BITS:
        raise ValueError(f"primes have {MIN_PRIME_BITS} to {MAX_PRIME_BITS} bits, got {bits}")
    return _two_largest((1 << bits) - 2 * N + 1, 2 * N)


@cache
def sent_primes(bits: int) -> tuple[int, int]:
    """Return the two largest primes of a width, whatever they are mod 2N.

    Args:
        bits: `MIN_SENT_BITS` to `MAX_SENT_BITS`.
    """
    if not MIN_SENT_BITS <= bits <= MAX_SENT_BITS:
        raise ValueError(f"primes that are sent have {MIN_SENT_BITS} to {MAX_SENT_BITS} bits, got {bits}")
    return _two_largest((1 << bits) - 1, 2)


def _two_largest(first: int, step: int) -> tuple[int, int]:
    primes = (candidate for candidate in range(first, 1, -step) if is_prime(candidate))
    return next(primes), next(primes)


def in_use(q: int) -> bool:
    """Tell whether a number is one of `ntt_primes`."""
    return MIN_PRIME_BITS <= q.bit_length() <= MAX_PRIME_BITS and q in ntt_primes(q.bit_length())


def is_sent(q: int) -> bool:
    """Tell whether a number is one of `sent_primes`."""
    return MIN_SENT_BITS <= q.bit_length() <= MAX_SENT_BITS and q in sent_primes(q.bit_length())


def coefficients_of(values: int, digits: int) -> int:
    """Count the coefficients that carry so many values: whole batches, and what the last values need."""
    batches, rest = divmod(values, digits * BATCH)
    return batches * BATCH + -(-rest // digits)
