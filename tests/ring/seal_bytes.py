"""SEAL objects as arrays and back, through the files that SEAL saves. Test support, independent of he_agg."""

from __future__ import annotations

import os
import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zstandard

HEADER = struct.Struct("<HBBBBHQ")  # magic, header size, major, minor, compression, reserved, total size


@contextmanager
def _path():
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("seal")
        try:
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder) / "object")


def body(thing) -> bytes:
    """Return the uncompressed body of a SEAL object."""
    with _path() as path:
        thing.save(path)
        data = Path(path).read_bytes()
    magic, size, _, _, compression, _, total = HEADER.unpack_from(data)
    assert (magic, size, total) == (0xA15E, 16, len(data))
    if compression == 0:
        return data[16:]
    assert compression == 2
    return zstandard.ZstdDecompressor().decompressobj().decompress(data[16:])


def residues(data: bytes, offset: int) -> np.ndarray:
    """Return the values of the array that starts at an offset of a body."""
    (count,) = struct.unpack_from("<Q", data, offset + 16)
    values = np.frombuffer(data, dtype="<u8", offset=offset + 24)
    assert values.size == count
    return values


def load_with(thing, context, like, offset: int, values: np.ndarray) -> None:
    """Load an object made from another one's body with its array's values replaced."""
    data = body(like)
    assert residues(data, offset).size == values.size
    data = data[: offset + 24] + values.astype("<u8").tobytes()
    with _path() as probe:
        like.save(probe)
        _, _, major, minor, *_ = HEADER.unpack_from(Path(probe).read_bytes())
    with _path() as path:
        Path(path).write_bytes(HEADER.pack(0xA15E, 16, major, minor, 0, 0, 16 + len(data)) + data)
        thing.load(context, path)


CIPHERTEXT, KEY, PLAINTEXT = 73, 48, 48
"""Offsets of the arrays: after parms_id and the fixed fields."""
