"""Ridge, lasso and elastic net of a quadratic: what is left of a regression once its sums are known.

A Newton step with a penalty is `minimise`: the loss is replaced by its quadratic at the current coefficients, whose
gradient and Hessian are the round's sums, and the penalty stays as it is. Nothing else travels, so a lasso takes as
many rounds as a fit without it; the alternating directions of ADMM would take one for each of some hundred updates.
A Cox model's step is the same, of a likelihood without an intercept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Penalty", "minimise", "moved"]

Floats = NDArray[np.float64]

_STEPS = 200
"""The most changes of signs for each coefficient; a few are usual."""
_BEYOND = 1e-9
"""How far over its threshold, in units of it, the gradient of a coefficient that stays zero may be."""
_NEAR = 1e-7
"""How near to its threshold, in units of it, the gradient of a coefficient that is zero counts as at it."""


@dataclass(frozen=True)
class Penalty:
    """l1 * sum |b| + l2 / 2 * sum b^2, on the summed loss.

    Attributes:
        l1: of the lasso.
        l2: of the ridge.
        intercept: whether the first coefficient is one, and left out.
    """

    l1: float
    l2: float
    intercept: bool = True

    def thresholds(self, size: int) -> Floats:
        """Return the lasso's part of each coefficient."""
        return self._each(self.l1, size)

    def value(self, beta: Floats) -> float:
        """Return what it adds to the loss."""
        return float(self.thresholds(len(beta)) @ np.abs(beta) + 0.5 * self.slope(beta) @ beta)

    def slope(self, beta: Floats) -> Floats:
        """Return the gradient of the ridge."""
        return self._each(self.l2, len(beta)) * beta

    def _each(self, strength: float, size: int) -> Floats:
        each = np.full(size, strength)
        if self.intercept:
            each[0] = 0.0
        return each

    def ridged(self, hessian: Floats) -> Floats:
        """Return a Hessian with the ridge in it."""
        return hessian + np.diag(self.slope(np.ones(len(hessian))))

    def __bool__(self) -> bool:
        return bool(self.l1 > 0 or self.l2 > 0)


def moved(beta: Floats, gradient: Floats, curvature: Floats, penalty: Penalty) -> tuple[Floats, Floats]:
    """Take a Newton step with a penalty.

    Args:
        beta: where the likelihood is known.
        gradient: of its logarithm there.
        curvature: minus its second derivative there.
        penalty: on the loss.

    Returns:
        The new coefficients, not numbers where the penalised Hessian is singular; and that Hessian, of the coefficients
        that could be other than 0.
    """
    hessian = penalty.ridged(curvature)
    if penalty.l1:
        after, free = minimise(hessian, curvature @ beta + gradient, penalty.thresholds(len(beta)), beta)
        return after, hessian[np.ix_(free, free)]
    try:  # as a move from where it stands, so that what is rounded is the move
        return beta + np.linalg.solve(hessian, gradient - penalty.slope(beta)), hessian
    except np.linalg.LinAlgError:
        return np.full(len(beta), np.nan), hessian


def minimise(q: Floats, c: Floats, threshold: Floats, start: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Minimise b'qb/2 - c'b + threshold'|b| by a search over signs, which ends at the minimum itself.

    With the signs of all coefficients given, the minimum is the solution of a linear system. From where it stands, go
    there, or to the best of the points on the way at which a sign changes; once nothing changes any more, let in the
    coefficient that is zero and whose gradient is farthest beyond its threshold. Each step descends, so no signs come
    twice. Coordinate descent would take a million sweeps where columns are nearly alike.

    Source: Lee, Battle, Raina and Ng, Efficient sparse coding algorithms, NIPS 2006 (feature-sign search).

    Args:
        q: positive semidefinite, with a positive diagonal where there is no threshold.
        threshold: the lasso's, of each coefficient.
        start: where to begin.

    Returns:
        The minimum, not numbers if it was not found; and which coefficients could be other than 0 in it: those that
        are, and those whose gradient is at the threshold. If q is regular there, the minimum is the only one.
    """
    b, signs = start.copy(), np.sign(start)
    for _ in range(_STEPS * len(c)):
        free = (signs != 0) | (threshold == 0)
        after, changed = _towards(q, c, threshold, b, signs, free)
        b = after
        if changed:
            signs = np.sign(b)
            continue
        slope = c - q @ b
        beyond = np.where(free, 0.0, np.abs(slope) - (1 + _BEYOND) * threshold)
        worst = int(np.argmax(beyond))
        if beyond[worst] <= 0:
            return b, (b != 0) | (threshold - np.abs(slope) <= _NEAR * threshold)
        signs = np.sign(b)
        signs[worst] = np.sign(slope[worst])
    return np.full(len(c), np.nan), np.ones(len(c), dtype=np.bool_)


def _towards(
    q: Floats, c: Floats, threshold: Floats, b: Floats, signs: Floats, free: NDArray[np.bool_]
) -> tuple[Floats, bool]:
    """Go to the minimum of these signs, or to the best point on the way at which one changes; tell whether one did."""
    some, own = q[np.ix_(free, free)], np.where(free, b, 0.0)
    move = np.zeros_like(b)
    for _ in range(2):  # the second time for what the first one rounded
        rest = (c - q @ (own + move) - threshold * signs)[free]
        try:
            move[free] += np.linalg.solve(some, rest)
        except np.linalg.LinAlgError:  # far along what is flat, so that a sign changes on the way
            move[free] += np.linalg.solve(some + 1e-12 * (1 + np.trace(some)) * np.eye(len(some)), rest)
    turns = free & (threshold > 0) & (own != 0) & (own * (own + move) < 0)
    if not turns.any():
        return own + move, False
    shares = np.append(1.0, -own[turns] / move[turns])
    points = own + shares[:, None] * move
    points[1:, turns] *= 1 - np.eye(int(turns.sum()))  # exactly 0 where it turns
    steps = points - own
    rise = steps @ (q @ own - c) + 0.5 * ((steps @ q) * steps).sum(axis=1) + (np.abs(points) - np.abs(own)) @ threshold
    return points[int(np.argmin(rise))], True
