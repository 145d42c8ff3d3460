"""The product of sixteen interleaved transforms with a key, transformed back: where most of encryption's time goes.

Eleven stages of butterflies, one at a time, would load and store a batch of 128 KiB eleven times, from the L2 cache.
Here three stages at a time work on eight vectors that stay in registers, so four passes do, the first of which also
multiplies. A vector is one coefficient of the sixteen polynomials. The arithmetic is Harvey's, as in `ntt.py`:
branch-free, in [0, 2q) from stage to stage.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from he_agg.kernels import lanes
from he_agg.kernels.jit import kernel
from he_agg.kernels.lanes import LANES, Stretch, cgutils, intrinsic
from he_agg.ring.primes import N

U32 = NDArray[np.uint32]

_PASSES = ((1, 3), (8, 3), (64, 3), (512, 2))
"""Distance between the two coefficients of a butterfly in a pass's first stage, and its number of stages."""

_FETCHING = 64
"""The pass that meanwhile asks for what comes next: 256 steps, eight cache lines each, are one batch of values."""


def _mul_lazy(b: Any, v: Any, factor: tuple[Any, Any], q: Any) -> Any:
    """Do `ntt.mul_lazy` lane by lane; a factor comes with its Shoup quotient."""
    w, quotient = factor
    return b.sub(b.mul(v, w), b.mul(lanes.high_product(b, v, quotient), q))


def _butterflies(b: Any, x: list[Any], factors: list[list[tuple[Any, Any]]], q: Any, q2: Any) -> None:
    """Run some stages of the inverse transform on 2**stages coefficients, in place: [0, 2q) -> [0, 2q)."""
    for stage, stage_factors in enumerate(factors):
        length = 1 << stage
        for low in range(len(x)):
            if low & length:
                continue
            u, v = x[low], x[low + length]
            s = b.add(u, v)  # < 4q
            x[low] = lanes.smaller(b, s, b.sub(s, q2))  # < 2q
            difference = b.add(b.sub(u, v), q2)  # < 4q
            x[low + length] = _mul_lazy(b, difference, stage_factors[low >> (stage + 1)], q)  # < 2q


@intrinsic
def _inverse_passes(_: Any, x: Any, key: Any, key_quotients: Any, roots: Any, quotients: Any, q: Any, soon: Any) -> Any:
    signature = types.void(x, key, key_quotients, roots, quotients, q, soon)

    def emit(context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        modulus = lanes.spread(b, arguments[5])
        twice = b.add(modulus, modulus)

        def factors(which: int, number: Any, count: int, first: int) -> list[tuple[Any, Any]]:
            """Load factors first + number * count, ... and their quotients, `count` of them, from two arguments."""
            pair = [Stretch(context, b, signature.args[i], arguments[i], number, 4 * count) for i in (which, which + 1)]
            return [(pair[0].load_everywhere(first + i), pair[1].load_wide(first + i)) for i in range(count)]

        for length, stages in _PASSES:
            width = 1 << stages
            with cgutils.for_range(b, lanes.integer(N // (width * length))) as block:
                of_stages = [
                    factors(3, block.index, width >> (stage + 1), N // (2 * length << stage)) for stage in range(stages)
                ]
                with cgutils.for_range(b, lanes.integer(length)) as step:
                    start = b.add(b.mul(block.index, lanes.integer(width * length)), step.index)
                    place = Stretch(context, b, signature.args[0], arguments[0], start, 4 * LANES)
                    vectors = [place.load(i * length * LANES) for i in range(width)]
                    if length == _FETCHING:
                        number = b.add(b.mul(block.index, lanes.integer(length)), step.index)
                        ahead = Stretch(context, b, signature.args[6], arguments[6], number, 8 * 4 * LANES)
                        for i in range(8):
                            ahead.prefetch(i * LANES)
                    if length == 1:  # any uint32 -> [0, 2q)
                        by_key = factors(1, block.index, width, 0)
                        vectors = [_mul_lazy(b, v, f, modulus) for v, f in zip(vectors, by_key, strict=True)]
                    _butterflies(b, vectors, of_stages, modulus, twice)
                    for i, v in enumerate(vectors):
                        place.store(v, i * length * LANES)
        return context.get_dummy_value()

    return signature, emit


@kernel
def inverse_product(x: U32, key: U32, key_quotients: U32, roots: U32, quotients: U32, q: np.uint32, soon: U32) -> None:
    """Multiply sixteen transforms by one and transform back, times N, in place: any uint32 -> [0, 2q).

    Args:
        x: The transforms; index = transform index * LANES + lane. Shape: (N * LANES,).
        key: The factor, < q, as `ntt.transform_key` gives it: with 1/N, which the transform leaves out. Shape: (N,).
        key_quotients: Its Shoup quotients. Shape: (N,).
        soon: What the caller reads next, fetched from memory meanwhile; it costs an eighth of encryption's time to
            wait for it. Read-only. Shape: (N * LANES,).
    """
    _inverse_passes(x, key, key_quotients, roots, quotients, q, soon)
