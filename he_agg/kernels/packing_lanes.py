"""Packing at 2 to 31 bits, in vectors of 16 residues: the widths that every submission travels in.

What a compiler makes of a loop over residues is scalar, because word and shift change from one to the next. They
repeat, though: 32 residues fill `bits` 32-bit words exactly, so that in a *unit* of 32 residues (64, 128 or 256 below
16 bits, which makes it 16 to 31 words at every width) each word index and each shift is a constant. Here these
constants go into vector instructions (LLVM's `shufflevector` and funnel shift), which is 5 to 15 times as fast in
cache.

A unit is read and written within its own bounds, also by its last vector, which starts 16 words before its end; the
residues after the last whole unit take a scalar loop over single bytes. So nothing is touched outside the arrays, and
no alignment is asked for. Nothing branches on, or indexes by, a residue.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types, uint8, uint32, uint64
from numpy.typing import NDArray

from he_agg.kernels import lanes
from he_agg.kernels.jit import kernel
from he_agg.kernels.lanes import LANES, Stretch, cgutils, intrinsic

U32 = NDArray[np.uint32]
Bytes = NDArray[np.uint8]

MAX_LANE_BITS = 31
"""Widths handled here: residues are uint32, and the sum of two is too."""


def unit_residues(bits: int) -> int:
    """Return how many residues make a unit: 32, doubled until they fill at least 16 words."""
    residues = 32
    while residues * bits < 32 * LANES:
        residues *= 2
    return residues


def unpacked(b: Any, packed: Stretch, bits: int) -> list[Any]:
    """Unpack a unit vector by vector, reading nothing outside it. Works for 32 bits, which are not packed."""
    out = []
    for vector in range(unit_residues(bits) // LANES):
        positions = [(vector * LANES + lane) * bits for lane in range(LANES)]
        # A vector's residues lie within 16 words; near the end of the unit those are its last 16.
        first = min(positions[0] // 32, unit_residues(bits) * bits // 32 - LANES)
        words = packed.load(first)
        low = [p // 32 - first for p in positions]
        high = [min(place + 1, LANES - 1) for place in low]  # the last one is not needed when it does not exist
        pieces = lanes.pick_one(b, words, high), lanes.pick_one(b, words, low)
        shifted = lanes.shift_right(b, pieces[0], pieces[1], [p % 32 for p in positions])
        out.append(b.and_(shifted, lanes.everywhere((1 << bits) - 1)))
    return out


def _store_packed(b: Any, residues: list[Any], bits: int, packed: Stretch) -> None:
    """Pack all residues of a unit."""
    while len(residues) > 2:  # neighbours make one residue of twice the width
        even, odd = list(range(0, 2 * LANES, 2)), list(range(1, 2 * LANES, 2))
        couples = list(zip(residues[::2], residues[1::2], strict=True))
        seconds = [b.shl(lanes.pick_two(b, v, w, odd), lanes.everywhere(bits)) for v, w in couples]
        residues = [b.or_(lanes.pick_two(b, v, w, even), s) for (v, w), s in zip(couples, seconds, strict=True)]
        bits *= 2
    one, two = residues
    top_one, top_two = (b.shl(v, lanes.everywhere(32 - bits)) for v in residues)
    for first in (0, bits - LANES):
        starts = [32 * (first + lane) for lane in range(LANES)]
        owner = [s // bits for s in starts]  # the residue that a word begins with
        used = [s % bits for s in starts]  # how much of it lies in the word before
        low = lanes.pick_two(b, top_one, top_two, owner)
        high = lanes.pick_two(b, one, two, [o + 1 for o in owner])
        word = lanes.shift_right(b, high, low, [32 - bits + u for u in used])
        third = [2 * bits - u for u in used]  # where the residue after the next begins
        if min(third) < 32:
            more = lanes.pick_two(b, one, two, [min(o + 2, 31) for o in owner])
            more = b.shl(more, lanes.constant([min(t, 31) for t in third]))
            word = b.or_(word, b.and_(more, lanes.constant([-1 if t < 32 else 0 for t in third])))
        packed.store(word, first)


@intrinsic
def _pack_units(_: Any, x: Any, packed: Any, _units: Any, bits: Any) -> Any:
    width = bits.literal_value

    def emit(context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        with cgutils.for_range(b, arguments[2]) as loop:
            source = Stretch(context, b, x, arguments[0], loop.index, 4 * unit_residues(width))
            target = Stretch(context, b, packed, arguments[1], loop.index, unit_residues(width) * width // 8)
            residues = [source.load(word) for word in range(0, unit_residues(width), LANES)]
            _store_packed(b, residues, width, target)
        return context.get_dummy_value()

    return types.void(x, packed, types.intp, bits), emit


@intrinsic
def _unpack_units(_: Any, packed: Any, x: Any, _units: Any, bits: Any) -> Any:
    width = bits.literal_value

    def emit(context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        with cgutils.for_range(b, arguments[2]) as loop:
            source = Stretch(context, b, packed, arguments[0], loop.index, unit_residues(width) * width // 8)
            target = Stretch(context, b, x, arguments[1], loop.index, 4 * unit_residues(width))
            for vector, residues in enumerate(unpacked(b, source, width)):
                target.store(residues, vector * LANES)
        return context.get_dummy_value()

    return types.void(packed, x, types.intp, bits), emit


@intrinsic
def _fold_units(_: Any, packed: Any, total: Any, _q: Any, _units: Any, bits: Any) -> Any:
    width = bits.literal_value

    def emit(context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        modulus = lanes.spread(b, arguments[2])
        # One running maximum for each vector of a unit, so that none waits for the one before.
        places = range(0, unit_residues(width), LANES)
        maxima = [cgutils.alloca_once_value(b, lanes.everywhere(0)) for _ in places]
        with cgutils.for_range(b, arguments[3]) as loop:
            source = Stretch(context, b, packed, arguments[0], loop.index, unit_residues(width) * width // 8)
            target = Stretch(context, b, total, arguments[1], loop.index, 4 * unit_residues(width))
            for place, residues, largest in zip(places, unpacked(b, source, width), maxima, strict=True):
                b.store(lanes.larger(b, residues, b.load(largest)), largest)
                s = b.add(target.load(place), residues)  # < 2q
                target.store(lanes.smaller(b, s, b.sub(s, modulus)), place)  # < q
        largest = b.load(maxima[0])
        for other in maxima[1:]:
            largest = lanes.larger(b, largest, b.load(other))
        return lanes.largest_lane(b, largest)

    return types.uint32(packed, total, types.uint32, types.intp, bits), emit


# What follows is compiled as it stands. The rest of an array, from residue `start` on, begins on a whole byte.


@kernel
def _pack_rest(x: U32, packed: Bytes, start: int, bits: int) -> None:
    pending, held, place = uint64(0), 0, start // 8 * bits
    for i in range(start, x.size):
        pending |= uint64(x[i]) << uint64(held)
        held += bits
        while held >= 8:
            packed[place] = uint8(pending & uint64(255))
            pending >>= uint64(8)
            held -= 8
            place += 1
    if held:
        packed[place] = uint8(pending)


@kernel
def _residue(packed: Bytes, i: int, bits: int) -> np.uint32:
    shift, y = (i * bits) & 7, uint64(0)
    for k in range((shift + bits + 7) >> 3):
        y |= uint64(packed[((i * bits) >> 3) + k]) << uint64(8 * k)
    return uint32((y >> uint64(shift)) & ((uint64(1) << uint64(bits)) - uint64(1)))


@kernel
def _unpack_rest(packed: Bytes, x: U32, start: int, bits: int) -> None:
    for i in range(start, x.size):
        x[i] = _residue(packed, i, bits)


@kernel
def _fold_rest(packed: Bytes, total: U32, q: np.uint32, start: int, bits: int) -> np.uint32:
    largest = uint32(0)
    for i in range(start, total.size):
        y = _residue(packed, i, bits)
        largest = max(largest, y)
        s = uint32(total[i] + y)  # < 2q <= 2**32
        total[i] = min(s, uint32(s - q))  # < q
    return largest


# The factories close over the width, which makes it a constant to the compiler. The loop over the rest takes it as a
# number like any other: it is compiled once then, not once for each width.


@cache
def pack_kernel(bits: int) -> Callable[[U32, Bytes], None]:
    """Return the function (x, packed) that packs residues < 2**bits. Shapes: (n,), (packed_bytes(n, bits),)."""
    unit = unit_residues(bits)

    @kernel
    def pack_lanes(x: U32, packed: Bytes) -> None:
        units = x.size // unit
        _pack_units(x, packed, units, bits)
        _pack_rest(x, packed, units * unit, int(bits))

    return pack_lanes


@cache
def unpack_kernel(bits: int) -> Callable[[Bytes, U32], None]:
    """Return the function (packed, x) that unpacks. Shapes: (packed_bytes(n, bits),), (n,)."""
    unit = unit_residues(bits)

    @kernel
    def unpack_lanes(packed: Bytes, x: U32) -> None:
        units = x.size // unit
        _unpack_units(packed, x, units, bits)
        _unpack_rest(packed, x, units * unit, int(bits))

    return unpack_lanes


@cache
def fold_kernel(bits: int) -> Callable[[Bytes, U32, np.uint32], np.uint32]:
    """Return the function (packed, total, q) that adds mod q and returns the largest residue.

    Shapes: (packed_bytes(n, bits),), (n,). When the largest residue is >= q the sum is spoilt.
    """
    unit = unit_residues(bits)

    @kernel
    def fold_lanes(packed: Bytes, total: U32, q: np.uint32) -> np.uint32:
        units = total.size // unit
        largest = _fold_units(packed, total, q, units, bits)
        return max(largest, _fold_rest(packed, total, q, units * unit, int(bits)))

    return fold_lanes
