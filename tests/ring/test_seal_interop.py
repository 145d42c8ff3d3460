"""Before it is rounded, a ciphertext is SEAL's, bit for bit and both ways, for every prime in use."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from he_agg.kernels.bitpack import pack, unpack
from he_agg.ring import ntt, ntt_lanes
from he_agg.ring.modulus import modulus, shoup_quotients
from he_agg.ring.opener import Opener
from he_agg.ring.primes import BATCH, LANES, N, ntt_primes
from he_agg.ring.sampling import NOISE_BOUND, fresh_key
from tests.ring import deterministic, reference, seal_bytes
from tests.ring.primes import IN_USE
from tests.ring.reference import HALF
from tests.ring.sets import ALL, open_sum, submit

sealapi = pytest.importorskip("tenseal.sealapi")

RINGS = {name: ALL[name] for name in ("one-one", "two-two", "five-values")}
each_ring = pytest.mark.parametrize("params", RINGS.values(), ids=RINGS)


class Seal:
    """A SEAL context of N = 2048 with a ring's primes, a key and an encrypted plaintext to copy the forms from."""

    def __init__(self, *primes):
        parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
        parameters.set_poly_modulus_degree(N)
        # SEAL keeps the last of several primes for what keys do to keys; ciphertexts have the others.
        self.primes = primes
        self.key_primes = (*primes, next(q for q in IN_USE if q not in primes)) if len(primes) > 1 else primes
        offered = {}
        for bits in {q.bit_length() for q in self.key_primes}:
            # Two of more bits than SEAL's table allows are asked for one at a time: only the largest is in use.
            both = {p.value(): p for p in sealapi.CoeffModulus.Create(N, [bits] * (2 if 2 * bits <= 53 else 1))}
            assert set(both) <= set(ntt_primes(bits))
            offered |= both
        parameters.set_coeff_modulus([offered[q] for q in self.key_primes])
        # The table counts the prime for keys, whose ciphertexts there are none of here.
        level = sealapi.SEC_LEVEL_TYPE.TC128 if len(primes) == 1 else sealapi.SEC_LEVEL_TYPE.NONE
        self.context = sealapi.SEALContext(parameters, True, level)
        self.key = sealapi.KeyGenerator(self.context).secret_key()
        self.plain = sealapi.Plaintext()
        # The scale leaves room for the values and the noise even modulo a prime of 16 bits.
        sealapi.CKKSEncoder(self.context).encode([1.5, -2.25, 3.0], 2.0**8, self.plain)

    @property
    def m(self):
        return modulus(self.primes[0])

    def encrypt(self, plain=None):
        out = sealapi.Ciphertext()
        sealapi.Encryptor(self.context, self.key).encrypt_symmetric(plain or self.plain, out)
        return out

    def encrypt_polynomial(self, coefficients):
        """Encrypt integers under SEAL's own key; return c0 as coefficients and c1 in transform order.

        Shapes: (limbs, N).
        """
        plain = sealapi.Plaintext()
        values = np.concatenate([there(coefficients % q, modulus(q)) for q in self.primes])
        seal_bytes.load_with(plain, self.context, self.plain, seal_bytes.PLAINTEXT, values)
        data = seal_bytes.residues(seal_bytes.body(self.encrypt(plain)), seal_bytes.CIPHERTEXT)
        c0, c1 = data.reshape(2, len(self.primes), N)
        return np.array([back(x, modulus(q)) for x, q in zip(c0, self.primes, strict=True)]), c1

    def own_key(self):
        """The coefficients of SEAL's own key."""
        values = seal_bytes.residues(seal_bytes.body(self.key), seal_bytes.KEY)[:N]
        return centred(back(values, self.m), self.m.q)

    def decrypt_ours(self, s, c, a):
        """Decrypt a batch under a key of ours. Shapes: (limbs, BATCH).

        Args:
            s: The key's coefficients.
            c: Residues of a*s + message.
            a: Residues of a in transform order.
        """
        key, form = sealapi.SecretKey(), self.encrypt()
        transformed = np.concatenate([there(s.astype(np.int64) % q, modulus(q)) for q in self.key_primes])
        seal_bytes.load_with(key, self.context, self.key, seal_bytes.KEY, transformed)
        shape = (len(self.primes), N, LANES)
        opened, c, a = np.empty(shape, dtype=np.int64), c.reshape(shape), a.reshape(shape)
        for lane in range(LANES):
            c0 = [there(x[:, lane], modulus(q)) for x, q in zip(c, self.primes, strict=True)]
            c1 = [(q - x[:, lane]) % q for x, q in zip(a, self.primes, strict=True)]
            ciphertext = sealapi.Ciphertext()
            seal_bytes.load_with(ciphertext, self.context, form, seal_bytes.CIPHERTEXT, np.concatenate([*c0, *c1]))
            plain = self.decrypt(ciphertext, key).reshape(len(self.primes), N)
            opened[:, :, lane] = [back(x, modulus(q)) for x, q in zip(plain, self.primes, strict=True)]
        return opened.reshape(len(self.primes), BATCH)

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
    assert set(seal.own_key()) == {-1, 0, 1}


def test_what_seal_encrypts_opens_here_to_the_same_polynomial(seal):
    m = seal.m
    s = seal.own_key()
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
    opened = (total.ravel() + np.uint32(m.q) - deterministic.product(x.ravel(), s, m.q)) % np.uint32(m.q)
    assert np.array_equal(opened.reshape(N, LANES), expected)
    assert len({c.tobytes() for c in expected.T}) == LANES  # fresh noise each time, so this is no fluke


def test_our_ciphertext_before_rounding_decrypts_in_seal_to_the_message_plus_noise(seal, rng):
    """Key product and noise are the package's; what is added to them, D*m, is any residue."""
    m = seal.m
    a_key, noise_key, batch, s = rng.bytes(32), rng.bytes(32), 7, fresh_key().astype(np.int64)
    a, e = deterministic.common(a_key, 0, batch, m.q), deterministic.noise(noise_key, batch).astype(np.int64)
    message = rng.integers(0, m.q, BATCH)
    message[:64], message[-64:] = m.q - 1, m.q // 2
    c = (deterministic.product(a, s, m.q) + e + message) % m.q
    (opened,) = seal.decrypt_ours(s, c, a)
    assert np.array_equal(centred((opened - message) % m.q, m.q), e)


@each_ring
def test_sums_that_are_sent_open_in_seal(params, rng):
    """The encryption as it runs: what is sent, summed and lifted to the ring again, opens in SEAL by the keys' sum."""
    seal, (values, a_key) = Seal(*params.primes), a_round(params, rng)
    packed, key_sum = submit(params, a_key, values)
    total = joined(packed, params)
    p, q = math.prod(params.moduli), params.modulus
    lifted = [(2 * h * q + p) // (2 * p) for h in total]
    limbs = np.array([[x % prime for x in lifted] for prime in params.primes])
    opened = reference.join(seal.decrypt_ours(key_sum, limbs, common(params, a_key)).tolist(), params.primes)
    opened = [x - q if x > q // 2 else x for x in opened]
    assert split([round(Fraction(x, params.delta)) for x in opened], params) == sum(values).tolist()
    # Noise of both sites, what each rounding left out, and what the lift did.
    message = reference.pack_digits(sum(values), params.digits, params.base)
    rest = [abs(x - params.delta * m) for x, m in zip(opened, message, strict=True)]
    assert q / p / 4 <= max(rest) <= largest_noise(params, len(values)) + 1


@each_ring
def test_what_seal_computes_for_our_keys_is_rounded_and_opened_here(params, rng):
    """SEAL multiplies and adds, c = a*s + e + D*m; it is rounded as ours is, summed, and opened by the package."""
    seal, (values, a_key) = Seal(*params.primes), a_round(params, rng)
    a, sent, key_sum = common(params, a_key), [], np.zeros(N, dtype=np.int64)
    for batch, mine in enumerate(values):
        s, noise_key = fresh_key().astype(np.int64), rng.bytes(32)
        e = deterministic.noise(noise_key, 0).tolist()
        message = reference.pack_digits(mine, params.digits, params.base)
        added = [x + params.delta * m for x, m in zip(e, message, strict=True)]
        limbs = np.array([[x % q for x in added] for q in params.primes])
        minus = np.array([(q - x) % q for x, q in zip(a, params.primes, strict=True)])  # a*s is taken away there
        c = reference.join(seal.decrypt_ours(s, limbs, minus).tolist(), params.primes)
        if batch == 0:
            assert c == reference.ciphertext(params, a_key, noise_key, s, 0, mine)
        sent.append(rounded(c, params))
        key_sum += s
    sums, distance, *_ = open_sum(params, a_key, key_sum, len(values), folded(sent, params), values[0].size)
    assert np.array_equal(sums, sum(values))
    assert distance <= largest_noise(params, len(values)) + 2


@each_ring
def test_what_seal_encrypts_is_rounded_and_opened_here(params, rng):
    """SEAL draws key, a and noise and encrypts D*m; several of its ciphertexts, rounded as ours are, open to the sum.

    They have one key and each its own a, which adds up where ours has one a and keys that do.
    """
    seal, (values, _) = Seal(*params.primes), a_round(params, rng)
    a, sent = np.zeros((len(params.primes), N, LANES), dtype=np.int64), []
    for mine in values:
        message = np.array(reference.pack_digits(mine, params.digits, params.base)).reshape(N, LANES) * params.delta
        limbs = np.empty_like(a)
        for lane in range(LANES):
            limbs[:, :, lane], c1 = seal.encrypt_polynomial(message[:, lane])
            a[:, :, lane] -= c1.astype(np.int64)
        sent.append(rounded(reference.join(limbs.reshape(-1, BATCH).tolist(), params.primes), params))
    residues = np.array([x % q for x, q in zip(a, params.primes, strict=True)]).reshape(-1, BATCH)
    sums = np.empty(values[0].size, dtype=np.int64)
    with Opener(params, bytes(32), seal.own_key(), len(values)) as opener:
        vars(opener)["_a"] = Given(residues)
        opener.open(0, folded(sent, params), sums)
    assert np.array_equal(sums, sum(values))


def largest_noise(params, sites):
    """What noise and rounding of so many sites come to at most."""
    p, q = math.prod(params.moduli), params.modulus
    return sites * (NOISE_BOUND + Fraction(q, p) * (HALF + reference.float_error(p)))


class Given:
    """A keystream whose words are residues that SEAL drew."""

    def __init__(self, residues):
        self._residues = residues

    def fill_with_tail(self, out, limb, batch):
        out.view(np.uint32)[:BATCH] = self._residues[limb]


def a_round(params, rng):
    """Values of two sites, a batch of each, some at the bound; and the key of a."""
    m = params.max_abs_value
    values = [rng.integers(-m, m + 1, params.digits * BATCH).astype(np.int32) for _ in range(2)]
    for mine in values:
        mine[:64], mine[-64:] = m, -m
    return values, rng.bytes(32)


def common(params, a_key):
    """Residues of a, transform order. Shape: (limbs, BATCH)."""
    return np.array([deterministic.common(a_key, limb, 0, q) for limb, q in enumerate(params.primes)])


def rounded(c, params):
    """Round as what is sent is rounded, exactly."""
    return [reference.rounded(x, math.prod(params.moduli), params.modulus) for x in c]


def folded(sent, params):
    """Sum up what sites send, and pack it."""
    total = [sum(column) for column in zip(*sent, strict=True)]
    bits = zip(params.moduli, params.sent_bits, strict=True)
    return [pack(np.array([x % r for x in total], dtype=np.uint32), b) for r, b in bits]


def joined(packed, params):
    """The residues of a batch in several parts as one number each."""
    parts = zip(packed, params.sent_bits, strict=True)
    return reference.join([unpack(x, BATCH, b).tolist() for x, b in parts], params.moduli)


def split(coefficients, params):
    """The values that a whole batch's coefficients carry."""
    digits = [reference.split_digits(m, params.digits, params.base) for m in coefficients]
    return [d[j] for j in range(params.digits) for d in digits]


def test_our_keys_make_a_seal_key_that_gives_the_same_transform(seal):
    s = fresh_key().astype(np.int64)
    key = sealapi.SecretKey()
    seal_bytes.load_with(key, seal.context, seal.key, seal_bytes.KEY, there(s % seal.m.q, seal.m))
    values = seal_bytes.residues(seal_bytes.body(key), seal_bytes.KEY)
    assert np.array_equal(centred(back(values, seal.m), seal.m.q), s)
