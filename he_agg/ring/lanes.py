"""Vectors of sixteen 32-bit numbers inside Numba kernels: the few LLVM instructions that packing is made of.

An `@intrinsic` calls these with its builder `b` to emit instructions; nothing here runs when a kernel runs. LLVM
turns sixteen lanes into what the machine has: one AVX-512 register, two of AVX2, four of SSE or NEON.
"""

from __future__ import annotations

from typing import Any

import numba.core.cgutils as numba_cgutils
from llvmlite import ir

LANES = 16
"""Numbers in a vector."""

Numbers = list[int]

cgutils: Any = numba_cgutils  # untyped

_I32, _I64, _BYTE = ir.IntType(32), ir.IntType(64), ir.IntType(8)
_VECTOR = ir.VectorType(_I32, LANES)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)


def constant(numbers: Numbers) -> Any:
    """Sixteen constants, mod 2**32."""
    return ir.Constant(_VECTOR, [n & 0xFFFFFFFF for n in numbers])


def everywhere(number: int) -> Any:
    """One constant in every lane."""
    return constant([number] * LANES)


def spread(b: Any, number: Any) -> Any:
    """One 32-bit number, known at run time only, in every lane."""
    return pick_one(b, b.insert_element(_UNDEFINED, number, ir.Constant(_I32, 0)), [0] * LANES)


def pick_one(b: Any, v: Any, places: Numbers) -> Any:
    """Lane i becomes lane places[i] of v."""
    return b.shuffle_vector(v, _UNDEFINED, constant(places))


def pick_two(b: Any, v: Any, w: Any, places: Numbers) -> Any:
    """Lane i becomes lane places[i] of the 32 lanes of v and w."""
    return b.shuffle_vector(v, w, constant(places))


def shift_right(b: Any, high: Any, low: Any, counts: Numbers) -> Any:
    """The low halves of (high:low) >> counts, lane by lane.

    Args:
        b: The builder.
        high: Upper 32 bits of each lane.
        low: Lower 32 bits of each lane.
        counts: 0 to 31; the two shifts that this replaces would be undefined for 0.
    """
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.fshr.v16i32")
    return b.call(function, [high, low, constant(counts)])


def smaller(b: Any, v: Any, w: Any) -> Any:
    """Unsigned minimum, lane by lane."""
    return b.select(b.icmp_unsigned("<", v, w), v, w)


def larger(b: Any, v: Any, w: Any) -> Any:
    """Unsigned maximum, lane by lane."""
    return b.select(b.icmp_unsigned(">", v, w), v, w)


def largest_lane(b: Any, v: Any) -> Any:
    """Unsigned maximum of all lanes, a 32-bit number."""
    kind = ir.FunctionType(_I32, [_VECTOR])
    return b.call(cgutils.get_or_insert_function(b.module, kind, "llvm.vector.reduce.umax.v16i32"), [v])


class Stretch:
    """A stretch of an array, with vectors at constant distances from its beginning and on any boundary."""

    def __init__(self, context: Any, b: Any, kind: Any, array: Any, number: Any, size: int) -> None:
        """Find stretch `number` of `size` bytes.

        Args:
            context: Numba's target context.
            b: The builder.
            kind: The array's Numba type.
            array: The array.
            number: Which stretch, a 64-bit number.
            size: Bytes of each.
        """
        data = context.make_array(kind)(context, b, array).data
        self._b = b
        self._start = b.gep(b.bitcast(data, _BYTE.as_pointer()), [b.mul(number, ir.Constant(_I64, size))])

    def _vector(self, word: int) -> Any:
        return self._b.bitcast(self._b.gep(self._start, [ir.Constant(_I64, 4 * word)]), _VECTOR.as_pointer())

    def load(self, word: int) -> Any:
        """Words word, word + 1, ... word + 15."""
        return self._b.load(self._vector(word), align=1)

    def store(self, v: Any, word: int) -> None:
        """Write words word, word + 1, ... word + 15."""
        self._b.store(v, self._vector(word), align=1)
