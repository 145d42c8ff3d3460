"""The chi-square and normal tails that tests need, without SciPy."""

from __future__ import annotations

import math

__all__ = ["chi_square_tail", "normal_tail"]


def chi_square_tail(x: float, df: int) -> float:
    """Compute P(X > x) of the chi-square distribution.

    Args:
        x: at least 0.
        df: degrees of freedom, a whole number from 1.

    Source: Abramowitz and Stegun 26.4.4 and 26.4.5: a finite sum for whole degrees of freedom.
    """
    half = x / 2
    if df % 2:
        tail = math.erfc(math.sqrt(half))
        term = math.sqrt(half) * math.exp(-half) / math.gamma(1.5)
        first = 1
    else:
        tail = math.exp(-half)
        term = half * math.exp(-half)
        first = 2
    for k in range(first, df - 1, 2):
        tail += term
        term *= half / (k / 2 + 1)
    return min(tail, 1.0)


def normal_tail(z: float) -> float:
    """Compute P(|Z| > |z|) of the standard normal distribution: a two-sided p value."""
    return math.erfc(abs(z) / math.sqrt(2))
