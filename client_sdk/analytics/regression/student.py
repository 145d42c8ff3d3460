"""Student's t, without SciPy."""

from __future__ import annotations

import math

__all__ = ["student_quantile", "student_tail"]

_TINY = 1e-300


def student_tail(t: float, df: float) -> float:
    """Compute P(|T| > |t|) of Student's distribution: a two-sided p value.

    Args:
        df: degrees of freedom, above 0.

    Source: Abramowitz and Stegun 26.7.1 with 26.5.8, the continued fraction of the incomplete beta function.
    """
    if math.isnan(t) or not df > 0:
        return math.nan
    if math.isinf(t):
        return 0.0
    x, rest = df / (df + t * t), t * t / (df + t * t)
    if rest == 0:
        return 1.0
    if x == 0:
        return 0.0
    a, b = df / 2, 0.5
    scale = _half_up(a) - math.lgamma(b)
    front = math.exp(scale + a * (math.log1p(-rest) if rest < 0.5 else math.log(x)) + b * math.log(rest))
    if x < (a + 1) / (a + b + 2):
        return min(front * _fraction(a, b, x) / a, 1.0)
    return max(1 - front * _fraction(b, a, rest) / b, 0.0)


def student_quantile(p: float, df: float) -> float:
    """Compute the t below which Student's distribution has probability p, from 0.5 up."""
    if not df > 0:
        return math.nan
    two_sided = 2 * (1 - p)
    low, high = 0.0, 1.0
    while student_tail(high, df) > two_sided:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student_tail(middle, df) > two_sided else (low, middle)
    return (low + high) / 2


def _half_up(a: float) -> float:
    """Compute log(gamma(a + 1/2) / gamma(a)), by its series where the logarithms would cancel."""
    if a < 50:
        return math.lgamma(a + 0.5) - math.lgamma(a)
    return 0.5 * math.log(a) - 1 / (8 * a) + 1 / (192 * a**3) - 1 / (640 * a**5)


def _fraction(a: float, b: float, x: float) -> float:
    """Evaluate the continued fraction of the incomplete beta function by Lentz's method."""
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, 10_000):
        for even in (True, False):
            if even:
                term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
            else:
                term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
            d, c = 1 / _away(1 + term * d), _away(1 + term / c)
            result *= d * c
        if abs(d * c - 1) < 1e-16:
            break
    return result


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
