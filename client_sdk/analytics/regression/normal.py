"""Normal equations in whole numbers: what they have for solutions is exact, however alike columns are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.regression.penalty import Penalty, minimise

__all__ = ["Equations", "elastic_net", "least_squares", "matrix_of", "residuals"]

Floats = NDArray[np.float64]

_FIRM = 1e6 * 2.0**-50
"""Smallest eigenvalue of correlations with which a lasso's coefficients are known to 1e-6."""


@dataclass(frozen=True)
class Equations:
    """Sums of products of the constant, the features and the outcome, in steps of their grids.

    Attributes:
        products: Python's integers. Shape: (features + 2, features + 2)
        steps: what one step is, of the features and of the outcome. Shape: (features + 1,)
        weight: what one step of a weight is.
    """

    products: list[list[int]]
    steps: tuple[float, ...]
    weight: float

    @property
    def size(self) -> int:
        """How many coefficients there are."""
        return len(self.products) - 1

    @property
    def units(self) -> Floats:
        """Return what a coefficient of 1 between grid numbers is, the intercept's first."""
        return self.steps[-1] / np.array([1.0, *self.steps[:-1]])

    def less(self, other: Equations) -> Equations:
        """Return the equations of the rows that are not in the other ones."""
        rest = [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(self.products, other.products, strict=True)]
        return Equations(rest, self.steps, self.weight)


def least_squares(equations: Equations, l2: float, inverse: bool) -> tuple[list[Fraction], list[Fraction]] | int:
    """Solve the normal equations, with a ridge.

    Args:
        inverse: whether the diagonal of the inverse is wanted.

    Returns:
        Coefficients between grid numbers, and that diagonal; or the first column that depends on those before it.
    """
    size = equations.size
    ridge = [Fraction(l2) / (Fraction(equations.weight) * Fraction(step) ** 2) for step in equations.steps[:-1]]
    scale = math.lcm(*(term.denominator for term in ridge))
    rows = []
    for i in range(size):
        row = [scale * value for value in equations.products[i]]
        if i:
            row[i] += int(ridge[i - 1] * scale)
        rows.append(row + [scale * (i == j) for j in range(size)] * inverse)
    lost = _eliminate(rows)
    if lost is not None:
        return lost
    last = rows[0][0]
    return (
        [Fraction(row[size], last) for row in rows],
        [Fraction(rows[i][size + 1 + i], last) for i in range(size)] if inverse else [],
    )


def _eliminate(rows: list[list[int]]) -> int | None:
    """Make the left square diagonal without fractions; a column that depends on those before it stops it.

    Source: Bareiss, Math. Comp. 22 (1968) 565: each division is by the last pivot and leaves no remainder. Sums of
    products need no exchange of rows: a pivot of 0 is a column without a part of its own.
    """
    last = 1
    for k, top in enumerate(rows):
        pivot = top[k]
        if pivot == 0:
            return k
        for i, row in enumerate(rows):
            if i != k:
                factor = row[k]
                rows[i] = [(pivot * a - factor * b) // last for a, b in zip(row, top, strict=True)]
        last = pivot
    return None


def residuals(equations: Equations, coefficients: list[Fraction]) -> Fraction:
    """Return the sum of squared residuals in squared steps of the outcome, times steps of weights; exact."""
    scale = math.lcm(*(c.denominator for c in coefficients))
    whole = [*(int(-c * scale) for c in coefficients), scale]
    total = sum(
        a * sum(m * b for m, b in zip(row, whole, strict=True))
        for a, row in zip(whole, equations.products, strict=True)
    )
    return Fraction(total, scale**2)


def elastic_net(equations: Equations, penalty: Penalty) -> Floats | None:
    """Solve least squares with a penalty in float64: coefficients, the intercept first.

    The intercept is taken out exactly, so that a mean far from 0 costs no digits. None where coefficients are not
    determined.
    """
    products, size = equations.products, equations.size
    n = products[0][0]
    steps = np.array(equations.steps)
    centred = np.array(
        [
            [(n * products[i][j] - products[0][i] * products[0][j]) / n for j in range(1, size + 1)]
            for i in range(1, size + 1)
        ]
    )
    centred *= equations.weight * np.multiply.outer(steps, steps)
    q, c = np.eye(size), np.zeros(size)
    q[1:, 1:], c[1:] = centred[:-1, :-1], centred[:-1, -1]
    q = penalty.ridged(q)
    beta, free = minimise(q, c, penalty.thresholds(size), np.zeros(size))
    some = q[np.ix_(free, free)]
    spread = np.sqrt(np.diag(some))
    if not float(np.linalg.eigvalsh(some / np.multiply.outer(spread, spread))[0]) > _FIRM * len(some):
        return None
    means = np.array([products[0][i] / n for i in range(1, size + 1)]) * steps
    beta[0] = means[-1] - float(means[:-1] @ beta[1:])
    return beta


def matrix_of(upper: Any, size: int) -> list[list[int]]:
    """Return the symmetric matrix with this upper half, row by row."""
    values = iter(int(value) for value in upper)
    matrix = [[0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i, size):
            matrix[i][j] = matrix[j][i] = next(values)
    return matrix
