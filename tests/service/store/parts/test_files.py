"""Files of parts: what was handed over is in the file, whatever the file system makes of how it is asked."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest

from he_agg.host.direct import LONG_BYTES
from he_agg.kernels.buffers import PAGE_BYTES
from service.store.parts import files


@pytest.fixture(params=["memory", "disk"])
def folder(request, tmp_path):
    """Tests are in memory where there is room, so one of these is where a disk is."""
    if request.param == "memory":
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        yield Path(name)


def buffer(rng, length, offset=0):
    room = files.new_buffer(length + offset)[offset:]
    room[:] = rng.bytes(length)
    return room


@pytest.mark.parametrize("offset", [0, 1, 512])
@pytest.mark.parametrize("length", [0, 1, LONG_BYTES - 1, LONG_BYTES, LONG_BYTES + 1, LONG_BYTES + 4096, 3_570_123])
@pytest.mark.parametrize("to_be_read", [True, False])
def test_what_was_written_is_in_the_file(folder, rng, length, offset, to_be_read):
    data = buffer(rng, length, offset)
    files.write(folder / "1.part", data, to_be_read=to_be_read)
    files.write(folder / "2.part", bytes(data), to_be_read=to_be_read)
    for name in ("1.part", "2.part"):
        assert (folder / name).read_bytes() == bytes(data)
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert sorted(each.name for each in folder.iterdir()) == ["1.part", "2.part"]


def test_memory_begins_where_a_block_does(rng):
    for length in (0, 1, *rng.integers(1, 2**20, 50)):
        room = files.new_buffer(int(length))
        assert len(room) == length
        assert np.frombuffer(room, np.uint8).ctypes.data % PAGE_BYTES == 0 or not length


@pytest.mark.parametrize("refused", ["open", "first write", "later write"])
def test_a_file_system_that_does_not_know_direct_writes(folder, rng, monkeypatch, refused):
    opened, wrote, direct = os.open, os.write, []

    def open_(path, flags, *mode):
        descriptor = opened(path, flags, *mode)
        if flags & os.O_DIRECT:
            direct.append(descriptor)
            if refused == "open":  # as Linux does it: the file is there by then
                os.close(descriptor)
                raise OSError(errno.EINVAL, "Invalid argument")
        return descriptor

    def write(descriptor, data):
        if descriptor in direct and len(data) % PAGE_BYTES == 0:
            if refused == "first write" or len(data) < LONG_BYTES // 2:
                direct.remove(descriptor)
                raise OSError(errno.EINVAL, "Invalid argument")
            data = data[: len(data) // 2 // PAGE_BYTES * PAGE_BYTES]
        return wrote(descriptor, data)

    data = buffer(rng, 3_570_123)
    if not hasattr(os, "O_DIRECT"):
        pytest.skip("this system knows no direct writes")
    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "write", write)
    files.write(folder / "1.part", data, to_be_read=False)
    assert (folder / "1.part").read_bytes() == bytes(data)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_half_way_leaves_nothing(folder, rng, monkeypatch, number):
    wrote = os.write

    def write(descriptor, data):
        if len(data) < LONG_BYTES:
            raise OSError(number, os.strerror(number))
        return wrote(descriptor, data[: len(data) - LONG_BYTES // 2 // PAGE_BYTES * PAGE_BYTES])

    files.write(folder / "1.part", b"before")
    data = buffer(rng, LONG_BYTES + 1)
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match=os.strerror(number)):
        files.write(folder / "1.part", data, to_be_read=False)
    assert [each.read_bytes() for each in folder.iterdir()] == [b"before"]


def test_random_lengths_and_short_writes(folder, rng, monkeypatch):
    wrote = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: wrote(descriptor, data[: rng.integers(1, len(data) + 1)]))
    for _ in range(10):
        data = buffer(rng, int(rng.integers(LONG_BYTES, 2 * LONG_BYTES)))
        files.write(folder / "1.part", data, to_be_read=False)
        assert np.array_equal(np.frombuffer((folder / "1.part").read_bytes(), np.uint8), np.frombuffer(data, np.uint8))
