"""Packing is bit-exact, and the fold adds mod q: against Python's big integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg.kernels import bitpack


def pack_slowly(values, bits):
    """The definition: residue i occupies bits [i*b, (i+1)*b), little-endian."""
    number = sum(int(value) << (i * bits) for i, value in enumerate(values))
    return number.to_bytes(bitpack.packed_bytes(len(values), bits), "little")


@st.composite
def residues(draw):
    # Every width once in tests/kernels/test_packing.py; here a few, since each is compiled at its first use.
    bits = draw(st.sampled_from([2, 16, 22, 30, 31, 32, 40, 50, 62]))
    modulus = draw(st.integers(2 ** (bits - 1), 2**bits - 1))
    n = draw(st.integers(1, 200))
    edge = st.sampled_from([0, 1, modulus // 2, modulus - 1]).map(lambda x: min(x, modulus - 1))
    return modulus, draw(st.lists(edge | st.integers(0, modulus - 1), min_size=n, max_size=n))


@given(residues())
def test_packs_and_unpacks_as_defined(drawn):
    modulus, values = drawn
    bits = modulus.bit_length()
    packed = bitpack.pack(np.array(values, dtype=np.uint64), bits)
    assert packed == pack_slowly(values, bits)
    out, bad = bitpack.unpack(packed, len(values), bits, modulus)
    assert bad == -1
    assert out.tolist() == values
    assert bitpack.padding_is_zero(packed, len(values), bits)


@given(st.data())
def test_fold_is_addition_mod_q_in_any_order(data):
    modulus, first = data.draw(residues())
    others = data.draw(
        st.lists(st.lists(st.integers(0, modulus - 1), min_size=len(first), max_size=len(first)), max_size=6)
    )
    bits = modulus.bit_length()
    rows = [first, *others]
    expected = [sum(column) % modulus for column in zip(*rows, strict=True)]
    for order in (rows, rows[::-1]):
        total = bitpack.new_sum(len(first), bits)
        for row in order:
            assert bitpack.fold(total, bitpack.pack(np.array(row, dtype=np.uint64), bits), bits, modulus) == -1
        assert total.tolist() == expected


@pytest.mark.parametrize("bits", [2, 22, 30, 31, 32, 40, 50, 62])
@pytest.mark.parametrize("position", [0, 1, 62, 63, 64, 99])
def test_first_residue_that_is_none_is_found(bits, position):
    modulus = 2**bits - 1
    values = np.full(100, modulus - 1, dtype=np.uint64)
    values[position] = modulus
    packed = bitpack.pack(values, bits)
    assert bitpack.unpack(packed, 100, bits, modulus)[1] == position
    assert bitpack.fold(bitpack.new_sum(100, bits), packed, bits, modulus) == position


def test_forty_bits_take_five_bytes():
    assert bitpack.packed_bytes(8192, 40) == 5 * 8192
    assert len(bitpack.pack(np.arange(8192, dtype=np.uint64), 40)) == 5 * 8192


def test_padding_bits_are_seen():
    packed = bytearray(bitpack.pack(np.array([1, 1, 1], dtype=np.uint32), 30))
    assert bitpack.padding_is_zero(bytes(packed), 3, 30)
    packed[-1] |= 0x80
    assert not bitpack.padding_is_zero(bytes(packed), 3, 30)
