"""Parts: each deviation has its own reason, and any bytes give a part or a WireError."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg.errors import Reason, WireError
from he_agg.kernels import bitpack
from he_agg.plan.sections import PART_HEADER_BYTES, Part
from he_agg.protocol.wire import encode_part, parse_part
from tests.support.federation import key_of, plan_of

PLAN = plan_of(5000, part_bytes=2**16)
PLACES = PLAN.public.places


def part_at(place, fill=7):
    residues = np.full(place.residues, fill, dtype=np.uint64)
    return Part(place.number, bitpack.pack(residues, place.section.modulus_bits).data)


def wire_at(place):
    return encode_part(part_at(place), place, PLAN.plan_id)


def reason_of(data, place=PLACES[1]):
    with pytest.raises(WireError) as caught:
        parse_part(data, place, PLAN.plan_id)
    return caught.value.reason


def with_byte(position, value):
    data = bytearray(wire_at(PLACES[1]))
    data[position] = value
    return bytes(data)


def test_round_trip():
    assert len(PLACES) == 3
    for place in PLACES:
        data = wire_at(place)
        assert len(data) == place.wire_bytes
        assert parse_part(data, place, PLAN.plan_id) == part_at(place)


def test_a_forty_bit_residue_takes_forty_bits():
    assert PLACES[0].section.modulus_bits == 40
    assert PLACES[0].wire_bytes == PART_HEADER_BYTES + PLACES[0].residues * 5


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (wire_at(PLACES[1])[:63], Reason.TRUNCATED),
        (wire_at(PLACES[1])[:-1], Reason.TRUNCATED),
        (wire_at(PLACES[1]) + b"\0", Reason.TRAILING_BYTES),
        (with_byte(0, 0x47), Reason.BAD_MAGIC),
        (with_byte(4, 2), Reason.BAD_VERSION),
        (with_byte(5, 41), Reason.BAD_FIELD),  # bits
        (with_byte(6, 1), Reason.BAD_FIELD),  # section
        (wire_at(PLACES[0]), Reason.BAD_FIELD),  # index: another part of the same plan
        (with_byte(12, 1), Reason.BAD_FIELD),  # residues
        (with_byte(16, 2), Reason.BAD_FIELD),  # modulus
        (with_byte(24, 0xFF), Reason.PLAN_MISMATCH),
        (with_byte(56, 1), Reason.BAD_PADDING),
        (with_byte(63, 1), Reason.BAD_PADDING),
    ],
)
def test_each_deviation_has_its_reason(data, reason):
    assert reason_of(data) == reason


def test_residue_not_below_the_modulus_is_refused():
    place = PLACES[1]
    residues = np.zeros(place.residues, dtype=np.uint64)
    residues[-1] = place.section.modulus
    part = Part(place.number, bitpack.pack(residues, place.section.modulus_bits).data)
    assert reason_of(encode_part(part, place, PLAN.plan_id)) == Reason.RESIDUE_OUT_OF_RANGE


def test_a_secret_key_is_refused_as_one():
    key = key_of(PLAN)
    assert reason_of(key.key_material) == Reason.SECRET_REFUSED
    assert reason_of(key.key_material * 5) == Reason.SECRET_REFUSED


def test_a_keystore_file_is_refused_as_one(tmp_path):
    key_of(PLAN).save(tmp_path / "k")
    assert reason_of((tmp_path / "k").read_bytes()) == Reason.SECRET_REFUSED


@given(st.binary(max_size=300) | st.binary(max_size=80).map(lambda b: wire_at(PLACES[1])[: 64 - len(b)] + b))
def test_any_bytes_give_a_part_or_a_wire_error(data):
    try:
        part = parse_part(data, PLACES[1], PLAN.plan_id)
    except WireError:
        return
    assert encode_part(part, PLACES[1], PLAN.plan_id) == data


@given(st.integers(0, len(wire_at(PLACES[2])) * 8 - 1))
def test_a_flipped_bit_is_refused_or_is_another_part(bit):
    original = wire_at(PLACES[2])
    data = bytearray(original)
    data[bit // 8] ^= 1 << bit % 8
    try:
        part = parse_part(bytes(data), PLACES[2], PLAN.plan_id)
    except WireError:
        return
    # What still parses is a different part with different bytes: the digest in the manifest tells them apart.
    assert bit >= PART_HEADER_BYTES * 8
    assert part != part_at(PLACES[2])
    assert encode_part(part, PLACES[2], PLAN.plan_id) == bytes(data)
