"""Packing is bit-exact at every width and length; folding is addition mod q."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from he_agg.kernels import packing_groups
from he_agg.kernels.bitpack import (
    MAX_BITS,
    MIN_BITS,
    first_not_below,
    fold,
    new_sum,
    pack,
    packed_bytes,
    padding_is_zero,
    residue_dtype,
    unpack,
)
from he_agg.kernels.packing_lanes import MAX_LANE_BITS, unit_residues
from he_agg.plan.ckks_parameters import PROFILES
from tests.ring import reference
from tests.ring.guarded import guarded

WIDTHS = range(MIN_BITS, MAX_BITS + 1)
HOT = (16, 20, 24, 30, 40)
LANES = range(MIN_BITS, MAX_LANE_BITS + 1)
GROUPS = range(MAX_LANE_BITS + 1, MAX_BITS + 1)
COMPILED = sorted({*LANES, *(profile.modulus.bit_length() for profile in PROFILES), 32, 62})
"""Widths that a plan can have, and the ends. All others are compiled from the same lines, in `make soak`."""
LENGTHS = (0, 1, 7, 8, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000, 2047, 2048, 2049, 2112, 4097, 6000)


def residues(rng, count, bits):
    x = rng.integers(0, 1 << bits, count, dtype=np.uint64)
    x[rng.random(count) < 0.2] = (1 << bits) - 1
    return x.astype(residue_dtype(bits))


@pytest.mark.parametrize(
    "bits", [bits if bits in COMPILED else pytest.param(bits, marks=pytest.mark.slow) for bits in WIDTHS]
)
def test_every_width_is_bit_exact(bits, rng):
    check_width(bits, rng)


@pytest.mark.parametrize("bits", GROUPS)
def test_the_lines_that_wide_widths_share_are_bit_exact_before_they_are_compiled(bits, rng, monkeypatch):
    """A compiler takes half a second for each of them, Python a millisecond."""
    for name in ("_pack_kernel", "_unpack_kernel", "_fold_kernel"):
        made = getattr(packing_groups, name).__wrapped__(bits).py_func
        monkeypatch.setattr(packing_groups, name, {bits: made}.__getitem__)
    with np.errstate(over="ignore"):  # a sum below q less q
        check_width(bits, rng)


def check_width(bits, rng):
    """Against one long Python integer, with whole groups and a tail."""
    q = (1 << bits) - 1
    x = residues(rng, 64 * 3 + int(rng.integers(1, 64)), bits)
    packed = pack(x, bits)
    assert bytes(packed) == reference.pack(x.tolist(), bits)
    assert np.array_equal(unpack(packed, x.size, bits), x)
    x %= residue_dtype(bits)(q)
    total = x[::-1].copy()
    assert fold(total, pack(x, bits), bits, q) == -1
    assert total.tolist() == [(a + b) % q for a, b in zip(x.tolist(), x.tolist()[::-1], strict=True)]


@pytest.mark.parametrize("bits", HOT)
@pytest.mark.parametrize("count", LENGTHS)
def test_every_length_around_groups_and_tiles(bits, count, rng):
    x, total = residues(rng, count, bits), residues(rng, count, bits)
    q = (1 << bits) - 35
    x, total = x % q, total % q
    packed = pack(x, bits)
    assert bytes(packed) == reference.pack(x.tolist(), bits)
    assert np.array_equal(unpack(packed, count, bits), x)
    expected = (x.astype(object) + total) % q
    assert fold(total, packed, bits, q) == -1
    assert total.tolist() == list(expected)


@pytest.mark.parametrize("at_end", [True, False], ids=["ends-at-guard", "begins-at-guard"])
@pytest.mark.parametrize("bits", LANES)
def test_no_length_touches_a_byte_outside(bits, at_end, rng):
    """Every length around the vectors' borders, in buffers of the exact size with a page beside them that kills."""
    longest, q = 2 * unit_residues(bits) + 35, (1 << bits) - 1
    x, start = residues(rng, longest, bits) % np.uint32(q), residues(rng, longest, bits) % np.uint32(q)
    number = int.from_bytes(reference.pack(x.tolist(), bits), "little")
    sums = (x.astype(np.uint64) + start) % q
    for count in range(longest + 1):
        size = packed_bytes(count, bits)
        packed = guarded(size, at_end)
        values, total = (guarded(4 * count, at_end).view(np.uint32) for _ in range(2))
        values[:] = x[:count]
        pack(values, bits, packed)
        assert bytes(packed) == (number & ((1 << count * bits) - 1)).to_bytes(size, "little"), count
        values[:] = 0
        if size:
            packed[-1] |= (0xFF00 >> (8 * size - count * bits)) & 0xFF  # padding bits belong to nobody
        assert np.array_equal(unpack(packed, count, bits, values), x[:count]), count
        total[:] = start[:count]
        assert fold(total, packed, bits, q) == -1, count
        assert np.array_equal(total, sums[:count]), count


@pytest.mark.parametrize("bits", LANES)
def test_a_residue_not_below_q_is_seen_in_every_lane(bits):
    """Each place of two units and a tail, since every vector keeps a maximum of its own."""
    q, count = (1 << bits) - 1, 2 * unit_residues(bits) + 35
    x = np.full(count, q - 1, dtype=np.uint32)
    assert fold(np.zeros_like(x), pack(x, bits), bits, q) == -1
    for place in range(count):
        x[place] = q
        assert fold(np.zeros_like(x), pack(x, bits), bits, q) == place
        x[place] = q - 1


@pytest.mark.parametrize("widths", [COMPILED, pytest.param(WIDTHS, marks=pytest.mark.slow)], ids=["of plans", "all"])
@settings(deadline=None)  # the first use of a width compiles its kernels
@given(data=st.data(), offset=st.integers(0, 9))
def test_pack_unpack_fold_properties(widths, data, offset):
    """Any residues, any alignment of the bytes: unpack inverts pack, fold adds mod q."""
    bits = data.draw(st.sampled_from(widths), label="bits")
    q = data.draw(st.integers(2, 1 << bits), label="q")
    values = st.lists(st.integers(0, q - 1), max_size=150)
    x: np.ndarray = np.array(data.draw(values, label="x"), dtype=residue_dtype(bits))
    buffer = np.full(packed_bytes(x.size, bits) + offset, 0xAA, dtype=np.uint8)
    packed = pack(x, bits, buffer[offset:])
    assert (buffer[:offset] == 0xAA).all()
    assert bytes(packed) == reference.pack(x.tolist(), bits)
    assert np.array_equal(unpack(packed, x.size, bits), x)
    assert padding_is_zero(bytes(packed), x.size, bits)
    others = data.draw(st.lists(st.permutations(x.tolist()), max_size=6), label="others")
    rows = [x, *(np.array(row, dtype=x.dtype) for row in others)]
    expected = [sum(column) % q for column in zip(*(row.tolist() for row in rows), strict=True)]
    for order in (rows, rows[::-1]):
        total = new_sum(x.size, bits)
        for row in order:
            assert fold(total, bytes(pack(row, bits)), bits, q) == -1
        assert total.tolist() == expected


@pytest.mark.parametrize("bits", [2, 17, 30, 31, 32, 40, 60, 62])
def test_fold_at_the_edge_of_the_modulus(bits):
    q = 1 << bits
    x = np.full(200, q - 1, dtype=residue_dtype(bits))
    total = x.copy()
    assert fold(total, pack(x, bits), bits, q) == -1
    assert (total == q - 2).all()


@pytest.mark.parametrize("bits", HOT)
@pytest.mark.parametrize("place", [0, 16, 2047, 2048, 32767, 32768, 40000, 40010])
def test_a_residue_not_below_q_is_seen_anywhere(bits, place):
    q, count = (1 << bits) - 35, 40011
    x = np.full(count, q - 1, dtype=residue_dtype(bits))
    assert fold(np.zeros_like(x), pack(x, bits), bits, q) == -1
    x[place] = q
    assert fold(np.zeros_like(x), pack(x, bits), bits, q) == place
    assert first_not_below(unpack(pack(x, bits), count, bits), q) == place


def test_set_padding_bits_do_not_look_like_a_residue_to_the_fold():
    packed = pack(np.zeros(5, dtype=np.uint32), 30)
    assert padding_is_zero(packed.data, 5, 30)
    packed[-1] |= 0xC0
    assert fold(np.zeros(5, dtype=np.uint32), packed, 30, 1) == -1
    assert not padding_is_zero(packed.data, 5, 30)


def test_residues_of_any_type_and_layout_are_packed():
    x = np.array([1, 2, 3], dtype=np.uint32)
    for other in (x.astype(np.uint64), np.repeat(x, 2)[::2]):
        assert bytes(pack(other, 30)) == bytes(pack(x, 30))
    assert bytes(pack(x, 40)) == bytes(pack(x.astype(np.uint64), 40))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fold(np.zeros(3, dtype=np.uint64), bytes(12), 30, 5), "uint32"),
        (lambda: unpack(bytes(15), 3, 40, np.zeros(3, dtype=np.uint32)), "uint64"),
        (lambda: fold(np.zeros(6, dtype=np.uint32)[::2], bytes(12), 30, 5), "contiguous"),
        (lambda: pack(np.zeros((2, 3), dtype=np.uint32), 30), "one row of residues"),
        (lambda: pack(np.zeros(3, dtype=np.uint32), 1), "2 to 62 bits"),
        (lambda: pack(np.zeros(3, dtype=np.uint64), 63), "2 to 62 bits"),
        (lambda: pack(np.zeros(3, dtype=np.uint32), 30, np.zeros(11, dtype=np.uint8)), "12 contiguous bytes"),
        (lambda: unpack(bytes(11), 3, 30), "take 12 bytes, got 11"),
        (lambda: unpack(bytes(12), 3, 30, np.zeros(4, dtype=np.uint32)), "got 4"),
        (lambda: fold(np.zeros(3, dtype=np.uint32), bytes(12), 30, (1 << 30) + 1), "modulus"),
        (lambda: fold(np.zeros(3, dtype=np.uint32), bytes(13), 30, 1 << 30), "take 12 bytes, got 13"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
