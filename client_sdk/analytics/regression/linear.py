"""Linear regression: sums of products of all rows, and everything else from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import OneRound
from client_sdk.analytics.checks import MAX_ROWS, TOO_FEW, Grid, check_rows
from client_sdk.analytics.integers import Field
from client_sdk.analytics.moments import exact_dot
from client_sdk.analytics.regression.normal import Equations, elastic_net, least_squares, matrix_of, residuals
from client_sdk.analytics.regression.penalty import Penalty
from client_sdk.analytics.regression.results import LinearResult
from client_sdk.analytics.regression.rows import one_each, weights_of
from client_sdk.analytics.regression.small import check_cells
from client_sdk.analytics.regression.student import student_tail
from client_sdk.analytics.small_cells import SmallCells
from client_sdk.columns import column, expected, refuse, table
from he_agg.errors import InputError

__all__ = ["LinearRegression", "Products", "dependent"]

T = TypeVar("T")


class ProductSums(NamedTuple, Generic[T]):
    """Rows, cells, and the upper half of the products of constant, features and outcome."""

    n: T
    cells: T
    products: T


@dataclass(frozen=True)
class Products:
    """A site's rows in steps of their grids.

    Attributes:
        columns: the constant, the features, the outcome. Shape: (features + 2, rows)
        steps: weights in steps. Shape: (rows,)
    """

    columns: NDArray[np.int64]
    steps: NDArray[np.int64]

    def of(self, which: NDArray[np.bool_]) -> Products:
        """Return some of the rows."""
        return Products(self.columns[:, which], self.steps[which])


@dataclass(frozen=True)
class LinearRegression(OneRound[LinearResult]):
    """Linear regression by least squares, or with a ridge, lasso or elastic net. One round.

    Features and outcome become whole numbers on grids; sums of their products are exact, and the normal equations are
    solved in whole numbers, each coefficient rounded once: no column is too large beside its spread, none too alike
    another. With `l1` the last step is in float64, from the exact sums. Columns that depend on each other are refused,
    by name.

    **Every hospital learns** the sums, squares and products of all columns and the outcome over all hospitals: what
    `Moments(covariance=True)` tells; with a column that is 1 for a group, the group's size and the sums of its rows.
    Groups with few rows are guarded by `small_cells`.

    Attributes:
        grids: one grid per feature.
        outcome: grid of the outcome.
        l2: penalty l2/2 * |coefficients|^2 on half the residual sum of squares, the intercept left out: scikit-learn's
            alpha of Ridge. ElasticNet's alpha and l1_ratio are (l1 + l2) / n and l1 / (l1 + l2).
        l1: penalty l1 * sum |coefficients|, likewise: n times the alpha of Lasso.
        weights: grid of a column of frequency weights: a row of weight 3 is three rows. None for none.
        max_rows: most rows of a site.
        small_cells: what to do about columns that few rows have; "suppress" gives no result.
    """

    grids: Sequence[Grid]
    outcome: Grid
    l2: float = 0.0
    l1: float = 0.0
    weights: Grid | None = None
    max_rows: int = MAX_ROWS
    small_cells: SmallCells = SmallCells()  # noqa: RUF009

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.grids or min(self.l1, self.l2) < 0:
            raise refuse("LinearRegression: expected at least one feature, and l1 and l2 >= 0")
        if self.weights is not None and self.weights.low < 0:
            raise refuse(f"LinearRegression: expected weights from 0, got a grid from {self.weights.low:g}")
        if self._heaviest * self._largest >= 2**52:
            raise refuse("LinearRegression: expected grids whose numbers and weights multiply to less than 2^52")

    @property
    def features(self) -> int:
        """How many columns."""
        return len(self.grids)

    @property
    def _heaviest(self) -> int:
        return 1 if self.weights is None else self.weights.bound

    @property
    def _largest(self) -> int:
        return max(1, self.outcome.bound, *(grid.bound for grid in self.grids))

    @property
    def fields(self) -> ProductSums[Field]:
        """Rows, cells and products."""
        size = self.features + 2
        return ProductSums(
            Field((), self.max_rows),
            Field((3, self.features + 1), self.max_rows),
            Field((size * (size + 1) // 2,), self.max_rows * self._heaviest * self._largest**2),
        )

    def prepared(self, *data: Any) -> ProductSums[NDArray[Any]]:
        """Return the site's sums.

        Args:
            data: features, shape (rows, features), and outcomes, shape (rows,); weights where the question has them.
        """
        return self.sums_of(self.rows_of(*data))

    def rows_of(self, *data: Any) -> Products:
        """Check a site's rows, and put them on their grids."""
        names = ("features", "outcomes") + ("weights",) * (self.weights is not None)
        features, outcomes, *more = expected(data, "LinearRegression", *names)
        x = table(features, self.features, "features")
        y = column(outcomes, "outcomes")
        one_each(y, len(x), "outcomes")
        check_rows(len(x), self.max_rows)
        steps = weights_of(more[0] if more else None, self.weights, len(x))
        columns = [grid.integers(x[:, j], f"feature {j}") for j, grid in enumerate(self.grids)]
        ones = np.ones(len(x), dtype=np.int64)
        return Products(np.array([ones, *columns, self.outcome.integers(y, "outcomes")]), steps).of(steps > 0)

    def sums_of(self, rows: Products) -> ProductSums[NDArray[Any]]:
        """Return the sums of a site's rows."""
        weighted, columns = rows.columns * rows.steps, rows.columns
        size = self.features + 2
        products = [exact_dot(weighted[i], columns[j]) for i in range(size) for j in range(i, size)]
        there = columns[:-1] != 0
        one = np.array([1, *(round(1 / grid.step) for grid in self.grids)])[:, None]
        return ProductSums(
            np.array(columns.shape[1]),
            np.array(
                [there.sum(axis=1), np.zeros(size - 1, dtype=np.int64), (there & (columns[:-1] != one)).sum(axis=1)]
            ),
            np.array(products, dtype=object),
        )

    def equations_of(self, products: Any) -> Equations:
        """Return the normal equations of summed products."""
        steps = (*(grid.step for grid in self.grids), self.outcome.step)
        weight = 1.0 if self.weights is None else self.weights.step
        return Equations(matrix_of(products, self.features + 2), steps, weight)

    def result(self, sums: ProductSums[NDArray[Any]], n_sites: int) -> LinearResult:
        """Return the fit."""
        if int(sums.n) == 0:
            raise refuse("LinearRegression: expected patients, the sites have none", TOO_FEW)
        check_cells("LinearRegression", sums.cells, self.small_cells)
        equations = self.equations_of(sums.products)
        return self.fit_of(equations, Penalty(self.l1, self.l2), int(sums.n), n_sites)

    def coefficients_of(self, equations: Equations, penalty: Penalty) -> tuple[list[Fraction], list[Fraction]]:
        """Return coefficients between grid numbers, and the diagonal of the inverse if there is no penalty."""
        if penalty.l1:
            beta = elastic_net(equations, penalty)
            if beta is None:
                raise dependent("some columns, so nearly that the coefficients are not determined to 1e-6,")
            return [Fraction(b) for b in (beta / equations.units).tolist()], []
        solved = least_squares(equations, penalty.l2, inverse=not penalty)
        if isinstance(solved, int):
            raise dependent(f"feature {solved - 1}")
        return solved

    def fit_of(self, equations: Equations, penalty: Penalty, n: int, n_sites: int) -> LinearResult:
        """Make the result of normal equations."""
        size = self.features + 1
        products, y_step = equations.products, equations.steps[-1]
        coefficients, inverse = self.coefficients_of(equations, penalty)
        weight = products[0][0] * equations.weight
        df = math.nan if penalty else weight - size
        if not penalty and (n <= size or df <= 0):
            raise refuse(
                f"LinearRegression: expected more rows than coefficients ({size}), got {n}: residuals would be rows "
                "themselves",
                TOO_FEW,
            )
        unit = equations.weight * y_step**2
        exact = residuals(equations, coefficients)
        total = Fraction(products[0][0] * products[-1][-1] - products[0][-1] ** 2, products[0][0])
        squares = float(exact) * unit
        beta = np.array([float(c) for c in coefficients]) * equations.units
        if penalty:
            errors = p_values = np.full(size, math.nan)
        else:
            errors = np.sqrt([float(exact * v) / df for v in inverse]) * equations.units
            p_values = np.array([_p_value(b, e, df) for b, e in zip(beta, errors, strict=True)])
        likelihood = -weight / 2 * (math.log(2 * math.pi * squares / weight) + 1) if squares else math.inf
        return LinearResult(
            float(beta[0]),
            beta[1:],
            errors,
            p_values,
            squares,
            likelihood,
            math.nan if penalty else 2 * size - 2 * likelihood,
            n,
            weight,
            1,
            n_sites,
            df,
            math.sqrt(squares / df) if df > 0 else math.nan,
            float(1 - exact / total) if total else math.nan,
        )


def _p_value(beta: float, error: float, df: float) -> float:
    return student_tail(beta / error if error else math.copysign(math.inf, beta), df)


def dependent(which: str) -> InputError:
    """Return the error for columns that depend on each other."""
    return refuse(
        f"LinearRegression: expected columns that do not depend on each other, got one solution of many: {which} "
        "can be written by the constant and other columns",
        "drop it, or give l2, a penalty under which there always is one solution",
    )
