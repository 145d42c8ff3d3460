"""The negacyclic number-theoretic transform, bit-exact with SEAL's: forward, for keys. Back: `ntt_lanes.py`.

Layout: `lanes` polynomials side by side, index = coefficient * lanes + lane; lanes is 16 for a batch and 1
for a key. Coefficient order is natural, transform order is bit-reversed. All loops run over contiguous 1-D
slices: that is the form that LLVM vectorises (indexing a 2-D array ran 7 times slower).

All values are uint32 and all kernels branch-free in them. `x - q` wraps around when x < q, so `min(x, x - q)`
is the subtraction "if needed", without a branch.

Source: D. Harvey, "Faster arithmetic for number-theoretic transforms", J. Symb. Comp. 60 (2014), algorithms
2-4.
"""

from __future__ import annotations

import numpy as np
from numba import uint32, uint64
from numpy.typing import NDArray

from he_agg.kernels.jit import kernel
from he_agg.ring.modulus import Modulus, shoup_quotients

U32 = NDArray[np.uint32]


@kernel
def mul_lazy(x: np.uint32, w: np.uint32, quotient: np.uint32, q: np.uint32) -> np.uint32:
    """Return x*w mod q in [0, 2q), for any 32-bit x, w < q and quotient = floor(w * 2**32 / q)."""
    high = uint32((uint64(x) * uint64(quotient)) >> uint64(32))
    return uint32(uint32(x * w) - uint32(high * q))  # both products wrap; their difference is < 2q


@kernel
def forward(x: U32, roots: U32, quotients: U32, lanes: int, q: np.uint32) -> None:
    """Transform in place: coefficients in [0, 4q) -> transform in [0, q).

    Args:
        x: `lanes` polynomials. Shape: (N * lanes,).
    """
    q2 = uint32(2 * q)
    groups, length = 1, x.size // 2
    while length >= lanes:
        for g in range(groups):
            w, wq = roots[groups + g], quotients[groups + g]
            low = x[2 * g * length : 2 * g * length + length]
            high = x[2 * g * length + length : 2 * g * length + 2 * length]
            for i in range(length):  # in: both < 4q
                u = min(low[i], uint32(low[i] - q2))  # < 2q
                v = mul_lazy(high[i], w, wq, q)  # < 2q
                low[i] = uint32(u + v)  # < 4q
                high[i] = uint32(u - v + q2)  # < 4q
        groups, length = groups * 2, length // 2
    for i in range(x.size):
        y = min(x[i], uint32(x[i] - q2))  # < 2q
        x[i] = min(y, uint32(y - q))  # < q


@kernel
def scale(x: U32, w: np.uint32, quotient: np.uint32, q: np.uint32) -> None:
    """Multiply by a constant in place: any uint32 -> [0, q)."""
    for i in range(x.size):
        y = mul_lazy(x[i], w, quotient, q)  # < 2q
        x[i] = min(y, uint32(y - q))  # < q


def transform_key(coefficients: NDArray[np.signedinteger], m: Modulus, times: int) -> tuple[U32, U32]:
    """Transform one small polynomial into the factor that the kernels multiply with.

    The factor carries 1/N, so that the way back needs no scaling of its own, and what else the caller wants. Without a
    branch or a division on the coefficients, since they are a secret key.

    Args:
        coefficients: Signed coefficients, each below q in magnitude. Shape: (N,).
        times: A public factor, below q.

    Returns:
        The transform times 1/N and `times`, < q, and its Shoup quotients. Shape: (N,) each.
    """
    signed = coefficients.astype(np.int64)
    signed += (signed >> 63) & m.q  # < q
    x = signed.astype(np.uint32)
    q = np.uint32(m.q)
    forward(x, m.forward, m.forward_quotients, 1, q)
    factor = m.n_inverse * times % m.q
    scale(x, np.uint32(factor), np.uint32(m.quotient(factor)), q)
    signed.fill(0)
    return x, shoup_quotients(x, m.q)
