"""Memory of parts is used again, and never while somebody can still read it."""

from __future__ import annotations

from he_agg.kernels.buffers import Buffers


def test_a_dropped_array_is_used_again():
    buffers = Buffers()
    first = buffers.take(100)
    address = first.ctypes.data
    del first
    assert buffers.take(100).ctypes.data == address


def test_an_array_that_is_held_in_any_way_is_left_alone():
    buffers = Buffers()
    for hold in (lambda a: a, lambda a: a.data, lambda a: a[10:20], lambda a: memoryview(a)[3:5], lambda a: [a]):
        array = buffers.take(100)
        array[:] = 7
        held = hold(array)
        del array
        other = buffers.take(100)
        other[:] = 9
        assert bytes(held[0] if isinstance(held, list) else held).strip(b"\x07") == b""
        del other, held


def test_sizes_are_kept_apart():
    buffers = Buffers()
    buffers.take(10)
    assert buffers.take(20).size == 20
    assert buffers.take(10).size == 10


def test_the_pool_keeps_a_few_arrays_only():
    buffers = Buffers()
    held = [buffers.take(100) for _ in range(50)]
    assert len({array.ctypes.data for array in held}) == 50
    assert len(buffers._arrays) == 16
