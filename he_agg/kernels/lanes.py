"""Vectors of sixteen 32-bit numbers inside Numba kernels: the few LLVM instructions that packing and NTT are made of.

An `@intrinsic` calls these with its builder `b` to emit instructions; nothing here runs when a kernel runs. LLVM
turns sixteen lanes into what the machine has: one AVX-512 register, two of AVX2, four of SSE or NEON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba.core.cgutils as numba_cgutils
from llvmlite import ir
from numba import extending, types

LANES = 16
"""Numbers in a vector."""

Numbers = list[int]

cgutils: Any = numba_cgutils  # untyped

intrinsic: Callable[[Callable[..., Any]], Any] = extending.intrinsic(prefer_literal=True)
"""Numba's decorator for a function that emits instructions; of a constant it is given the value, not the type alone."""


@intrinsic
def widest_vectors(_: Any) -> Any:
    """Let a function's plain loops use 512-bit vectors; LLVM prefers half of that even where a machine has them.

    For loops that are long and full of arithmetic, a third faster on Sapphire Rapids. The attribute is not among those
    that llvmlite knows by name.
    """

    def emit(context: Any, b: Any, _signature: Any, _arguments: Any) -> Any:
        set.add(b.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), emit


_I32, _I64, _BYTE = ir.IntType(32), ir.IntType(64), ir.IntType(8)
_VECTOR = ir.VectorType(_I32, LANES)
_WIDE = ir.VectorType(_I64, LANES // 2)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)


def integer(number: int) -> Any:
    """Return a 64-bit constant."""
    return ir.Constant(_I64, number)


def constant(numbers: Numbers) -> Any:
    """Return sixteen constants, mod 2**32."""
    return ir.Constant(_VECTOR, [n & 0xFFFFFFFF for n in numbers])


def everywhere(number: int) -> Any:
    """Put one constant into every lane."""
    return constant([number] * LANES)


def _wide(number: int) -> Any:
    return ir.Constant(_WIDE, [number] * (LANES // 2))


def spread(b: Any, number: Any) -> Any:
    """Put one 32-bit number, known only at run time, into every lane."""
    return pick_one(b, b.insert_element(_UNDEFINED, number, ir.Constant(_I32, 0)), [0] * LANES)


def pick_one(b: Any, v: Any, places: Numbers) -> Any:
    """Return v with lane places[i] moved to lane i."""
    return b.shuffle_vector(v, _UNDEFINED, constant(places))


def pick_two(b: Any, v: Any, w: Any, places: Numbers) -> Any:
    """Return a vector whose lane i is lane places[i] of the 32 lanes of v and w."""
    return b.shuffle_vector(v, w, constant(places))


def shift_right(b: Any, high: Any, low: Any, counts: Numbers) -> Any:
    """Return the low halves of (high:low) >> counts, lane by lane.

    Args:
        counts: 0 to 31; the two shifts that this replaces would be undefined for 0.
    """
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.fshr.v16i32")
    return b.call(function, [high, low, constant(counts)])


def smaller(b: Any, v: Any, w: Any) -> Any:
    """Return the unsigned minimum, lane by lane."""
    return b.select(b.icmp_unsigned("<", v, w), v, w)


def larger(b: Any, v: Any, w: Any) -> Any:
    """Return the unsigned maximum, lane by lane."""
    return b.select(b.icmp_unsigned(">", v, w), v, w)


def high_product(b: Any, v: Any, number: Any) -> Any:
    """Return the upper 32 bits of each lane's product with one number, from `Stretch.load_wide`.

    Even and odd lanes apart, as machines multiply; the general form comes out at twice the instructions.
    """
    pairs = b.bitcast(v, _WIDE)
    even = b.mul(b.and_(pairs, _wide(0xFFFFFFFF)), number)
    odd = b.mul(b.lshr(pairs, _wide(32)), number)
    upper = [place for i in range(1, LANES, 2) for place in (i, LANES + i)]
    return pick_two(b, b.bitcast(even, _VECTOR), b.bitcast(odd, _VECTOR), upper)


def largest_lane(b: Any, v: Any) -> Any:
    """Return the unsigned maximum of all lanes, a 32-bit number."""
    kind = ir.FunctionType(_I32, [_VECTOR])
    return b.call(cgutils.get_or_insert_function(b.module, kind, "llvm.vector.reduce.umax.v16i32"), [v])


class Stretch:
    """A stretch of an array, with vectors at constant distances from its beginning and on any boundary."""

    def __init__(self, context: Any, b: Any, kind: Any, array: Any, number: Any, size: int) -> None:
        """Find stretch `number` of `size` bytes."""
        data = context.make_array(kind)(context, b, array).data
        self._b = b
        self._start = b.gep(b.bitcast(data, _BYTE.as_pointer()), [b.mul(number, ir.Constant(_I64, size))])

    def _vector(self, word: int) -> Any:
        return self._b.bitcast(self._b.gep(self._start, [ir.Constant(_I64, 4 * word)]), _VECTOR.as_pointer())

    def _one(self, word: int) -> Any:
        place = self._b.gep(self._start, [ir.Constant(_I64, 4 * word)])
        return self._b.load(self._b.bitcast(place, _I32.as_pointer()), align=1)

    def load_everywhere(self, word: int) -> Any:
        """Load one word into every lane."""
        return spread(self._b, self._one(word))

    def load_wide(self, word: int) -> Any:
        """Load one word into every pair of lanes, as a 64-bit number."""
        nothing = ir.Constant(_WIDE, ir.Undefined)
        one = self._b.insert_element(nothing, self._b.zext(self._one(word), _I64), ir.Constant(_I32, 0))
        return self._b.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, LANES // 2), [0] * (LANES // 2)))

    def load(self, word: int) -> Any:
        """Load the words word, word + 1, ... word + 15."""
        return self._b.load(self._vector(word), align=1)

    def prefetch(self, word: int) -> None:
        """Ask for a word's cache line; an address that does not exist is no error."""
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(self._b.module, kind, "llvm.prefetch.p0")
        place = self._b.gep(self._start, [ir.Constant(_I64, 4 * word)])
        self._b.call(function, [place, *(ir.Constant(_I32, n) for n in (0, 2, 1))])  # to read, into L2, data

    def store(self, v: Any, word: int) -> None:
        """Write words word, word + 1, ... word + 15."""
        self._b.store(v, self._vector(word), align=1)
