"""Fit every penalty on all rows and on all but each fold's: by Newton's method, or from one sum of products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.integers import Field
from client_sdk.analytics.regression.linear import LinearRegression, Products, dependent
from client_sdk.analytics.regression.models import NewtonRegression, RegressionSums
from client_sdk.analytics.regression.newton import FRACTION_BITS, Curve, Fit, Newton, Solved, bound, real, whole
from client_sdk.analytics.regression.normal import Equations, elastic_net, residuals
from client_sdk.analytics.regression.penalty import Penalty
from client_sdk.analytics.regression.results import RegressionResult
from client_sdk.analytics.regression.rows import Rows, cells
from client_sdk.analytics.regression.small import check_cells

__all__ = ["Machine", "NewtonFolds", "ProductFolds", "Scores"]

Floats = NDArray[np.float64]
T = TypeVar("T")

_ROUNDED = 2.0 ** -(FRACTION_BITS - 10)
"""What of a hospital's slopes may be rounding."""
_LEAST_RATIO = 0.01
"""Where the strongest penalty of a ridge is: no penalty on squares leaves no coefficient."""


@dataclass(frozen=True)
class Scores:
    """Fits that are all finished.

    Attributes:
        alphas: from the strongest.
        weights: of each fold's rows. Shape: (folds,)
        held_out: deviance of each fold's rows in the fit of the others. Shape: (penalties, folds)
        path: coefficients of all rows. Shape: (penalties, features + 1)
        fit: makes the result of a penalty.
    """

    alphas: tuple[float, ...]
    weights: Floats
    held_out: Floats
    path: Floats
    fit: Callable[[int], RegressionResult]


@dataclass(frozen=True)
class Machine(ABC):
    """How a model's folds are fitted."""

    model: Any
    penalties: int
    folds: int
    l1_ratio: float
    told: tuple[float, ...] | None
    smallest: float

    @property
    @abstractmethod
    def fields(self) -> Any:
        """What is summed in each step."""

    @abstractmethod
    def rows(self, *data: Any) -> Any:
        """Check a site's rows."""

    @abstractmethod
    def arrays(self, rows: Any) -> tuple[NDArray[Any], ...]:
        """Return what the rows are, for the draw of folds."""

    @abstractmethod
    def size(self, rows: Any) -> int:
        """Return how many there are."""

    @abstractmethod
    def dealt(self, rows: Any, fold: NDArray[np.int64]) -> Any:
        """Keep rows with their folds."""

    @abstractmethod
    def start(self) -> Any:
        """Return the state before the first step."""

    @abstractmethod
    def contribution(self, state: Any, data: Any) -> Any:
        """Return a site's integers."""

    @abstractmethod
    def advance(self, state: Any, sums: Any, n_sites: int) -> Any:
        """Return the next state, or `Scores`."""

    def penalty(self, alpha: float, weight: float) -> Penalty:
        """Return what a penalty on the mean loss is on the loss of rows of this weight."""
        return Penalty(alpha * weight * self.l1_ratio, alpha * weight * (1 - self.l1_ratio))

    def sequence(self, slope: float) -> tuple[float, ...]:
        """Return penalties from the least that leaves no coefficient; to six digits, the same on every machine.

        Args:
            slope: the largest of the mean loss where only the intercept is not 0.
        """
        top = slope / max(self.l1_ratio, _LEAST_RATIO) or 1.0
        parts = [self.smallest ** (i / (self.penalties - 1)) for i in range(self.penalties)]
        return tuple(float(f"{top * part:.6g}") for part in parts)


class FoldSums(NamedTuple, Generic[T]):
    """Rows and weights of folds, cells, curves of all fits, what they lose on rows that were left out, and the rest.

    Curves are of each penalty on all rows, then on all but each fold's.
    """

    n: T
    weight: T
    cells: T
    gradient: T
    hessian: T
    loss: T
    held_out: T
    saturated: T
    pearson: T


@dataclass(frozen=True)
class FoldFits:
    """Where all fits stand.

    Attributes:
        alphas: from the strongest; None before they are known.
        fits: of each penalty, on all rows, then on all but each fold's.
        step: rounds taken in.
    """

    alphas: tuple[float, ...] | None
    fits: tuple[tuple[Fit, ...], ...]
    step: int


@dataclass(frozen=True)
class NewtonFolds(Machine):
    """Folds of a logistic or Poisson regression. A fit that is finished is told again until all are."""

    model: NewtonRegression[Any]

    @property
    def newton(self) -> Newton:
        """The model's machine, which goes to the common mean first: that is where the penalties are known."""
        return replace(self.model.newton, starts_at_mean=True)

    @property
    def fields(self) -> FoldSums[Field]:
        """The model's fields, many times."""
        curve, many = self.newton.curve(), (self.penalties, self.folds + 1)
        weight, loss = self.newton.most_steps, bound(self.newton.most_loss)
        pearson = self.model.fields.pearson
        gradient, hessian, each = (Field((*many, *field.shape), field.bound) for field in curve)
        return FoldSums(
            n=Field((self.folds,), self.model.max_rows),
            weight=Field((self.folds,), weight),
            cells=Field((3, self.model.features + 1), self.model.max_rows),
            gradient=gradient,
            hessian=hessian,
            loss=each,
            held_out=Field((self.penalties, self.folds), loss),
            saturated=Field((), loss),
            pearson=Field((self.penalties,), pearson.bound),
        )

    def rows(self, *data: Any) -> Rows:
        """Check a site's rows."""
        return self.model.prepared(*data)

    def arrays(self, rows: Rows) -> tuple[NDArray[Any], ...]:
        """Return all columns."""
        return rows.x, rows.y, rows.offset, rows.steps

    def size(self, rows: Rows) -> int:
        """Return how many there are."""
        return len(rows.y)

    def dealt(self, rows: Rows, fold: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
        """Keep rows with their folds."""
        return rows, fold

    def start(self) -> FoldFits:
        """Return fits in which all coefficients are 0."""
        return FoldFits(self.told, ((self.newton.begin(),) * (self.folds + 1),) * self.penalties, 0)

    def contribution(self, state: FoldFits, data: tuple[Rows, NDArray[np.int64]]) -> FoldSums[NDArray[Any]]:
        """Return the site's sums of every fit."""
        (rows, fold), newton = data, self.newton
        parts = [rows.of(fold == k) for k in range(self.folds)]
        kept = [rows, *(rows.of(fold != k) for k in range(self.folds))]
        known: dict[tuple[int, bytes], Curve[NDArray[Any]]] = {}

        def curve_of(place: int, beta: Floats) -> Curve[NDArray[Any]]:
            key = place, beta.tobytes()  # fits that stand at the same place are worked out once
            if key not in known:
                known[key] = newton.tell(kept[place], beta)
            return known[key]

        curves = [[curve_of(k, fit.beta) for k, fit in enumerate(fits)] for fits in state.fits]
        held = [[self._loss(part, fit.beta) for part, fit in zip(parts, fits[1:], strict=True)] for fits in state.fits]
        firsts = [self.model.contribution(fits[0], rows) for fits in state.fits]
        return FoldSums(
            np.array([len(part.y) for part in parts]),
            np.array([int(part.steps.sum()) for part in parts]),
            cells(rows),
            np.array([[curve.gradient for curve in row] for row in curves], dtype=object),
            np.array([[curve.hessian for curve in row] for row in curves], dtype=object),
            np.array([[curve.loss.item() for curve in row] for row in curves], dtype=object),
            whole(np.array(held)),
            firsts[0].saturated,
            np.array([first.pearson.item() for first in firsts], dtype=object),
        )

    def _loss(self, rows: Rows, beta: Floats) -> float:
        loss = float(rows.weight @ self.model.family.loss(rows.y, rows.x @ beta + rows.offset))
        return min(loss, self.newton.most_loss)

    def advance(self, state: FoldFits, sums: FoldSums[NDArray[Any]], n_sites: int) -> FoldFits | Scores:
        """Take a step with every fit."""
        if state.step == 0:
            check_cells("CrossValidation", sums.cells, self.model.small_cells)
        weights = np.array([int(w) for w in sums.weight]) * self.newton.step_of_weights
        total = float(weights.sum())
        alphas = state.alphas
        if alphas is None and state.step == 1:
            slope = float(np.abs(real(sums.gradient[0, 0])[1:]).max())
            # Columns that are constant have none but what was rounded, and no penalties of their own.
            alphas = self.sequence(slope / total if slope > _ROUNDED * n_sites else 0.0)
        kept = [total, *(total - weights)]
        after: list[list[Fit | Solved]] = []
        for i, fits in enumerate(state.fits):
            strengths = [self.penalty(1.0 if alphas is None else alphas[i], weight) for weight in kept]
            curves = [Curve(sums.gradient[i, k], sums.hessian[i, k], sums.loss[i, k]) for k in range(len(kept))]
            steps = zip(fits, curves, strengths, strict=True)
            after.append([self.newton.step(fit, curve, strength, n_sites) for fit, curve, strength in steps])
        if alphas is None or any(isinstance(fit, Fit) for row in after for fit in row):
            moved = tuple(
                tuple(new if isinstance(new, Fit) else old for old, new in zip(old_row, new_row, strict=True))
                for old_row, new_row in zip(state.fits, after, strict=True)
            )
            return FoldFits(alphas, moved, state.step + 1)
        solved: list[Solved] = [row[0] for row in after if isinstance(row[0], Solved)]
        strongest: tuple[float, ...] = alphas

        def fit(best: int) -> RegressionResult:
            one = RegressionSums(
                np.array(int(sums.n.sum())),
                np.array(int(sums.weight.sum())),
                sums.cells,
                sums.gradient[best, 0],
                sums.hessian[best, 0],
                sums.loss[best, 0],
                sums.saturated,
                sums.pearson[best],
            )
            strength = self.penalty(strongest[best], total)
            made: RegressionResult = self.model.result_of(solved[best], one, state.step + 1, n_sites, strength)
            return made

        return Scores(alphas, weights, 2 * real(sums.held_out), np.array([one.beta for one in solved]), fit)


class FoldProducts(NamedTuple, Generic[T]):
    """Rows of each fold, cells, products of each fold."""

    n: T
    cells: T
    products: T


@dataclass(frozen=True)
class ProductFolds(Machine):
    """Folds of a linear regression: the products of each fold are enough for everything."""

    model: LinearRegression

    @property
    def fields(self) -> FoldProducts[Field]:
        """The model's fields of each fold."""
        one = self.model.fields
        return FoldProducts(
            Field((self.folds,), self.model.max_rows),
            one.cells,
            Field((self.folds, *one.products.shape), one.products.bound),
        )

    def rows(self, *data: Any) -> Products:
        """Check a site's rows."""
        return self.model.rows_of(*data)

    def arrays(self, rows: Products) -> tuple[NDArray[Any], ...]:
        """Return all columns."""
        return rows.columns, rows.steps

    def size(self, rows: Products) -> int:
        """Return how many there are."""
        return len(rows.steps)

    def dealt(self, rows: Products, fold: NDArray[np.int64]) -> FoldProducts[NDArray[Any]]:
        """Return the sums of each fold."""
        parts = [self.model.sums_of(rows.of(fold == k)) for k in range(self.folds)]
        return FoldProducts(
            np.array([int(part.n) for part in parts]),
            np.sum([part.cells for part in parts], axis=0),
            np.array([part.products for part in parts], dtype=object),
        )

    def start(self) -> tuple[()]:
        """Return a state in which nothing is known."""
        return ()

    def contribution(self, state: tuple[()], data: Any) -> Any:  # noqa: ARG002 - there is no state
        """Return the site's sums."""
        return data

    def advance(self, state: tuple[()], sums: FoldProducts[NDArray[Any]], n_sites: int) -> Scores:  # noqa: ARG002
        """Fit everything."""
        check_cells("CrossValidation", sums.cells, self.model.small_cells)
        parts = [self.model.equations_of(products) for products in sums.products]
        whole_ = self.model.equations_of(sums.products.sum(axis=0))
        weights = np.array([part.products[0][0] for part in parts]) * whole_.weight
        alphas = self.told or self.sequence(self._slope(whole_))
        unit = whole_.weight * whole_.steps[-1] ** 2
        held = np.empty((len(alphas), self.folds))
        path = np.empty((len(alphas), whole_.size))
        for i, alpha in enumerate(alphas):
            path[i] = self._solved(whole_, alpha)
            for k, part in enumerate(parts):
                beta = self._solved(whole_.less(part), alpha) / whole_.units
                held[i, k] = float(residuals(part, [Fraction(b) for b in beta.tolist()])) * unit

        def fit(best: int) -> RegressionResult:
            strength = self.penalty(alphas[best], float(weights.sum()))
            return self.model.fit_of(whole_, strength, int(sums.n.sum()), n_sites)

        return Scores(alphas, weights, held, path, fit)

    def _solved(self, equations: Equations, alpha: float) -> Floats:
        beta = elastic_net(equations, self.penalty(alpha, equations.products[0][0] * equations.weight))
        if beta is None:
            raise dependent("some columns, so nearly that the coefficients are not determined to 1e-6,")
        return beta

    def _slope(self, equations: Equations) -> float:
        """Return the largest covariance of a feature with the outcome."""
        products, n = equations.products, equations.products[0][0]
        steps = np.array(equations.steps)
        covariances = [(n * row[-1] - row[0] * products[0][-1]) / n**2 for row in products[1:-1]]
        return float(np.abs(np.array(covariances) * steps[:-1] * steps[-1]).max())
