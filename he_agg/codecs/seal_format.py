"""SEAL and TenSEAL bytes <-> residues.

Only bytes that this process's own TenSEAL wrote are read here, and still every field is checked: a changed library
must fail loudly. Bytes from the network never come this way; they are he-agg parts.

Source: facts found by reading saved objects of TenSEAL 0.3.18 (SEAL 4.3): a CKKSVector is a protobuf of sizes (1),
ciphertexts (2) and scale (3); a ciphertext is a 16-byte SEAL header and a body of fixed fields and uint64 residues.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray

from he_agg.errors import Reason, WireError

__all__ = ["SealCiphertext", "read_ciphertext", "read_vector", "write_vector"]

_HEADER = struct.Struct("<HBBBBHQ")  # magic, header size, major, minor, compression, reserved, total size
_MAGIC = 0xA15E
_BODY = struct.Struct("<32sBQQQdQ")  # parms_id, is_ntt, polynomials, N, limbs, scale, correction factor
_COUNT = struct.Struct("<Q")
_NONE, _ZSTD = 0, 2
_STEP_BYTES = 2**18


@dataclass(frozen=True)
class SealCiphertext:
    """One ciphertext taken apart.

    Attributes:
        version: SEAL's (major, minor), written back as read.
        parms_id: SEAL's hash of the encryption parameters. 32 bytes.
        scale: CKKS scale.
        residues: Shape: (polynomials, limbs, N), uint64.
    """

    version: tuple[int, int]
    parms_id: bytes
    scale: float
    residues: NDArray[np.uint64]


def read_ciphertext(data: bytes) -> SealCiphertext:
    """Take a saved SEAL ciphertext apart.

    Raises:
        WireError: anything but one whole ciphertext in NTT form.
    """
    version, body = _read_object(data, max_body_bytes=64 * 2**20)
    if len(body) < _BODY.size:
        raise WireError(Reason.TRUNCATED, "SEAL ciphertext: expected its fixed fields, got fewer bytes")
    parms_id, is_ntt, polynomials, degree, limbs, scale, correction = _BODY.unpack_from(body)
    if is_ntt != 1 or polynomials != 2 or correction != 1 or not 1 <= limbs <= 64 or not 1024 <= degree <= 32768:
        raise WireError(Reason.BAD_FIELD, "SEAL ciphertext: expected two polynomials in NTT form")
    array_version, values = _split_object(body[_BODY.size :])
    if array_version != version or len(values) < _COUNT.size:
        raise WireError(Reason.BAD_FIELD, "SEAL ciphertext: expected an array of residues")
    (count,) = _COUNT.unpack_from(values)
    if count != polynomials * limbs * degree or len(values) != _COUNT.size + 8 * count:
        raise WireError(Reason.BAD_FIELD, f"SEAL ciphertext: expected {polynomials * limbs * degree} residues")
    residues = np.frombuffer(values, dtype="<u8", offset=_COUNT.size).reshape(polynomials, limbs, degree)
    return SealCiphertext(version, parms_id, scale, residues)


def write_ciphertext(ciphertext: SealCiphertext) -> bytes:
    """Put a ciphertext together as SEAL saves it without compression."""
    polynomials, limbs, degree = ciphertext.residues.shape
    body = _BODY.pack(ciphertext.parms_id, 1, polynomials, degree, limbs, ciphertext.scale, 1)
    values = _COUNT.pack(ciphertext.residues.size) + ciphertext.residues.astype("<u8", copy=False).tobytes()
    return _object(ciphertext.version, body + _object(ciphertext.version, values))


def read_vector(data: bytes) -> tuple[int, SealCiphertext]:
    """Take a serialised `CKKSVector` of one ciphertext apart.

    Returns:
        How many values it holds, and the ciphertext.

    Raises:
        WireError: anything else.
    """
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == 2:
            length, position = _varint(data, position)
        elif kind == 1:
            length = 8
        else:
            raise WireError(Reason.BAD_FIELD, f"CKKSVector: expected fields 1 to 3, got wire type {kind}")
        if number in fields or number not in (1, 2, 3) or position + length > len(data):
            raise WireError(Reason.BAD_FIELD, f"CKKSVector: expected each of the fields 1 to 3 once, got {number}")
        fields[number] = data[position : position + length]
        position += length
    if fields.keys() != {1, 2, 3}:
        raise WireError(Reason.BAD_FIELD, f"CKKSVector: expected the fields 1 to 3, got {sorted(fields)}")
    size, end = _varint(fields[1], 0)
    if end != len(fields[1]) or len(fields[3]) != 8:
        raise WireError(Reason.BAD_FIELD, "CKKSVector: expected one ciphertext and a scale")
    return size, read_ciphertext(fields[2])


def write_vector(size: int, ciphertext: SealCiphertext) -> bytes:
    """Put a `CKKSVector` of one ciphertext together, as `tenseal.ckks_vector_from` reads it."""
    sizes = _encode_varint(size)
    body = write_ciphertext(ciphertext)
    return b"".join(
        (
            b"\x0a" + _encode_varint(len(sizes)) + sizes,
            b"\x12" + _encode_varint(len(body)) + body,
            b"\x19" + struct.pack("<d", ciphertext.scale),
        )
    )


def _object(version: tuple[int, int], body: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _HEADER.size, *version, _NONE, 0, _HEADER.size + len(body)) + body


def _split_object(data: bytes) -> tuple[tuple[int, int], bytes]:
    version, compression, body = _split_header(data)
    if compression != _NONE:
        raise WireError(Reason.BAD_FIELD, "SEAL object: expected an uncompressed inner object")
    return version, body


def _read_object(data: bytes, max_body_bytes: int) -> tuple[tuple[int, int], bytes]:
    version, compression, body = _split_header(data)
    if compression == _NONE:
        return version, body
    if compression != _ZSTD:
        raise WireError(Reason.BAD_FIELD, f"SEAL object: expected no compression or zstd, got {compression}")
    try:
        # The frame states no size we would trust: read up to the bound, and one byte to see that there is no more.
        with zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=False) as reader:
            # In steps: asked for all at once, it would set aside the whole bound for every ciphertext.
            plain = bytearray()
            while len(plain) <= max_body_bytes and (chunk := reader.read(_STEP_BYTES)):
                plain += chunk
    except zstandard.ZstdError as error:
        raise WireError(Reason.BAD_FIELD, "SEAL object: expected a zstd frame, got other bytes") from error
    if len(plain) > max_body_bytes:
        raise WireError(Reason.TOO_LARGE, f"SEAL object: expected at most {max_body_bytes} bytes")
    return version, bytes(plain)


def _split_header(data: bytes) -> tuple[tuple[int, int], int, bytes]:
    if len(data) < _HEADER.size:
        raise WireError(Reason.TRUNCATED, f"SEAL object: expected a header of 16 bytes, got {len(data)}")
    magic, header_bytes, major, minor, compression, reserved, total = _HEADER.unpack_from(data)
    if magic != _MAGIC or header_bytes != _HEADER.size or reserved != 0:
        raise WireError(Reason.BAD_MAGIC, "SEAL object: expected SEAL's header")
    if total != len(data):
        raise WireError(Reason.TRUNCATED, f"SEAL object: expected {total} bytes, got {len(data)}")
    return (major, minor), compression, data[_HEADER.size :]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if position >= len(data):
            raise WireError(Reason.TRUNCATED, "CKKSVector: expected a varint, got the end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise WireError(Reason.BAD_FIELD, "CKKSVector: expected a varint of at most 35 bits")


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
