"""Principal components: from the exact covariance in one round, or by power iteration where columns are many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import Analysis, Finished, OneRound
from client_sdk.analytics.checks import MAX_ROWS, TOO_FEW, Grid, check_rows
from client_sdk.analytics.integers import Field
from client_sdk.analytics.moments import Moments, MomentSums, exact_dot, exact_sum
from client_sdk.columns import expected, refuse, table

__all__ = ["PCA", "PCAResult", "PowerPCA"]

T = TypeVar("T")

_FRACTION_BITS = 32
"""Power iteration: products are rounded at each site to this many binary places."""


@dataclass(frozen=True)
class PCAResult:
    """Principal components of all sites' rows.

    Attributes:
        components: unit vectors, the largest entry of each positive. Shape: (kept, columns)
        variances: along each component, with n - 1 in the denominator. Units: squared values. Shape: (kept,)
        explained: variances as shares of the total. Shape: (kept,)
        mean: of the columns. Shape: (columns,)
        n: rows of all sites together.
        steps: rounds it took.
        n_sites: how many sites are in it.
    """

    components: NDArray[np.float64]
    variances: NDArray[np.float64]
    explained: NDArray[np.float64]
    mean: NDArray[np.float64]
    n: int
    steps: int
    n_sites: int

    def scores(self, rows: Any) -> NDArray[np.float64]:
        """Return one's own rows along the components.

        Args:
            rows: Shape: (rows, columns)

        Shape: (rows, kept)
        """
        return np.asarray((table(rows, self.mean.size, "rows") - self.mean) @ self.components.T)


@dataclass(frozen=True)
class PCA(OneRound[PCAResult]):
    """Principal components from the covariance matrix, whose sums are exact.

    **Every hospital learns** counts, sums and sums of products of all pairs of columns over all hospitals, that is the
    full covariance matrix.

    Attributes:
        kept: how many components.
        grids: one per column.
        max_rows: most rows of a site.
    """

    kept: int
    grids: Sequence[Grid]
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.kept <= len(self.grids):
            raise refuse(f"PCA: expected 1 to {len(self.grids)} components, got {self.kept}")

    @property
    def _moments(self) -> Moments:
        return Moments(self.grids, covariance=True, max_rows=self.max_rows)

    @property
    def fields(self) -> MomentSums[Field]:
        """Those of `Moments` with covariance."""
        return self._moments.fields

    def prepared(self, *data: Any) -> MomentSums[NDArray[Any]]:
        """Return the site's sums."""
        return self._moments.prepared(*data)

    def result(self, sums: MomentSums[NDArray[Any]], n_sites: int) -> PCAResult:
        """Return eigenvectors of the covariance."""
        moments = self._moments.result(sums, n_sites)
        n = int(moments.n[0])
        if moments.covariance is None or n < 2:
            raise refuse(f"PCA: expected at least two rows, all sites together have {n}", TOO_FEW)
        values, vectors = np.linalg.eigh(moments.covariance)
        total = float(np.trace(moments.covariance))
        return _result(values, vectors, self.kept, total, moments.mean, n, 1, n_sites)


class PowerSums(NamedTuple, Generic[T]):
    """Rows, sums and squares of columns (first round), products with the basis (later ones)."""

    n: T
    sums: T
    squares: T
    products: T


@dataclass(frozen=True)
class PowerState:
    """What is public between steps of the power iteration.

    Attributes:
        step: rounds taken in.
        n: rows of all sites.
        mean: of the columns, in grid numbers; None before the first round.
        total: sum of all columns' variances, in squared grid numbers.
        basis: orthonormal, on a grid of 2^-40. Shape: (columns, kept)
        variances: along the basis in the last step. Shape: (kept,)
    """

    step: int
    n: int
    mean: NDArray[np.float64] | None
    total: float
    basis: NDArray[np.float64]
    variances: NDArray[np.float64]


@dataclass(frozen=True)
class PowerPCA(Analysis[NDArray[np.int64], PowerState, PCAResult]):
    """The leading principal components by subspace (block power) iteration.

    Each step sums ``X'(X V)`` of the centred rows: columns x kept numbers instead of the covariance's
    columns x columns / 2. Products are rounded at each site to 2^-32 of a squared grid step, and the basis to 2^-40,
    so the components are those of the pooled rows up to the tolerance of the iteration.

    **Every hospital learns** counts, sums and sums of squares per column, and in each step the product of the
    covariance with the current basis: less than the covariance matrix, the more so the fewer components are kept.

    Attributes:
        kept: how many components.
        grid: of all columns.
        columns: how many columns rows have.
        tolerance: the iteration ends when covariance times component is component times variance up to this share of
            the variance, for each one.
        max_steps: rounds at most; without convergence until then there is an error.
        seed: of the public first basis.
        max_rows: most rows of a site.
    """

    kept: int
    grid: Grid
    columns: int
    tolerance: float = 1e-7
    max_steps: int = 200
    seed: int = 0
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.kept <= self.columns:
            raise refuse(f"PowerPCA: expected 1 to {self.columns} components, got {self.kept}")

    @property
    def fields(self) -> PowerSums[Field]:
        """First round: rows, sums and squares; later: rows and products."""
        bound, d = self.grid.bound, self.columns
        # Row norms are at most 2 * bound * sqrt(d) after centring, and the basis is orthonormal.
        product = self.max_rows * 4 * bound**2 * d << _FRACTION_BITS
        return PowerSums(
            n=Field((), self.max_rows),
            sums=Field((d,), self.max_rows * bound),
            squares=Field((d,), self.max_rows * bound**2),
            products=Field((d, self.kept), product),
        )

    def prepared(self, *data: Any) -> NDArray[np.int64]:
        """Return grid numbers of the site's rows."""
        (values,) = expected(data, "PowerPCA", "values")
        rows = self.grid.integers(table(values, self.columns))
        check_rows(len(rows), self.max_rows)
        return rows

    def start(self) -> PowerState:
        """Return a public random basis."""
        draws = np.random.default_rng(self.seed).standard_normal((self.columns, self.kept))
        return PowerState(0, 0, None, 0.0, _orthonormal(draws), np.zeros(self.kept))

    def contribution(self, state: PowerState, data: NDArray[np.int64]) -> PowerSums[NDArray[Any]]:
        """Return the site's part of X'(X V); of the moments, in the first round."""
        zero = PowerSums(*(np.zeros(field.shape, dtype=np.int64) for field in self.fields))
        if state.mean is None:
            squares = [exact_dot(column, column) for column in np.ascontiguousarray(data.T)]
            return zero._replace(
                n=np.array(len(data)),
                sums=np.array([exact_sum(column) for column in data.T], dtype=object).reshape(self.columns),
                squares=np.array(squares, dtype=object).reshape(self.columns),
            )
        centred = data - state.mean
        products = centred.T @ (centred @ state.basis)
        whole = [int(math.ldexp(value, _FRACTION_BITS)) for value in products.ravel().tolist()]
        return zero._replace(
            n=np.array(len(data)),
            products=np.array(whole, dtype=object).reshape(self.columns, self.kept),
        )

    def advance(
        self,
        state: PowerState,
        sums: PowerSums[NDArray[Any]],
        n_sites: int,
    ) -> PowerState | Finished[PCAResult]:
        """Return the next basis, or the components."""
        n = int(sums.n)
        if n < 2:
            raise refuse(f"PowerPCA: expected at least two rows, all sites together have {n}", TOO_FEW)
        if state.mean is None:
            mean = np.array([int(value) / n for value in sums.sums])
            pairs = zip(sums.squares, sums.sums, strict=True)
            total = sum((n * int(square) - int(value) ** 2) / (n * (n - 1)) for square, value in pairs)
            return PowerState(1, n, mean, float(total), state.basis, state.variances)
        scale = 2**_FRACTION_BITS * (n - 1)
        product = np.array([int(value) / scale for value in sums.products.ravel()]).reshape(state.basis.shape)
        # Rayleigh-Ritz: the best components within the span of the basis.
        inner = state.basis.T @ product
        values, turns = np.linalg.eigh((inner + inner.T) / 2)
        vectors = state.basis @ turns
        off = np.linalg.norm(product @ turns - vectors * values, axis=0)
        noise = math.sqrt(self.columns) * (n_sites * 2.0**-_FRACTION_BITS / (n - 1) + 2.0**-38 * float(values.max()))
        if (off <= self.tolerance * np.maximum(values, 0.0) + noise).all():
            step = self.grid.step
            area = step * step
            return Finished(
                _result(
                    values * area,
                    vectors,
                    self.kept,
                    state.total * area,
                    state.mean * step,
                    n,
                    state.step + 1,
                    n_sites,
                )
            )
        if state.step + 1 >= self.max_steps:
            raise refuse(
                f"PowerPCA: no convergence in {self.max_steps} rounds: components that follow each other have almost "
                "the same variance",
                "keep one component more or less, or give a larger tolerance or more max_steps",
            )
        return PowerState(state.step + 1, n, state.mean, state.total, _orthonormal(product), values[::-1].copy())


def _orthonormal(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an orthonormal basis of the same span, on a grid so that sites on unlike machines rarely differ."""
    basis, _ = np.linalg.qr(vectors)
    signs = np.where(basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])] < 0, -1.0, 1.0)
    return np.asarray(np.ldexp(np.rint(np.ldexp(basis * signs, 40)), -40))


def _result(
    values: NDArray[np.float64],
    vectors: NDArray[np.float64],
    kept: int,
    total: float,
    mean: NDArray[np.float64],
    n: int,
    steps: int,
    n_sites: int,
) -> PCAResult:
    order = np.argsort(values)[::-1][:kept]
    components = vectors[:, order].T.copy()
    signs = np.sign(components[np.arange(len(order)), np.abs(components).argmax(axis=1)])
    components *= signs[:, None]
    variances = np.maximum(values[order], 0.0)
    explained = variances / total if total else variances * np.nan
    return PCAResult(components, variances, explained, mean, n, steps, n_sites)
