"""Before it is rounded, a ciphertext is SEAL's, bit for bit and both ways, for every prime in use."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from he_agg.kernels.bitpack import unpack
from he_agg.ring import ntt, ntt_lanes
from he_agg.ring import passes as kernels
from he_agg.ring.limbs import LimbKey
from he_agg.ring.modulus import modulus, shoup_quotients
from he_agg.ring.primes import BATCH, LANES, N, ntt_primes
from he_agg.ring.sampling import fresh_key
from he_agg.ring.uniform import RESERVE_WORDS
from tests.ring import deterministic, seal_bytes
from tests.ring.primes import IN_USE
from tests.ring.sets import ONE

sealapi = pytest.importorskip("tenseal.sealapi")


class Seal:
    """A SEAL context of N = 2048 with one prime, a key and an encrypted zero to copy the form from."""

    def __init__(self, q):
        parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
        parameters.set_poly_modulus_degree(N)
        bits = q.bit_length()
        offered = {p.value(): p for p in sealapi.CoeffModulus.Create(N, [bits, bits])} if 2 * bits <= 53 else {}
        # Two of more bits than SEAL's table allows are asked for one at a time: only the largest is in use.
        offered = offered or {p.value(): p for p in sealapi.CoeffModulus.Create(N, [bits])}
        assert set(offered) <= set(ntt_primes(bits))
        parameters.set_coeff_modulus([offered[q]])
        self.context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
        self.key = sealapi.KeyGenerator(self.context).secret_key()
        self.plain, self.m = sealapi.Plaintext(), modulus(q)
        # The scale leaves room for the values and the noise even modulo a prime of 16 bits.
        sealapi.CKKSEncoder(self.context).encode([1.5, -2.25, 3.0], 2.0**8, self.plain)

    def encrypt(self):
        out = sealapi.Ciphertext()
        sealapi.Encryptor(self.context, self.key).encrypt_symmetric(self.plain, out)
        return out

    def decrypt_ours(self, s, c, a):
        """Decrypt a batch under a key of ours: residues of a*s + message, and a in transform order."""
        m, key, form = self.m, sealapi.SecretKey(), self.encrypt()
        seal_bytes.load_with(key, self.context, self.key, seal_bytes.KEY, there(s.astype(np.int64) % m.q, m))
        opened, c, a = np.empty((N, LANES), dtype=np.int64), c.reshape(N, LANES), a.reshape(N, LANES)
        for lane in range(LANES):
            pair = np.concatenate([there(c[:, lane], m), (m.q - a[:, lane]) % m.q])
            ciphertext = sealapi.Ciphertext()
            seal_bytes.load_with(ciphertext, self.context, form, seal_bytes.CIPHERTEXT, pair)
            opened[:, lane] = back(self.decrypt(ciphertext, key), m)
        return opened.ravel()

    def decrypt(self, ciphertext, key):
        out = sealapi.Plaintext()
        sealapi.Decryptor(self.context, key).decrypt(ciphertext, out)
        return seal_bytes.residues(seal_bytes.body(out), seal_bytes.PLAINTEXT)


@pytest.fixture(params=IN_USE)
def seal(request):
    return Seal(request.param)


def back(x, m):
    """Inverse transform of one polynomial, < q."""
    y, q = np.repeat(x.astype(np.uint32), LANES), np.uint32(m.q)  # the same in every lane
    factor = np.full(N, m.n_inverse, dtype=np.uint32)
    ntt_lanes.inverse_product(y, factor, shoup_quotients(factor, m.q), m.inverse, m.inverse_quotients, q, y)
    return (y % q)[::LANES]


def there(x, m):
    y = x.astype(np.uint32)
    ntt.forward(y, m.forward, m.forward_quotients, 1, np.uint32(m.q))
    return y


def centred(x, q):
    x = x.astype(np.int64)
    return x - q * (x > q // 2)


def test_a_key_of_seal_is_ternary_after_our_inverse_transform(seal):
    values = seal_bytes.residues(seal_bytes.body(seal.key), seal_bytes.KEY)
    assert set(centred(back(values, seal.m), seal.m.q)) == {-1, 0, 1}


def test_what_seal_encrypts_opens_here_to_the_same_polynomial(seal):
    m = seal.m
    s = centred(back(seal_bytes.residues(seal_bytes.body(seal.key), seal_bytes.KEY), m), m.q)
    # Sixteen SEAL ciphertexts make one batch of ours; SEAL opens to c0 + c1*s, we to C - a*s: a = -c1.
    x = np.empty((N, LANES), dtype=np.uint32)
    total = np.empty((N, LANES), dtype=np.uint32)
    expected = np.empty((N, LANES), dtype=np.uint32)
    for lane in range(LANES):
        ciphertext = seal.encrypt()
        c0, c1 = seal_bytes.residues(seal_bytes.body(ciphertext), seal_bytes.CIPHERTEXT).reshape(2, N)
        x[:, lane] = m.q - c1
        total[:, lane] = back(c0, m)
        expected[:, lane] = back(seal.decrypt(ciphertext, seal.key), m)
    opened = (total.ravel() + np.uint32(m.q) - key_product(m, s, x.ravel())) % np.uint32(m.q)
    assert np.array_equal(opened.reshape(N, LANES), expected)
    assert len({c.tobytes() for c in expected.T}) == LANES  # fresh noise each time, so this is no fluke


def key_product(m, s, words):
    """a*s by the package's kernel, < q, of a's residues in transform order. Shape: (BATCH,)."""
    words = np.append(words, np.zeros(RESERVE_WORDS, dtype=np.uint32))
    key = LimbKey(m, *ntt.transform_key(s, m, 1))
    kernels.key_product(words, words[:0], *key.product_arguments())
    assert words[:BATCH].max() < 2 * m.q
    return words[:BATCH] % np.uint32(m.q)


def test_our_ciphertext_before_rounding_decrypts_in_seal_to_the_message_plus_noise(seal, rng):
    """Key product and noise are the package's; what is added to them, D*m, is any residue."""
    m = seal.m
    a_key, noise_key, batch, s = rng.bytes(32), rng.bytes(32), 7, fresh_key().astype(np.int64)
    a, e = deterministic.common(a_key, 0, batch, m.q), deterministic.noise(noise_key, batch).astype(np.int64)
    message = rng.integers(0, m.q, BATCH)
    message[:64], message[-64:] = m.q - 1, m.q // 2
    opened = seal.decrypt_ours(s, (key_product(m, s, a) + e + message) % m.q, a)
    assert np.array_equal(centred((opened - message) % m.q, m.q), e)


def test_what_is_sent_is_rounded_from_what_seal_decrypts(rng):
    """The encryption as it runs: what is sent, lifted to the ring again, opens in SEAL."""
    params = ONE
    seal = Seal(params.primes[0])
    (q,), (p,) = params.primes, params.moduli
    values = rng.integers(-params.max_abs_value, params.max_abs_value + 1, BATCH).astype(np.int32)
    a_key, noise_key, batch, s = rng.bytes(32), rng.bytes(32), 7, fresh_key()
    (packed,) = deterministic.encrypt(params, a_key, noise_key, s, batch, values)
    h = unpack(packed, BATCH, p.bit_length()).astype(np.int64)
    a, e = deterministic.common(a_key, 0, batch, q), deterministic.noise(noise_key, batch).astype(np.int64)
    # Lifted to the ring again, it opens to D*m, noise, and what rounding left out: at most half of q/p.
    lifted = np.array([round(Fraction(int(x) * q, p)) % q for x in h])
    message = values.astype(np.int64) * params.delta
    rest = np.abs(centred((seal.decrypt_ours(s, lifted, a) - message - e) % q, q))
    assert q / p / 4 <= rest.max() <= q / p / 2 + 1


def test_our_keys_make_a_seal_key_that_gives_the_same_transform(seal):
    s = fresh_key().astype(np.int64)
    key = sealapi.SecretKey()
    seal_bytes.load_with(key, seal.context, seal.key, seal_bytes.KEY, there(s % seal.m.q, seal.m))
    values = seal_bytes.residues(seal_bytes.body(key), seal_bytes.KEY)
    assert np.array_equal(centred(back(values, seal.m), seal.m.q), s)
