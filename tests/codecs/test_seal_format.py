"""SEAL and TenSEAL bytes: taken apart, put together, and nothing else accepted."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import tenseal as ts
from hypothesis import given
from hypothesis import strategies as st

from he_agg.codecs import seal_format
from he_agg.codecs.ckks_vectors import new_secret_context
from he_agg.errors import WireError
from he_agg.kernels.bitpack import fold, new_sum, pack
from he_agg.plan.ckks_parameters import PROFILES


@pytest.fixture(scope="module", params=PROFILES, ids=lambda profile: profile.name)
def ring(request):
    return request.param, ts.context_from(new_secret_context(request.param))


def encrypt(context, values, scale=2.0**12):
    return ts.ckks_vector(context, values, scale).serialize()


def test_our_sum_is_tenseals_sum_bit_for_bit(ring, rng):
    profile, context = ring
    blobs = [encrypt(context, rng.integers(-100, 100, profile.slots).tolist()) for _ in range(7)]
    vectors = [ts.ckks_vector_from(context, blob) for blob in blobs]
    theirs = vectors[0].copy()
    for vector in vectors[1:]:
        theirs += vector
    _, expected = seal_format.read_vector(theirs.serialize())

    bits = profile.modulus.bit_length()
    total = new_sum(2 * profile.ring_degree, bits)
    for blob in rng.permutation(np.array(blobs, dtype=object)):
        _, ciphertext = seal_format.read_vector(blob)
        assert fold(total, pack(ciphertext.residues.reshape(-1), bits), bits, profile.modulus) == -1
    assert np.array_equal(total, expected.residues.reshape(-1))


def test_what_we_write_tenseal_reads_and_writes_back(ring):
    profile, context = ring
    values = [float(i % 7 - 3) for i in range(profile.slots)]
    size, ciphertext = seal_format.read_vector(encrypt(context, values))
    again = ts.ckks_vector_from(context, seal_format.write_vector(size, ciphertext))
    assert np.rint(again.decrypt()).tolist() == values
    _, back = seal_format.read_vector(again.serialize())
    assert np.array_equal(back.residues, ciphertext.residues)
    assert (back.parms_id, back.scale, back.version) == (ciphertext.parms_id, ciphertext.scale, ciphertext.version)


def test_residues_are_below_the_profiles_modulus(ring):
    profile, context = ring
    _, ciphertext = seal_format.read_vector(encrypt(context, [1.0] * profile.slots))
    assert ciphertext.residues.shape == (2, 1, profile.ring_degree)
    assert int(ciphertext.residues.max()) < profile.modulus
    assert int(ciphertext.residues.max()) > profile.modulus * 0.99, "uniform residues reach near the modulus"


BLOB = encrypt(ts.context_from(new_secret_context(PROFILES[0])), [1.0] * 2048)


@given(st.integers(0, len(BLOB) - 1))
def test_any_truncation_is_refused(length):
    with pytest.raises(WireError):
        seal_format.read_vector(BLOB[:length])


@given(st.binary(max_size=400) | st.integers(0, 200).map(lambda n: BLOB[:n] + b"\xff" + BLOB[n + 1 :]))
def test_any_bytes_give_a_ciphertext_or_a_wire_error(data):
    with contextlib.suppress(WireError):
        seal_format.read_vector(data)


def test_trailing_bytes_are_refused():
    with pytest.raises(WireError):
        seal_format.read_vector(BLOB + b"xx")


def test_a_zip_bomb_is_cut_off():
    import zstandard

    _, ciphertext = seal_format.read_vector(BLOB)
    bomb = zstandard.compress(bytes(2**28))
    header = seal_format._HEADER.pack(0xA15E, 16, *ciphertext.version, 2, 0, 16 + len(bomb))
    with pytest.raises(WireError) as caught:
        seal_format.read_ciphertext(header + bomb)
    assert caught.value.reason == "too-large"
