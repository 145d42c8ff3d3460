"""The multiply-accumulate of the linear MAC: packed residues times two short vectors of coefficients, exactly.

Residues X[r, c] lie in rows of `ROW`; for each tag t the kernel adds

    sum over r of beta[r, t] * (sum over c of gamma[c, t] * X[r, c])

to `out`, as an integer, not mod q: nothing is reduced, nothing is divided, and nothing branches on, or indexes by, a
residue or a coefficient. What keeps it exact:

    X < 2**31, gamma < 2**26        a product is below 2**57
    16 lanes share a row of 512     32 products in a lane, below 2**62; two lanes together below 2**63 (the inner sum)
    inner sum = pieces of 22 bits   beta < 2**28 makes a piece's product < 2**50; `MAX_ROWS` of them < 2**60
    8 lanes of `out`                their sum is below 2**63

Sixteen residues are unpacked into one vector and multiplied while they are in a register. A product of 32-bit numbers
in 64-bit lanes takes every second residue, so residues go in as two vectors, those with even and those with odd
indices, and `interleaved` lays gamma out the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numpy.typing import NDArray

from he_agg.kernels.jit import kernel
from he_agg.kernels.lanes import LANES, Stretch, cgutils, intrinsic
from he_agg.kernels.packing_lanes import unit_residues, unpacked

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

ROW = 512
"""Residues in a row. gamma for five tags takes 20 KiB, less than half of an L1 cache."""

MAX_ROWS = 1024
"""Rows that may be added to one `out`."""

MAX_GAMMA, MAX_BETA = 1 << 26, 1 << 28
"""Coefficients are below these."""

MAX_TAGS = 10
"""Tags in one pass: 20 accumulators of 64 bytes, which with AVX-512 stay in registers."""

PIECE_BITS, PIECES, OUT_LANES = 22, 3, 8

_I32, _I64, _BYTE = ir.IntType(32), ir.IntType(64), ir.IntType(8)
_WIDE = ir.VectorType(_I64, LANES // 2)
_VECTOR_BYTES = 64

_TAKES_RANGES = binding.llvm_version_info[0] >= 20
"""Whether LLVM takes ranges of vectors; the oldest that Numba comes with refuse them."""


def interleaved(gamma: NDArray[np.uint64]) -> Words:
    """Lay coefficients out for the kernel: vector of residues, tag, even or odd index, lane.

    Args:
        gamma: Shape: (ROW, tags).

    Returns:
        On the boundary of a cache line. Shape: (ROW * tags,).
    """
    tags = gamma.shape[1]
    vectors = gamma.reshape(ROW // LANES, LANES // 2, 2, tags).transpose(0, 3, 2, 1)
    out = zeros(gamma.size)
    out.reshape(vectors.shape)[:] = vectors
    return out


def zeros(count: int) -> Words:
    """Return zeros on the boundary of a cache line: a vector that straddles two takes two loads, half the speed."""
    room = np.zeros(8 * count + _VECTOR_BYTES, dtype=np.uint8)
    start = -room.ctypes.data % _VECTOR_BYTES
    return room[start : start + 8 * count].view(np.uint64)


def new_out(tags: int) -> Words:
    """Return sums to add to, none yet."""
    return zeros(tags * PIECES * OUT_LANES)


# What follows emits instructions: `b` is the builder.


def _all(number: int) -> Any:
    return ir.Constant(_WIDE, [number] * _WIDE.count)


def _at(b: Any, start: Any, offset: int) -> Any:
    """Return the address of a vector, a constant number of bytes behind an address."""
    return b.bitcast(b.gep(start, [ir.Constant(_I64, offset)]), _WIDE.as_pointer())


def _step(b: Any, start: Any, index: Any, size: int) -> Any:
    return b.gep(start, [b.mul(index, ir.Constant(_I64, size))])


def _data(context: Any, b: Any, kind: Any, array: Any) -> Any:
    return b.bitcast(context.make_array(kind)(context, b, array).data, _BYTE.as_pointer())


def _promise_below(b: Any, loaded: Any, limit: int) -> None:
    """Tell LLVM that the numbers of a loaded vector are below a limit.

    With residues of up to 26 bits a product then fits 52, and where the machine has an instruction that multiplies 52
    bits and adds (AVX-512 IFMA), LLVM takes it: one instruction for two.
    """
    if _TAKES_RANGES:
        limits = [ir.Constant(_I64, 0), ir.Constant(_I64, limit)]
        loaded.set_metadata("range", b.module.add_metadata(limits))


def _add_products(b: Any, residues: Any, gamma: Any, sums: list[Any]) -> None:
    """Add gamma * residues to the sums: two for each tag, over even and over odd indices."""
    low = _all(0xFFFFFFFF)
    pairs = b.bitcast(residues, _WIDE)
    halves = (b.and_(pairs, low), b.lshr(pairs, _all(32)))
    for i, total in enumerate(sums):
        factor = b.load(_at(b, gamma, i * _VECTOR_BYTES), align=8)
        _promise_below(b, factor, MAX_GAMMA)
        # The mask tells LLVM that a 32-bit multiplication will do; it costs nothing.
        factor = b.and_(factor, low)
        b.store(b.add(b.load(total), b.mul(halves[i % 2], factor)), total)


def _add_row(b: Any, sums: list[Any], beta: Any, out: Any) -> None:
    """Add beta * (the inner sum), in pieces, to the accumulators of every tag."""
    low, piece = _all(0xFFFFFFFF), _all((1 << PIECE_BITS) - 1)
    for tag in range(len(sums) // 2):
        v = b.add(b.load(sums[2 * tag]), b.load(sums[2 * tag + 1]))
        number = b.load(b.bitcast(b.gep(beta, [ir.Constant(_I64, 8 * tag)]), _I64.as_pointer()), align=8)
        one = b.insert_element(ir.Constant(_WIDE, ir.Undefined), number, ir.Constant(_I32, 0))
        factor = b.shuffle_vector(one, one, ir.Constant(ir.VectorType(_I32, _WIDE.count), [0] * _WIDE.count))
        factor = b.and_(factor, low)
        for k in range(PIECES):
            place = _at(b, out, (tag * PIECES + k) * _VECTOR_BYTES)
            part = b.and_(b.lshr(v, _all(k * PIECE_BITS)), piece)
            b.store(b.add(b.load(place, align=8), b.mul(part, factor)), place, align=8)


@intrinsic
def _add_rows(_: Any, packed: Any, gamma: Any, beta: Any, out: Any, _rows: Any, bits: Any, tags: Any) -> Any:
    width, count = bits.literal_value, tags.literal_value
    units, unit_bytes = ROW // unit_residues(width), unit_residues(width) * width // 8

    def emit(context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        factors, row_factors, target = (
            _data(context, b, kind, array) for kind, array in zip((gamma, beta, out), arguments[1:4], strict=True)
        )
        sums = [cgutils.alloca_once(b, _WIDE) for _ in range(2 * count)]
        with cgutils.for_range(b, arguments[4]) as row:
            first = b.mul(row.index, ir.Constant(_I64, units))
            for total in sums:
                b.store(_all(0), total)
            with cgutils.for_range(b, ir.Constant(_I64, units)) as loop:
                source = Stretch(context, b, packed, arguments[0], b.add(first, loop.index), unit_bytes)
                # At 32 bits, that is with residues that were unpacked before, this is a plain load.
                residues = unpacked(b, source, width)
                step = 2 * count * _VECTOR_BYTES
                at = _step(b, factors, loop.index, len(residues) * step)
                for vector, x in enumerate(residues):
                    _add_products(b, x, b.gep(at, [ir.Constant(_I64, vector * step)]), sums)
            _add_row(b, sums, _step(b, row_factors, row.index, 8 * count), target)
        return context.get_dummy_value()

    return types.void(packed, gamma, beta, out, types.intp, bits, tags), emit


@cache
def rows_kernel(bits: int, tags: int) -> Callable[[Bytes, Words, Words, Words, int], None]:
    """Return the function (packed, gamma, beta, out, rows) that adds whole rows to `out`. It checks no bounds.

    Args:
        bits: Width of a residue: 2 to 31, or 32 for values below 2**31 that are not packed.
        tags: How many tags, at most `MAX_TAGS`.

    Returns:
        A compiled function, without the GIL, of: `packed`, at least rows * ROW * bits / 8 bytes, on any boundary;
        `gamma` from `interleaved`; `beta`, Shape: (rows * tags,); `out`, Shape: (tags * PIECES * OUT_LANES,), changed
        in place; `rows`, at most `MAX_ROWS` in all for one `out`.
    """

    @kernel
    def add_rows(packed: Bytes, gamma: Words, beta: Words, out: Words, rows: int) -> None:
        _add_rows(packed, gamma, beta, out, rows, bits, tags)

    return add_rows


@kernel
def scale(words: Words, limit: np.uint64) -> None:
    """Turn random 64-bit words into numbers below a limit, in place: the high half of word * limit.

    Every number comes with a probability below 1/limit + 2**-64, and exactly 1/limit for a power of two.

    Args:
        words: Shape: (n,).
        limit: Below 2**32.
    """
    for i in range(words.size):
        high, low = words[i] >> np.uint64(32), words[i] & np.uint64(0xFFFFFFFF)
        words[i] = (high * limit + ((low * limit) >> np.uint64(32))) >> np.uint64(32)


def drained(out: Words, tags: int) -> list[int]:
    """Return what `out` amounts to: one integer for each tag."""
    pieces = out.reshape(tags, PIECES, OUT_LANES).sum(axis=2, dtype=np.uint64).tolist()
    return [sum(piece << (k * PIECE_BITS) for k, piece in enumerate(of_tag)) for of_tag in pieces]
