"""Memory of parts is used again, and never while somebody can still read it."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np
import pytest

from he_agg.kernels.buffers import Buffers


def address(array):
    return array.ctypes.data


def test_memory_that_nobody_can_read_any_more_is_used_again():
    buffers = Buffers()
    first = address(buffers.take(100))
    assert address(buffers.take(100)) == first


@pytest.mark.parametrize(
    "hold",
    [
        lambda a: a,
        lambda a: a.data,
        lambda a: a[10:20],
        lambda a: memoryview(a)[3:5],
        lambda a: a.view(np.int32)[5:9].view(np.uint8),
        lambda a: np.frombuffer(a[8:16].data, dtype=np.uint64).view(np.uint8),
    ],
)
def test_memory_that_is_held_in_any_way_is_left_alone(hold, monkeypatch):
    # On Python 3.14 a local variable need not be counted as a reference: as seen from there, nobody holds the array.
    monkeypatch.setattr(sys, "getrefcount", lambda _: 3)
    buffers = Buffers()
    array = buffers.take(100)
    array[:] = 7
    held = hold(array)
    del array
    for _ in range(3):
        buffers.take(100)[:] = 9
    assert bytes(held).strip(b"\x07") == b""
    del held
    assert len(buffers._free) == 2


def test_memory_held_by_a_cycle_comes_back_with_the_garbage():
    buffers = Buffers()
    cycle: list = [buffers.take(100)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert len(buffers._free) == 1


def test_sizes_are_kept_apart():
    buffers = Buffers()
    first = [address(buffers.take(size)) for size in (10, 20)]
    assert [buffers.take(size).size for size in (0, 30, 20, 10)] == [0, 30, 20, 10]
    assert [address(buffers.take(size)) for size in (10, 20)] == first


def test_the_pool_keeps_a_few_arrays_only():
    buffers = Buffers()
    held = [buffers.take(100) for _ in range(50)]
    assert len({address(array) for array in held}) == 50
    held.clear()
    assert len(buffers._free) == 16


def test_threads_never_share_memory():
    buffers, wrong = Buffers(), []

    def use(number):
        for _ in range(2000):
            array = buffers.take(64)
            array[:] = number
            if (array != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
