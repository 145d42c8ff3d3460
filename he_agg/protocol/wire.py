"""Parts on the wire: a fixed header, then packed residues. FORMAT.md is the specification, this is its parser."""

from __future__ import annotations

import struct

from he_agg.errors import Reason, WireError
from he_agg.kernels.bitpack import first_not_below, packed_bytes, padding_is_zero, unpack
from he_agg.plan.sections import PART_HEADER_BYTES, Part, PartPlace

__all__ = ["encode_part", "parse_part", "part_header", "refuse_secrets"]

_HEADER = struct.Struct("<4sBBHIIQ32s8x")
_MAGIC = b"HEAP"
_BLOCK = 2**15
_VERSION = 1
_SEAL_HEADER = bytes((0x5E, 0xA1, 0x10))
"""First bytes of every saved SEAL object: magic 0xA15E and the header's own length, 16."""

_SECRET_MARKS = (_SEAL_HEADER, b"he-agg-group-key", b"he-agg-identity", b"he-agg-aggregator-key", b"PRIVATE KEY")


def encode_part(part: Part, place: PartPlace, plan_id: str) -> bytes:
    """Write a part as it travels and is stored."""
    return b"".join((part_header(place, plan_id), part.packed))


def part_header(place: PartPlace, plan_id: str) -> bytes:
    """Return a part's header: all of it that is not residues."""
    section = place.section
    return _HEADER.pack(
        _MAGIC,
        _VERSION,
        section.modulus_bits,
        place.section_index,
        place.index,
        place.residues,
        section.modulus,
        bytes.fromhex(plan_id),
    )


def parse_part(data: bytes | memoryview, place: PartPlace, plan_id: str, *, check_residues: bool = True) -> Part:
    """Read a part that must be the one the plan puts at `place`.

    Args:
        check_residues: also look at every residue; leave it out only where `fold` will.

    Raises:
        WireError: any deviation at all.
    """
    if len(data) < PART_HEADER_BYTES:
        raise WireError(Reason.TRUNCATED, f"part {place.number}: expected {place.wire_bytes} bytes, got {len(data)}")
    magic, version, bits, section_index, index, residues, modulus, plan = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        refuse_secrets(data)
        raise WireError(Reason.BAD_MAGIC, f"part {place.number}: expected it to begin with 'HEAP', it does not")
    if version != _VERSION:
        raise WireError(Reason.BAD_VERSION, f"part {place.number}: expected format version 1, got {version}")
    if plan.hex() != plan_id:
        raise WireError(
            Reason.PLAN_MISMATCH,
            f"part {place.number}: expected plan {plan_id[:12]}, got plan {plan.hex()[:12]}",
        )
    section = place.section
    expected = (section.modulus_bits, place.section_index, place.index, place.residues, section.modulus)
    got = (bits, section_index, index, residues, modulus)
    for name, want, have in zip(("bits", "section", "index", "residues", "modulus"), expected, got, strict=True):
        if want != have:
            raise WireError(Reason.BAD_FIELD, f"part {place.number}, {name}: expected {want}, got {have}")
    if any(data[PART_HEADER_BYTES - 8 : PART_HEADER_BYTES]):
        raise WireError(Reason.BAD_PADDING, f"part {place.number}: the header's reserved bytes are not zero")
    if len(data) != place.wire_bytes:
        reason = Reason.TRUNCATED if len(data) < place.wire_bytes else Reason.TRAILING_BYTES
        raise WireError(reason, f"part {place.number}: expected {place.wire_bytes} bytes, got {len(data)}")
    packed = memoryview(data)[PART_HEADER_BYTES:]
    if not padding_is_zero(packed, place.residues, section.modulus_bits):
        raise WireError(Reason.BAD_PADDING, f"part {place.number}: the bits after the last residue are not zero")
    if check_residues:
        # In blocks, which begin on whole words: the values are not kept, and little memory is quick memory.
        for begin in range(0, place.residues, _BLOCK):
            count = min(_BLOCK, place.residues - begin)
            block = packed[begin * section.modulus_bits // 8 :][: packed_bytes(count, section.modulus_bits)]
            bad = first_not_below(unpack(block, count, section.modulus_bits), section.modulus)
            if bad >= 0:
                raise WireError(
                    Reason.RESIDUE_OUT_OF_RANGE,
                    f"part {place.number}: residue {begin + bad} is not below {section.modulus}",
                )
    return Part(place.number, packed)


def refuse_secrets(data: bytes | memoryview) -> None:
    """Refuse bytes that look like a key. The aggregator calls it on whatever it cannot read otherwise.

    Raises:
        WireError: a SEAL or TenSEAL object, or one of our own key files.
    """
    # A keystore file names its kind near the end: the keys of canonical JSON are sorted, and the body comes first.
    ends = bytes(data[:4096]) + b"\0" + bytes(data[-4096:])
    if any(mark in ends for mark in _SECRET_MARKS):
        raise WireError(
            Reason.SECRET_REFUSED,
            "this looks like a key or a SEAL/TenSEAL object, which the aggregator must never hold; nothing was kept",
            "if a secret key left its site, make a new group key: `he-agg epoch rotate`",
        )
