"""Ridge, lasso and elastic net of a quadratic: what is left of a regression once its sums are known.

A Newton step with a penalty is `minimise`: the loss is replaced by its quadratic at the current coefficients, whose
gradient and Hessian are the round's sums, and the penalty stays as it is. Nothing else travels, so a lasso takes as
many rounds as a fit without it; the alternating directions of ADMM would take one for each of some hundred updates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Penalty", "minimise"]

Floats = NDArray[np.float64]

_SWEEPS = 20_000
_CHECK = 8
"""Sweeps of coordinate descent between two looks at whether the right coefficients are zero."""
_NEAR = 1e-7
"""How near to its threshold, in units of it, the gradient of a coefficient that is zero counts as at it."""


@dataclass(frozen=True)
class Penalty:
    """l1 * sum |b| + l2 / 2 * sum b^2, on the summed loss; the first coefficient is the intercept's and left out."""

    l1: float
    l2: float

    def value(self, beta: Floats) -> float:
        """Return what it adds to the loss."""
        rest = beta[1:]
        return self.l1 * float(np.abs(rest).sum()) + 0.5 * self.l2 * float((rest**2).sum())

    def slope(self, beta: Floats) -> Floats:
        """Return the gradient of the ridge."""
        slope = self.l2 * beta
        slope[0] = 0.0
        return slope

    def ridged(self, hessian: Floats) -> Floats:
        """Return a Hessian with the ridge in it."""
        return hessian + np.diag(self.slope(np.ones(len(hessian))))

    def __bool__(self) -> bool:
        return bool(self.l1 > 0 or self.l2 > 0)


def minimise(q: Floats, c: Floats, l1: float, start: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Minimise b'qb/2 - c'b + l1 * sum |b[1:]| by coordinate descent, finished by the linear system of what is not 0.

    Args:
        q: positive semidefinite, with a positive diagonal.
        start: where to begin.

    Returns:
        The minimum, and which coefficients could be other than 0 in it: those that are, and those whose gradient is at
        the threshold. If q is regular there, the minimum is the only one.
    """
    threshold = np.full(len(c), l1)
    threshold[0] = 0.0
    if l1 == 0:
        return np.asarray(np.linalg.solve(q, c), dtype=np.float64), np.ones(len(c), dtype=np.bool_)
    b, diagonal = start.copy(), np.diag(q)
    found = _finished(q, c, threshold, b)
    for sweep in range(_SWEEPS):
        if found is not None:
            break
        for j in range(len(c)):
            if diagonal[j] > 0:
                rest = float(c[j] - q[j] @ b + diagonal[j] * b[j])
                b[j] = np.sign(rest) * max(abs(rest) - threshold[j], 0.0) / diagonal[j]
        if sweep % _CHECK == _CHECK - 1:
            found = _finished(q, c, threshold, b)
    b = b if found is None else found
    slack = threshold - np.abs(c - q @ b)
    return b, (b != 0) | (slack <= _NEAR * threshold)


def _finished(q: Floats, c: Floats, threshold: Floats, b: Floats) -> Floats | None:
    """Solve for the coefficients that are not zero; None if that is not the minimum."""
    free = b != 0
    free[0] = True
    signs = np.sign(b)[free]
    try:
        some = np.linalg.solve(q[np.ix_(free, free)], c[free] - threshold[free] * signs)
    except np.linalg.LinAlgError:
        return None
    if (np.sign(some) != signs)[threshold[free] > 0].any():
        return None
    whole = np.zeros_like(b)
    whole[free] = some
    beyond = np.abs(c - q @ whole)[~free] - threshold[~free]
    return whole if (beyond <= 1e-9 * threshold[~free]).all() else None
