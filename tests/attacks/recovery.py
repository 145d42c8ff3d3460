"""Key recovery from decryptions that still carry their noise: the attack that rounding is there to stop.

Whoever has a ciphertext (c0, c1) and c0 + c1*s exactly, noise included, has linear equations in the key s. The
plaintext need not be known. In detail, for CKKS as TenSEAL does it: it returns the real parts of the N/2 slots of the
plaintext polynomial m, and those are, up to a Fourier transform, the coefficients of m(X) + m(1/X), integers that
rounding finds as long as the noise is in the digits. At a root x of X^N + 1 modulo a prime that is

    c1(x) s(x) + c1(1/x) s(1/x)  =  m(x) + m(1/x) - c0(x) - c0(1/x)        one equation, two unknowns

so two ciphertexts under one key give s at every root. Numbers are Python integers in NumPy object arrays: slow,
obvious, and of any size.

Source: Li and Micciancio, "On the security of homomorphic encryption on approximate numbers", EUROCRYPT 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from he_agg.ring.primes import smallest_root

GENERATOR = 3
"""Slot k of SEAL's encoder is the value at the root exp(i*pi/N) ** (GENERATOR**k)."""


class Ring:
    """Z_q[X]/(X^N + 1). Values at roots are in natural order: place k is the root psi**(2k + 1)."""

    def __init__(self, n: int, q: int) -> None:
        self.n, self.q = n, q
        psi = smallest_root(q, 2 * n)
        self.powers = np.array([1] + [0] * (2 * n - 1), dtype=object)
        for i in range(1, 2 * n):
            self.powers[i] = self.powers[i - 1] * psi % q
        bits = n.bit_length() - 1
        self.order = np.array([int(f"{k:0{bits}b}"[::-1], 2) for k in range(n)])

    def from_seal(self, residues) -> np.ndarray:
        """SEAL keeps values at roots in bit-reversed order."""
        return np.asarray(residues).astype(object)[self.order]

    def to_seal(self, values) -> np.ndarray:
        """The other way: reversing bits twice changes nothing."""
        return np.asarray(values)[self.order]

    def evaluate(self, coefficients) -> np.ndarray:
        x = np.asarray(coefficients).astype(object) * self.powers[: self.n] % self.q
        return self._transform(x, 2)

    def interpolate(self, values) -> np.ndarray:
        """Coefficients, between -q/2 and q/2."""
        x = self._transform(np.asarray(values).astype(object), 2 * self.n - 2) * pow(self.n, -1, self.q)
        x = x * self.powers[-np.arange(self.n) % (2 * self.n)] % self.q
        return np.where(x > self.q // 2, x - self.q, x)

    def inverse(self, values) -> np.ndarray:
        return np.array([pow(int(x), -1, self.q) for x in values], dtype=object)

    def _transform(self, x, step: int) -> np.ndarray:
        """Values of sum x_j w**(jk) for all k, w = psi**step: every half by itself, then joined."""
        if len(x) == 1:
            return x
        even, odd = self._transform(x[::2], 2 * step), self._transform(x[1::2], 2 * step)
        odd = odd * self.powers[np.arange(len(odd)) * step % (2 * self.n)] % self.q
        return np.concatenate([(even + odd) % self.q, (even - odd) % self.q])


@dataclass
class Observed:
    """A ciphertext as the server has it (SEAL's order), and what was made public of its decryption.

    Attributes:
        c0, c1: residues modulo one of its primes. Shape: (N,).
        slots: the real parts of all slots, times the scale. Shape: (N/2,).
    """

    c0: np.ndarray
    c1: np.ndarray
    slots: np.ndarray


def _places(n: int) -> np.ndarray:
    """At which root, in natural order, each slot is. Shape: (N/2,)."""
    exponents = [1]
    for _ in range(n // 2 - 1):
        exponents.append(exponents[-1] * GENERATOR % (2 * n))
    return np.array(exponents) // 2


def real_slots(coefficients: np.ndarray) -> np.ndarray:
    """The real parts of all slots of a plaintext polynomial, as TenSEAL returns them. Shape: (N/2,)."""
    n = coefficients.size
    values = np.fft.ifft(coefficients * np.exp(1j * np.pi * np.arange(n) / n)) * n
    return values.real[_places(n)]


def polynomial(slots: np.ndarray) -> np.ndarray:
    """Coefficients, not rounded, of the polynomial whose slots are these real numbers. Shape: (N,)."""
    n = 2 * slots.size
    real, places = np.empty(n), _places(n)
    real[places] = slots
    real[n - 1 - places] = slots  # the conjugate roots
    turned = np.fft.fft(real) * np.exp(-1j * np.pi * np.arange(n) / n)
    return turned.real / n


def symmetric_part(slots: np.ndarray) -> np.ndarray:
    """Coefficients of m(X) + m(1/X), rounded, from the real parts of the slots of m. Shape: (N,)."""
    return np.rint(2 * polynomial(slots))


def ckks_key(ring: Ring, *observed: Observed) -> np.ndarray:
    """The secret key, if the decryptions are exact; noise modulo q otherwise. Shape: (N,).

    Args:
        ring: the ring.
        observed: two ciphertexts, and perhaps a third one for roots where those say the same, one pair in q.
    """
    q, rows = ring.q, []
    for one in observed:
        c0, c1 = ring.from_seal(one.c0), ring.from_seal(one.c1)
        whole = [int(x) for x in symmetric_part(one.slots)]
        # The root 1/x of place k is psi**(2N - 2k - 1): at place N - 1 - k, so reversal swaps each pair.
        rows.append((c1, c1[::-1], (ring.evaluate(whole) - c0 - c0[::-1]) % q))
    (a, b, u), second, *third = rows
    for spare in third:
        same = (a * second[1] - b * second[0]) % q == 0
        second = tuple(np.where(same, x, y) for x, y in zip(spare, second, strict=True))
    c, d, v = second
    determinant = (a * d - b * c) % q
    determinant[determinant == 0] = 1  # the key will be wrong
    return ring.interpolate((d * u - b * v) % q * ring.inverse(determinant) % q)


def ring_key(ring: Ring, a, ciphertext, opened) -> np.ndarray:
    """The one-time key s of c = a*s + e + D*m from e + D*m, if that is exact. Shape: (N,).

    Args:
        ring: the ring.
        a: values at the roots, in SEAL's order.
        ciphertext: c, coefficients.
        opened: what is taken for e + D*m.
    """
    known = np.asarray(ciphertext).astype(object) - np.asarray(opened).astype(object)
    a = ring.from_seal(a)
    a[a == 0] = 1
    return ring.interpolate(ring.evaluate(known % ring.q) * ring.inverse(a) % ring.q)
