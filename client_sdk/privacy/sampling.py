"""Integer noise from a cryptographic source: discrete Gaussian, exact, and Skellam, within 2^-100 of it.

Noise made of floats, or from a seedable generator, can be taken off again (Mironov 2012); so everything here ends in
integers that were decided by bits of the operating system's generator. `numpy.random` is never used.

* **Discrete Gaussian**, by the rejection of Canonne, Kamath and Steinke (2020). Each decision with probability
  ``exp(-g)`` compares 53 random bits with a float; where those do not decide beyond the float's own error (once in
  2^40 times), further bits are drawn and compared in decimal arithmetic with 60 digits. The law is exact up to those
  60 digits.
* **Skellam**, the difference of two Poisson numbers, each by inversion of a table of 128-bit probabilities, computed in
  whole numbers. Total variation from the true law: below 2^-100 for each number.

Source: Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy, arXiv 2004.00010, algorithms 1 to 3.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import InputError, Reason

__all__ = ["MAX_SKELLAM_STD", "Source", "discrete_gaussian", "skellam"]

Source = Callable[[int], bytes]
"""Gives so many random bytes: `os.urandom`. Tests hand in a reproducible one."""

MAX_SKELLAM_STD = 2.0**15
"""Beyond it the tables of probabilities would get too long."""

_EXACT = Context(prec=60)
_MARGIN = 2.0**-40
_CHUNK = 2**16


def discrete_gaussian(std: float, size: int, source: Source = os.urandom) -> NDArray[np.int64]:
    """Draw independent discrete Gaussian numbers: P(x) proportional to exp(-x^2 / (2 std^2)).

    Args:
        std: its parameter, which for std >= 1 is the standard deviation up to 1e-7. Units: grid steps.
        source: of random bytes.

    Shape: (size,)
    """
    if not 0 < std <= 2.0**40:
        raise _refuse(std, 2.0**40)
    variance = Fraction(std) ** 2
    t = math.floor(std) + 1
    out = np.empty(size, dtype=np.int64)
    done = 0
    while done < size:
        y = _discrete_laplace(t, min(2 * (size - done) + 64, _CHUNK), source)
        offset = np.abs(y) - float(variance / t)
        kept = y[_accept(offset * offset / (2 * float(variance)), source, _GaussianExponents(y, t, variance))]
        kept = kept[: size - done]
        out[done : done + kept.size] = kept
        done += kept.size
    return out


def skellam(std: float, size: int, source: Source = os.urandom) -> NDArray[np.int64]:
    """Draw independent Skellam numbers: differences of two Poisson numbers; their sums are Skellam again.

    Args:
        std: standard deviation. Units: grid steps. Its square is rounded up to a multiple of 2^-19.
        source: of random bytes.

    Shape: (size,)
    """
    if not 0 < std <= MAX_SKELLAM_STD:
        raise _refuse(std, MAX_SKELLAM_STD)
    first, high, low = _poisson_table(math.ceil(Fraction(std) ** 2 / 2 * 2**_MEAN_BITS))
    return _inverted(first, high, low, size, source) - _inverted(first, high, low, size, source)


def _refuse(std: float, most: float) -> InputError:
    return InputError(
        Reason.BAD_ARGUMENT,
        f"noise: expected a standard deviation above 0 and up to {most:g} grid steps, got {std:g}",
        "take fewer value bits, which makes the grid coarser, or the discrete Gaussian",
    )


# --- discrete Gaussian ---------------------------------------------------------------------------------------------


def _discrete_laplace(t: int, size: int, source: Source) -> NDArray[np.int64]:
    """Draw at most `size` numbers with P(y) proportional to exp(-|y| / t), t whole; rejected ones are left out."""
    u = _below(t, size, source)
    u = u[_accept(u / t, source, lambda i: Fraction(int(u[i]), t))]
    v = np.zeros(u.size, dtype=np.int64)
    alive = np.arange(u.size)
    while alive.size:
        alive = alive[_accept(np.ones(alive.size), source, lambda _: Fraction(1))]
        v[alive] += 1
    x = u + t * v
    negative = np.frombuffer(source(x.size), dtype=np.uint8) & 1 == 1
    signed: NDArray[np.int64] = np.where(negative, -x, x)[~(negative & (x == 0))]
    return signed


def _below(t: int, size: int, source: Source) -> NDArray[np.int64]:
    """Draw uniform numbers from 0 to t - 1, without bias."""
    mask = (1 << (t - 1).bit_length()) - 1
    out = np.empty(0, dtype=np.int64)
    while out.size < size:
        draws = np.frombuffer(source(8 * (size - out.size)), dtype="<u8") & np.uint64(mask)
        out = np.concatenate([out, draws[draws < t].astype(np.int64)])
    return out


class _GaussianExponents:
    """The exact exponents (|y| - s2/t)^2 / (2 s2), where floats do not decide."""

    def __init__(self, y: NDArray[np.int64], t: int, variance: Fraction) -> None:
        self._y, self._t, self._variance = y, t, variance

    def __call__(self, i: int) -> Fraction:
        return (abs(int(self._y[i])) - self._variance / self._t) ** 2 / (2 * self._variance)


def _accept(exponent: NDArray[np.float64], source: Source, exact: Callable[[int], Fraction]) -> NDArray[np.bool_]:
    """Decide with probability exp(-exponent) each.

    Floats are within 2^-45 of the exact probabilities: the exponents have relative errors of a few 2^-52, and where
    they are above 50 the probability is below 2^-72 itself.
    """
    bits = np.frombuffer(source(8 * exponent.size), dtype="<u8") >> np.uint64(11)
    u = bits.astype(np.float64) * 2.0**-53
    p = np.exp(-exponent)
    accepted = u < p
    for i in np.flatnonzero(np.abs(u - p) < _MARGIN):
        accepted[i] = _decide(int(bits[i]), exact(int(i)), source)
    return np.asarray(accepted, dtype=np.bool_)


def _decide(known: int, exponent: Fraction, source: Source) -> bool:
    """Tell whether a uniform number that begins with these 53 bits is below exp(-exponent)."""
    bits = known << 128 | int.from_bytes(source(16), "little")
    u = _EXACT.divide(Decimal(bits), Decimal(2**181))
    p = _EXACT.exp(-_EXACT.divide(Decimal(exponent.numerator), Decimal(exponent.denominator)))
    return u < p


# --- Skellam -------------------------------------------------------------------------------------------------------

_MEAN_BITS = 20
_WEIGHT_BITS = 192
_NEGLIGIBLE = 1 << (_WEIGHT_BITS - 140)


@lru_cache(maxsize=8)
def _poisson_table(scaled_mean: int) -> tuple[int, NDArray[np.uint64], NDArray[np.uint64]]:
    """Return cumulative probabilities of a Poisson law as 128-bit numbers in halves, and where they begin.

    Weights relative to the mode follow from neighbour to neighbour in whole numbers of 192 bits, down to 2^-140 of the
    mode's. Each of the fewer than 2^20 weights is off by less than 2^20 * 2^-192, so their sum is off by 2^-152, the
    rounding to 128 bits by 2^-127, the tails left out by 2^-110: total variation below 2^-100.
    """
    one = 1 << _MEAN_BITS
    mode = scaled_mean // one
    up, weight, k = [], 1 << _WEIGHT_BITS, mode
    while weight > _NEGLIGIBLE:
        up.append(weight)
        k += 1
        weight = weight * scaled_mean // (k * one)
    down, weight, k = [], 1 << _WEIGHT_BITS, mode
    while k > 0:
        weight = weight * k * one // scaled_mean
        if weight <= _NEGLIGIBLE:
            break
        k -= 1
        down.append(weight)
    weights = down[::-1] + up
    total = sum(weights)
    high, low = np.empty(len(weights), dtype=np.uint64), np.empty(len(weights), dtype=np.uint64)
    running, mask = 0, (1 << 64) - 1
    for i, weight in enumerate(weights):
        running += weight
        cumulative = min((running << 128) // total, (1 << 128) - 1)
        high[i], low[i] = cumulative >> 64, cumulative & mask
    high[-1] = low[-1] = mask
    return mode - len(down), high, low


def _inverted(
    first: int, high: NDArray[np.uint64], low: NDArray[np.uint64], size: int, source: Source
) -> NDArray[np.int64]:
    """Find the first number whose cumulative probability exceeds 128 random bits."""
    out = np.empty(size, dtype=np.int64)
    for start in range(0, size, _CHUNK):
        n = min(_CHUNK, size - start)
        u = np.frombuffer(source(8 * n), dtype="<u8")
        index = np.searchsorted(high, u, side="right")
        for i in np.flatnonzero(high[np.searchsorted(high, u, side="left").clip(max=high.size - 1)] == u):
            # The first 64 bits are those of some entry: look at the other 64.
            index[i] = _tie(high, low, int(u[i]), int.from_bytes(source(8), "little"))
        out[start : start + n] = index.clip(max=high.size - 1) + first
    return out


def _tie(high: NDArray[np.uint64], low: NDArray[np.uint64], u_high: int, u_low: int) -> int:
    i = int(np.searchsorted(high, np.uint64(u_high), side="left"))
    while i < high.size - 1 and int(high[i]) == u_high and int(low[i]) <= u_low:
        i += 1
    return i
