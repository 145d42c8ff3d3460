"""Encryption with keys and noise that the test chooses; the package offers no such thing."""

from __future__ import annotations

import numpy as np

from he_agg.ring.encryptor import _encrypt
from he_agg.ring.keystream import Keystream
from he_agg.ring.limbs import LimbKey, limb_keys, packed_sizes
from he_agg.ring.modulus import modulus
from he_agg.ring.ntt import transform_key
from he_agg.ring.params import RingParams
from he_agg.ring.passes import key_product
from he_agg.ring.primes import BATCH
from he_agg.ring.sampling import NOISE_BYTES, centred_binomial
from he_agg.ring.uniform import RESERVE_WORDS, STREAM_WORDS, replace_rejected, word_limit


def encrypt(params: RingParams, a_key, noise_key, coefficients, first_batch, values):
    """Return the packed residues of every modulus."""
    out = tuple(np.empty(size, dtype=np.uint8) for size in packed_sizes(params, values.size))
    keys = limb_keys(params, coefficients)
    assert _encrypt(params, Keystream(a_key), Keystream(noise_key), keys, first_batch, values, out)
    return out


def common(a_key, limb, batch, q):
    """Return the residues of a, in transform order. Shape: (BATCH,)."""
    words = np.empty(STREAM_WORDS, dtype=np.uint32)
    Keystream(a_key).fill(words.view(np.uint8), limb, batch)
    replace_rejected(words, BATCH, np.uint32(word_limit(q)))
    return words[:BATCH] % q


def product(a, s, q):
    """Return the coefficients of a*s by the package's kernel, < q; a in transform order. Shape: (BATCH,)."""
    words = np.append(a.astype(np.uint32), np.zeros(RESERVE_WORDS, dtype=np.uint32))
    key = LimbKey(modulus(q), *transform_key(s, modulus(q), 1))
    key_product(words, words[:0], *key.product_arguments())
    assert words[:BATCH].max() < 2 * q
    return words[:BATCH] % np.uint32(q)


def noise(noise_key, batch):
    """Return the noise of a batch. Shape: (BATCH,)."""
    planes = np.empty(NOISE_BYTES, dtype=np.uint8)
    Keystream(noise_key).fill(planes, 0, batch)
    out = np.empty(BATCH, dtype=np.int8)
    centred_binomial(planes.view(np.uint64), out.view(np.uint64))
    return out
