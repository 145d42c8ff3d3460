"""The passes over a batch, alone: any residues and any number of values, beside pages that may not be touched.

Against exact arithmetic.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from he_agg.kernels.jit import frozen
from he_agg.plan.hybrid_parameters import ring_primes, sent_moduli
from he_agg.ring.encryptor import _rounding_arguments
from he_agg.ring.opener import _opening_arguments
from he_agg.ring.passes import CHUNK, add_and_round, open_and_split
from he_agg.ring.primes import BATCH
from tests.ring import reference
from tests.ring.guarded import guarded, guarded_copy
from tests.ring.sets import ALL

each = pytest.mark.parametrize("params", ALL.values(), ids=ALL)
each_side = pytest.mark.parametrize("at_end", [True, False], ids=["ends-at-guard", "begins-at-guard"])


def lengths(digits):
    """Numbers of values: the first ones, all remainders, and around vectors, chunks and the batch."""
    borders = (16, 32, 64, CHUNK, 2 * CHUNK)
    return sorted({*range(1, 2 * digits + 2), *(digits * c + n for c in borders for n in (-1, 0, 1))})


class Batch:
    """A batch with the key's product, noise and values that a test chooses, all within bounds and some at them."""

    def __init__(self, params, count, rng):
        self.params, self.p, self.q = params, math.prod(params.moduli), params.modulus
        self.coefficients = -(-count // params.digits)
        self.limbs = [near_edges(rng, 0, 2 * q, BATCH).astype(np.uint32) for q in (*params.primes, 1)[:2]]
        m = params.max_abs_value
        self.values = near_edges(rng, -m, m + 1, count).astype(np.int32)
        self.noise = near_edges(rng, -21, 22, BATCH).astype(np.int8)
        # What the key carries has been multiplied with: x*q + y*p, or x alone.
        others = [self.q // prime for prime in params.primes]
        used = zip(*(x[: self.coefficients].tolist() for x in self.limbs[: len(others)]), strict=True)
        self.products = [sum(x * o for x, o in zip(xs, others, strict=True)) % self.q for xs in used]
        self.messages = reference.pack_digits(self.values, params.digits, params.base)

    def exact(self):
        """What is to be rounded, in [0, q)."""
        noise = self.noise[: self.coefficients].tolist()
        added = zip(self.products, noise, self.messages, strict=True)
        return [(z + e + self.params.delta * m) % self.q for z, e, m in added]

    def rounded(self):
        """What is sent for them, rounded exactly, by moduli."""
        sent = [reference.rounded(c, self.p, self.q) for c in self.exact()]
        return [np.array([h % r for h in sent], dtype=np.uint32) for r in self.params.moduli]


def near_edges(rng, low, high, count):
    """Integers in [low, high), a third of them at its ends or next to them."""
    x = rng.integers(low, high, count)
    ends = np.array([low, min(low + 1, high - 1), max(high - 2, low), high - 1])
    return np.where(rng.random(count) < 1 / 3, rng.choice(ends, count), x)


@each_side
@each
def test_any_number_of_values_is_packed_and_rounded(params, at_end, rng):
    """Where a coefficient is short of values it carries zeros; and nothing outside of the arrays is touched."""
    rounding, error = _rounding_arguments(params), reference.float_error(math.prod(params.moduli))
    for count in lengths(params.digits):
        batch = Batch(params, count, rng)
        values, noise = guarded_copy(batch.values, at_end), guarded_copy(batch.noise, at_end)
        x, y = (guarded_copy(limb, at_end) for limb in batch.limbs)
        y = y if len(params.primes) > 1 else x  # as in `_encrypt`
        worst = add_and_round(frozen(values), batch.coefficients, noise, x, y, *rounding)
        assert worst == batch.values.max() + params.max_abs_value
        sent = [z[: batch.coefficients].tolist() for z in (x, y)[: len(params.moduli)]]
        assert all(max(h) < r for h, r in zip(sent, params.moduli, strict=True)), count
        p, q = batch.p, batch.q
        for h, c in zip(reference.join(sent, params.moduli), batch.exact(), strict=True):
            off = (h * q - c * p + q * p // 2) % (q * p) - q * p // 2  # from c*p/q, in units of 1/q
            assert abs(off) <= q * (reference.HALF + error), count


@pytest.mark.parametrize("at_edge", [False, True], ids=["anywhere", "around-half"])
@each
def test_what_is_sent_depends_on_the_ciphertext_alone(params, at_edge, rng):
    """The same c of other values, noise and product gives the same residues, to the last bit.

    Where it does not, whoever has two guesses of an update can tell by the residues which one is likelier. The sums of
    D*m + e and a*s lie within two periods of q; the values differ most, so that c comes from either.
    """
    rounding, q, coefficients = _rounding_arguments(params), params.modulus, 3 * CHUNK
    low = q // 2 - coefficients // 2
    wanted = [low + i for i in range(coefficients)] if at_edge else [int(c) for c in rng.integers(0, q, coefficients)]
    m, sent = params.max_abs_value, []
    for value, noise in ((m, 21), (-m, -21), (0, 0), (m, -21)):
        values = np.full(coefficients * params.digits, value, dtype=np.int32)
        message = reference.pack_digits(values, params.digits, params.base)
        products = [(c - noise - params.delta * k) % q for c, k in zip(wanted, message, strict=True)]
        limbs = [np.zeros(BATCH, dtype=np.uint32) for _ in (0, 1)]
        for limb, prime in zip(limbs, params.primes, strict=False):
            carried = pow(q // prime, -1, prime)
            limb[:coefficients] = [z * carried % prime for z in products]
        x, y = limbs if len(params.primes) > 1 else (limbs[0], limbs[0])
        add_and_round(frozen(values), coefficients, np.full(BATCH, noise, dtype=np.int8), x, y, *rounding)
        sent.append([z[:coefficients].copy() for z in (x, y)[: len(params.moduli)]])
    for other in sent[1:]:
        for residues, same in zip(other, sent[0], strict=True):
            assert np.array_equal(residues, same)


@each
def test_a_value_out_of_bounds_is_seen_in_every_place(params, rng):
    """Of two chunks and a bit, each digit: every vector keeps a maximum of its own."""
    count = params.digits * (2 * CHUNK + 16) + 1
    batch, rounding, m = Batch(params, count, rng), _rounding_arguments(params), params.max_abs_value
    for place in [*range(0, count, 97), count - 1]:
        for bad in (m + 1, -m - 1):
            values = batch.values.copy()
            values[place] = bad
            x, y = (limb.copy() for limb in batch.limbs)
            y = y if len(params.primes) > 1 else x
            assert add_and_round(frozen(values), batch.coefficients, batch.noise, x, y, *rounding) > 2 * m, place


@each_side
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@each
def test_any_number_of_values_is_opened(params, dtype, at_end, rng):
    """What one site sends, rounded exactly, opens to its values; distances to the grid are the exact ones."""
    opening = _opening_arguments(params)
    for count in lengths(params.digits):
        batch = Batch(params, count, rng)
        rounded = batch.rounded()
        first, last = (guarded_copy(h, at_end) for h in (rounded[0], rounded[-1]))
        last = last if len(params.moduli) > 1 else first  # as in `Opener.open`
        x, y = (guarded_copy(limb, at_end) for limb in batch.limbs)
        y = y if len(params.primes) > 1 else x
        out = guarded(count * np.dtype(dtype).itemsize, at_end).view(dtype)
        *largest, distance, squares, magnitude = open_and_split(*(first, last, x, y, *opening, out))
        assert np.array_equal(out, batch.values), count
        assert largest[: len(rounded)] == [h.max() for h in rounded]
        assert magnitude == np.abs(batch.values).max()
        h = reference.join([r.tolist() for r in rounded], params.moduli)
        exact = [reference.remove_key(a, z, batch.p, batch.q) for a, z in zip(h, batch.products, strict=True)]
        off = [abs(z - params.delta * m) for z, m in zip(exact, batch.messages, strict=True)]
        assert abs(distance - max(off)) < 2
        assert abs(squares - sum(d * d for d in off)) <= sum(4 * d + 4 for d in off)


@each
def test_a_residue_that_is_none_is_seen_in_every_place(params, rng):
    count = params.digits * (2 * CHUNK + 16) + 1
    batch, opening = Batch(params, count, rng), _opening_arguments(params)
    rounded, out = batch.rounded(), np.empty(count, dtype=np.int64)
    x, y = batch.limbs[0], batch.limbs[len(params.primes) - 1]
    for number, r in enumerate(params.moduli):
        for place in [*range(0, batch.coefficients, 97), batch.coefficients - 1]:
            for bad in (r, (1 << r.bit_length()) - 1):
                totals = [h.copy() for h in rounded]
                totals[number][place] = bad
                seen = open_and_split(*(totals[0], totals[-1], x.copy(), y.copy(), *opening, out))
                assert seen[number] == bad, place


def test_float64_is_off_by_no_more_than_the_oracle_allows():
    """For every ring and everything that it may be rounded to: the ratio's error and half the product's last place."""
    for primes in ring_primes():
        for moduli in sent_moduli():
            q, p = math.prod(primes), math.prod(moduli)
            if p >= q:
                break
            # As plan/hybrid_parameters.py has it, |c| is below 3q/4, and so is the product below 3p/4.
            largest = Fraction(3 * p, 4)
            of_ratio = abs(Fraction(p / q) - Fraction(p, q)) * q * Fraction(3, 4)
            of_product = Fraction(math.ulp(float(largest))) / 2
            assert of_ratio + of_product <= reference.float_error(p)
