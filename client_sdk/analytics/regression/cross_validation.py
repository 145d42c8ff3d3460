"""Choose a penalty by cross-validation: all folds of all penalties travel in one vector.

folds.py fits them; here is the question, the rule, and the choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import Analysis, Finished
from client_sdk.analytics.checks import TOO_FEW
from client_sdk.analytics.regression.folds import Machine, NewtonFolds, ProductFolds, Scores
from client_sdk.analytics.regression.linear import LinearRegression
from client_sdk.analytics.regression.models import LogisticRegression, PoissonRegression
from client_sdk.analytics.regression.results import RegressionResult
from client_sdk.analytics.regression.small import check_folds
from client_sdk.columns import refuse

__all__ = ["CrossValidation", "CrossValidationResult"]

Floats = NDArray[np.float64]
_MOST = 10_000
"""The most fits of one question."""


@dataclass(frozen=True)
class CrossValidationResult:
    """A penalty that was chosen, and the fit of all rows with it.

    Attributes:
        alphas: penalties per unit of weight, from the strongest. Shape: (penalties,)
        held_out: mean deviance of each fold's rows in the fit of the other folds. Shape: (penalties, folds)
        deviance: mean over all rows. Shape: (penalties,)
        error: its standard error over folds. Shape: (penalties,)
        alpha: the chosen one.
        l1: the question's `l1` that gives the same fit.
        l2: likewise.
        fit: of all rows with it.
        path: coefficients of all rows with each penalty, the intercept first. Shape: (penalties, features + 1)
        n: rows of all sites together.
        steps: rounds it took.
        n_sites: how many sites are in it.
    """

    alphas: Floats
    held_out: Floats
    deviance: Floats
    error: Floats
    alpha: float
    l1: float
    l2: float
    fit: RegressionResult
    path: Floats
    n: int
    steps: int
    n_sites: int


@dataclass(frozen=True)
class CrossValidation(Analysis[Any, Any, CrossValidationResult]):
    """Choose the strength of a ridge, lasso or elastic net by the deviance of rows that were left out.

    The penalty is `alpha * (l1_ratio * sum |b| + (1 - l1_ratio) / 2 * sum b^2)` on the mean loss, the intercept left
    out, as scikit-learn's ElasticNet and glmnet have it: what `l1` and `l2` are on the summed loss is in the result.
    Every hospital deals its rows out to the folds by itself, evenly and at random: the seed is a hash of its rows and
    of `seed`, so folds depend neither on the order of rows nor on anything in them, and nobody knows another's.

    All folds and penalties travel in one vector, so it takes about as many rounds as the slowest fit; a linear
    regression takes one.

    **Every hospital learns** what the question tells, for every fold and penalty: sums of all rows, and of all rows but
    a fold's, and so the first sums of each fold by itself. Folds with few rows are guarded like small cells. With 5
    folds and 20 penalties there are 120 times as many sums as in one fit: with few hundred rows, ask for fewer.

    Attributes:
        model: the regression, without a penalty of its own.
        l1_ratio: 1 for a lasso, 0 for a ridge, between them an elastic net.
        alphas: penalties to try; none for `count` of them, evenly on the scale of logarithms, from the least that
            leaves no coefficient (for a ratio below 0.01 as if it were 0.01) down to `smallest` times it.
        count: how many.
        smallest: the weakest penalty in units of the strongest.
        folds: how many.
        rule: "best" for the least deviance, "one_error" for the strongest penalty within one standard error of it.
        seed: of the folds.
    """

    model: LogisticRegression | PoissonRegression | LinearRegression
    l1_ratio: float = 1.0
    alphas: Sequence[float] = ()
    count: int = 20
    smallest: float = 1e-3
    folds: int = 5
    rule: Literal["best", "one_error"] = "best"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.model, LogisticRegression | PoissonRegression | LinearRegression):
            raise refuse("CrossValidation: expected a logistic, Poisson or linear regression as its model")
        if self.model.l1 or self.model.l2:
            raise refuse("CrossValidation: expected a model without l1 and l2, which are what is chosen")
        if any(alpha <= 0 for alpha in self.alphas) or not 0 <= self.l1_ratio <= 1 or not 0 < self.smallest < 1:
            raise refuse("CrossValidation: expected alphas > 0, l1_ratio from 0 to 1, and smallest between 0 and 1")
        if self.folds < 2 or self.count < 2 or self.rule not in ("best", "one_error"):
            raise refuse("CrossValidation: expected 2 folds or more, 2 penalties or more, and rule best or one_error")
        if len(set(self.alphas)) < len(self.alphas) or self.penalties * (self.folds + 1) > _MOST:
            raise refuse(
                f"CrossValidation: expected alphas that differ, and at most {_MOST} fits of penalties and folds"
            )

    @property
    def penalties(self) -> int:
        """How many penalties are tried."""
        return len(self.alphas) or self.count

    @property
    def _machine(self) -> Machine:
        if isinstance(self.model, LinearRegression):
            return ProductFolds(self.model, self.penalties, self.folds, self.l1_ratio, self._told, self.smallest)
        return NewtonFolds(self.model, self.penalties, self.folds, self.l1_ratio, self._told, self.smallest)

    @property
    def _told(self) -> tuple[float, ...] | None:
        return tuple(sorted(self.alphas, reverse=True)) or None

    @property
    def fields(self) -> Any:
        """The model's sums, for each penalty and fold."""
        return self._machine.fields

    def folds_of(self, *data: Any) -> NDArray[np.int64]:
        """Return the fold of each row whose weight is not 0, as `prepared` deals them out."""
        return self._dealt(self._machine.rows(*data))

    def _dealt(self, rows: Any) -> NDArray[np.int64]:
        digest = hashlib.sha256(f"he-agg folds v1|{self.seed}".encode())
        for array in self._machine.arrays(rows):
            digest.update(np.ascontiguousarray(array).tobytes())
        draws = np.random.Philox(key=int.from_bytes(digest.digest()[:16], "big")).random_raw(
            self._machine.size(rows) + 1
        )
        order = np.argsort(np.argsort(draws[1:], kind="stable"), kind="stable")
        # From a fold at random: the only row of each small hospital would all be in the first one.
        return (order + int(draws[0] >> np.uint64(32))) % self.folds

    def prepared(self, *data: Any) -> Any:
        """Return the site's rows, and their folds.

        Args:
            data: as for the model.
        """
        rows = self._machine.rows(*data)
        return self._machine.dealt(rows, self._dealt(rows))

    def start(self) -> Any:
        """Return fits in which all coefficients are 0."""
        return self._machine.start()

    def contribution(self, state: Any, data: Any) -> Any:
        """Return the site's sums for every penalty and fold."""
        return self._machine.contribution(state, data)

    def advance(self, state: Any, sums: Any, n_sites: int) -> Any:
        """Take a step with every fit, or choose the penalty when all are finished."""
        rows = np.asarray(sums.n, dtype=np.int64)
        if not rows.sum():
            raise refuse("CrossValidation: expected patients, the sites have none", TOO_FEW)
        if getattr(state, "step", 0) == 0:
            check_folds(rows, self.model.small_cells)
        after = self._machine.advance(state, sums, n_sites)
        return Finished(self._chosen(after, n_sites)) if isinstance(after, Scores) else after

    def _chosen(self, scores: Scores, n_sites: int) -> CrossValidationResult:
        weight = scores.weights
        held_out = scores.held_out / weight
        deviance = scores.held_out.sum(axis=1) / weight.sum()
        spread = (weight * (held_out - deviance[:, None]) ** 2).sum(axis=1) / weight.sum()
        error = np.sqrt(spread / (self.folds - 1))
        best = int(np.argmin(deviance))
        if self.rule == "one_error":
            best = int(np.argmax(deviance <= deviance[best] + error[best]))
        alpha = scores.alphas[best]
        fit = scores.fit(best)
        strength = alpha * float(weight.sum())
        return CrossValidationResult(
            np.array(scores.alphas),
            held_out,
            deviance,
            error,
            alpha,
            strength * self.l1_ratio,
            strength * (1 - self.l1_ratio),
            fit,
            scores.path,
            fit.n,
            fit.steps,
            n_sites,
        )
