"""Scikit-learn estimators: linear models, `SGD*` and other `partial_fit` estimators, `MLP*`. Needs the extra `sklearn`.

Averaged are the coefficients: `coef_` and `intercept_`, or the networks' `coefs_` and `intercepts_`. SGD's step counter
`t_` stays local. An MLP's optimizer starts afresh with every `load`: its moments belong to the weights before the mean.

The classes are part of the tensors' names, so sites that count other labels do not fit the plan, instead of averaging
"stroke" with "no stroke".
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.adapters.base import Adapter, Patterns, Tensors, missing_extra, numeric
from he_agg.errors import InputError, Reason

try:
    from sklearn.base import BaseEstimator, is_classifier, is_regressor
    from sklearn.exceptions import ConvergenceWarning
except ImportError as error:
    raise missing_extra("scikit-learn", "sklearn") from error

__all__ = ["SklearnAdapter"]

_LINEAR = ("coef_", "intercept_")
_NETWORK = ("coefs_", "intercepts_")
_COUNTER = "t_"
_LONGEST_LABELS = 60


class SklearnAdapter(Adapter[BaseEstimator]):
    """For estimators whose learned state is `coef_`/`intercept_` or `coefs_`/`intercepts_`. `load` writes in place.

    An estimator that is not fitted yet starts at zero (an MLP: at a draw that follows from its integer
    `random_state`), the same at every site, once the adapter knows `n_features`, and for classifiers `classes`.

    Args:
        include: patterns over tensor names such as "coef_*" or "coefs_/0*".
        classes: all labels that any site has, in any order.
    """

    def __init__(
        self,
        include: Patterns = "*",
        exclude: Patterns = (),
        *,
        classes: Sequence[Any] | NDArray[Any] | None = None,
        n_features: int | None = None,
    ) -> None:
        super().__init__(include, exclude)
        self._classes = None if classes is None else np.unique(np.asarray(classes))
        self._n_features = n_features

    def state(self, model: BaseEstimator) -> Tensors:
        """Return coefficients, intercepts, and the step counter if there is one."""
        self._ready(model)
        found = {name: numeric(name, self._get(model, name)) for name in self._names(model)}
        if hasattr(model, _COUNTER):
            found[_COUNTER] = np.array(getattr(model, _COUNTER), dtype=np.float64)
        return found

    def is_shared(self, name: str, array: NDArray[Any]) -> bool:
        """Keep counters local, whatever the patterns say."""
        return name != _COUNTER and super().is_shared(name, array)

    def write(self, model: BaseEstimator, tensors: Mapping[str, NDArray[Any]]) -> BaseEstimator:
        """Put coefficients into the estimator."""
        for name, array in tensors.items():
            new: Any = np.array(array, order="C", copy=True)
            attribute, _, rest = name.partition(" ")[0].partition("/")
            if name == _COUNTER:
                setattr(model, _COUNTER, type(model.t_)(array))
            elif rest:
                getattr(model, attribute)[int(rest)] = new
            else:
                old = getattr(model, attribute)
                setattr(model, attribute, type(old)(new) if isinstance(old, float) else new)
        if hasattr(model, "_optimizer"):
            del model._optimizer
        return model

    def _names(self, model: BaseEstimator) -> list[str]:
        labels = _labels(model)
        if hasattr(model, "coefs_"):
            return [f"{attribute}/{i}{labels}" for attribute in _NETWORK for i in range(len(getattr(model, attribute)))]
        return [f"{attribute}{labels}" for attribute in _LINEAR]

    def _get(self, model: BaseEstimator, name: str) -> Any:
        attribute, _, rest = name.partition(" ")[0].partition("/")
        value = getattr(model, attribute)
        return value[int(rest)] if rest else value

    def _ready(self, model: BaseEstimator) -> None:
        if not isinstance(model, BaseEstimator):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"expected a scikit-learn estimator, got {type(model).__name__}",
                "of a Pipeline, hand in its last step: `pipeline[-1]`",
            )
        _check_plain(model)
        if not hasattr(model, "coef_") and not hasattr(model, "coefs_"):
            if hasattr(model, "n_features_in_"):  # fitted, and yet without
                raise _unsupported(model)
            self._start(model)
        if getattr(model, "average", False):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"{type(model).__name__}(average=...): expected plain SGD, got averaged SGD, which keeps hidden sums",
                "set average=False: the federation averages",
            )
        _check_coefficients(model)
        mine = getattr(model, "classes_", None)
        if self._classes is not None and mine is not None and not np.array_equal(mine, self._classes):
            raise InputError(
                Reason.WRONG_SHAPE,
                f"{type(model).__name__}: expected the classes {_shown(self._classes)}, the model has {_shown(mine)}",
                "fit() forgets classes that a site has no patients of: use an estimator with partial_fit, such as "
                "SGDClassifier(loss='log_loss'), or MLPClassifier",
            )

    def _start(self, model: BaseEstimator) -> None:
        """Make an unfitted estimator look fitted, the same at every site."""
        kind = type(model).__name__
        if not is_classifier(model) and not is_regressor(model):
            raise _unsupported(model)
        if self._n_features is None or (is_classifier(model) and self._classes is None):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"{kind}: expected a fitted estimator, or its classes and number of features; got neither",
                "SklearnAdapter(classes=[0, 1], n_features=12): all labels that any site has",
            )
        # A few made-up rows create the attributes; their values are then replaced.
        labels = np.arange(2) if self._classes is None else self._classes
        y = np.tile(labels, 2)
        X = np.eye(len(y), self._n_features) + np.arange(len(y))[:, None] / len(y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            if not hasattr(model, "partial_fit"):
                model.fit(X, y)
            elif is_classifier(model):
                model.partial_fit(X, y, classes=labels)
            else:
                model.partial_fit(X, y.astype(np.float64))
        _check_coefficients(model)
        if hasattr(model, "coefs_"):
            self._draw(model)
        else:
            self.write(model, {name: np.zeros_like(np.asarray(self._get(model, name))) for name in self._names(model)})
        if hasattr(model, _COUNTER):
            model.t_ = type(model.t_)(0 if hasattr(model, "coefs_") else 1)

    def _draw(self, model: BaseEstimator) -> None:
        """Draw Glorot's uniform weights from a bit stream that no version of NumPy changes."""
        if not isinstance(model.random_state, int | np.integer):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"{type(model).__name__}: expected an integer random_state, got {model.random_state!r}",
                "all sites must start from the same weights: set the same random_state everywhere",
            )
        bits = np.random.Philox(key=int(model.random_state))
        factor = 2.0 if model.activation == "logistic" else 6.0
        for coefs, intercepts in zip(model.coefs_, model.intercepts_, strict=True):
            bound = np.sqrt(factor / sum(coefs.shape))
            uniform = (bits.random_raw(coefs.size) >> np.uint64(11)).astype(np.float64) * 2.0**-53
            coefs[...] = (bound * (2 * uniform - 1)).reshape(coefs.shape)
            intercepts[...] = 0


def _check_plain(model: BaseEstimator) -> None:
    """Refuse what holds estimators instead of being one, and say which of them to hand in."""
    kind = type(model).__name__
    if hasattr(model, "steps"):
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"expected an estimator with coefficients of its own, got a {kind} of {len(model.steps)} steps",
            "hand in its last step, `pipeline[-1]`, and in `fit` transform the features first, "
            "`pipeline[:-1].transform(x)`; every site must transform them in the same way, so fit scalers on numbers "
            "that all sites have, such as client_sdk.analytics' Moments",
        )
    if hasattr(model, "best_estimator_") or hasattr(model, "param_grid") or hasattr(model, "param_distributions"):
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"expected an estimator with coefficients of its own, got a {kind}, which searches for one",
            "hand in the estimator with the settings that all sites have agreed on, such as `search.best_estimator_`",
        )


def _check_coefficients(model: BaseEstimator) -> None:
    """Check that a fitted estimator has coefficients, and that all predictions follow from them."""
    if not hasattr(model, "coefs_") and not all(hasattr(model, name) for name in _LINEAR):
        raise _unsupported(model)
    if hasattr(model, "support_vectors_") or hasattr(model, "x_rotations_"):
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"{type(model).__name__}: expected coefficients from which all predictions follow; its predictions follow "
            "from support vectors or centered columns of the site's own rows",
            "LinearSVC, SGDClassifier, LinearSVR or Ridge learn coefficients alone",
        )


def _unsupported(model: BaseEstimator) -> InputError:
    return InputError(
        Reason.BAD_ARGUMENT,
        f"expected coef_ and intercept_, or coefs_ and intercepts_; {type(model).__name__} has neither",
        "counts, moments and clusters are sums: see client_sdk.analytics",
    )


def _shown(classes: NDArray[Any]) -> str:
    return str(list(classes.tolist()))


def _labels(model: BaseEstimator) -> str:
    """Return the classes as part of a tensor's name; their digest if they are many."""
    classes = getattr(model, "classes_", None)
    if classes is None:
        return ""
    text = "|".join(str(label) for label in np.asarray(classes).tolist())
    if len(text) > _LONGEST_LABELS:
        text = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f" of {text}"
