"""The ring's fixed sizes and the primes in use."""

from __future__ import annotations

from functools import cache
from typing import Final

N: Final = 2048
"""Degree of the ring. The 2024 guideline table allows at most 53 bits of modulus with it.

Source: 2-scheme.md, Security table; the lattice estimator gives 234 bits of security for 30 bits, 173 for 40.
"""

LANES: Final = 16
"""Polynomials interleaved in one batch, so that every butterfly runs over a contiguous stretch."""

BATCH_VALUES: Final = N * LANES
"""Values in a batch; value index = coefficient * LANES + lane. The smallest unit that can be sought to."""

MIN_PRIME_BITS: Final = 16
MAX_PRIME_BITS: Final = 30
"""Widths of the primes. Below 2**30 so that 4q fits 32 bits (Harvey's lazy butterflies); the planner takes as few
bits as a plan needs, because bits of the prime are bits on the wire."""


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
    found: list[int] = []
    candidate = (1 << bits) - 2 * N + 1
    while len(found) < 2:
        if is_prime(candidate):
            found.append(candidate)
        candidate -= 2 * N
    return found[0], found[1]


def in_use(q: int) -> bool:
    """Tell whether a number is one of `ntt_primes`."""
    return MIN_PRIME_BITS <= q.bit_length() <= MAX_PRIME_BITS and q in ntt_primes(q.bit_length())
