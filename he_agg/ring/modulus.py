"""Precompute the tables of one prime: twiddle factors in SEAL's order and their Shoup quotients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from he_agg.ring.primes import N, in_use, smallest_root


def shoup_quotients(values: NDArray[np.uint32], q: int) -> NDArray[np.uint32]:
    """Return floor(w * 2**32 / q), which lets `w * x mod q` be computed without a division.

    No division here either: the processor's divider takes longer for some operands, and some callers' values
    are secret. With m = floor(2**62 / q), floor(w*m / 2**30) is the wanted quotient or one less, because
    w < 2**30 makes the error of the product less than one; the remainder tells which.

    Args:
        values: Factors w < q.
        q: The modulus, below 2**30.

    Source: V. Shoup, NTL; D. Harvey, "Faster arithmetic for number-theoretic transforms", 2014, section 2.
    """
    w = values.astype(np.uint64)
    m = np.uint64((1 << 62) // q)  # < 2**33, so w * m < 2**63
    quotient = (w * m) >> np.uint64(30)
    rest = (w << np.uint64(32)) - quotient * np.uint64(q)  # < 2q
    quotient += rest >= np.uint64(q)
    result = quotient.astype(np.uint32)
    for copy in (w, quotient, rest):  # of a secret, perhaps
        copy.fill(0)
    return result


def bit_reversed(count: int) -> list[int]:
    """Return 0..count-1, each with its bits in reverse order (count a power of two)."""
    order = [0]
    while len(order) < count:
        order = [2 * i for i in order] + [2 * i + 1 for i in order]
    return order


@dataclass(frozen=True, eq=False)
class Modulus:
    """One prime with its tables. A class so that the tables are made once and travel together.

    Attributes:
        q: The prime.
        root: The smallest primitive 2N-th root of unity.
        forward: root**brv(i) for the Cooley-Tukey transform. Shape: (N,).
        forward_quotients: Their Shoup quotients. Shape: (N,).
        inverse: root**-brv(i) for the Gentleman-Sande transform. Shape: (N,).
        inverse_quotients: Their Shoup quotients. Shape: (N,).
        n_inverse: 1/N mod q, which the inverse transform leaves to its caller.
    """

    q: int
    root: int
    forward: NDArray[np.uint32]
    forward_quotients: NDArray[np.uint32]
    inverse: NDArray[np.uint32]
    inverse_quotients: NDArray[np.uint32]
    n_inverse: int

    def quotient(self, factor: int) -> int:
        """Return the Shoup quotient of a public factor below q."""
        return (factor << 32) // self.q


def _powers(base: int, q: int) -> NDArray[np.uint32]:
    powers, x = [], 1
    for _ in range(N):
        powers.append(x)
        x = x * base % q
    table = np.array(powers, dtype=np.uint32)[bit_reversed(N)]
    table.setflags(write=False)
    return table


@cache
def modulus(q: int) -> Modulus:
    """Return the tables of one of the primes in use; made at the first call, about 10 ms.

    Args:
        q: One of `ntt_primes`.
    """
    if not in_use(q):
        raise ValueError(f"{q} is not one of the primes in use")
    root = smallest_root(q, 2 * N)
    forward, inverse = _powers(root, q), _powers(pow(root, -1, q), q)
    quotients = [shoup_quotients(table, q) for table in (forward, inverse)]
    for table in quotients:
        table.setflags(write=False)
    return Modulus(q, root, forward, quotients[0], inverse, quotients[1], pow(N, -1, q))
