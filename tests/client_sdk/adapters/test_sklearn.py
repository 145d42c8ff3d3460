"""Scikit-learn: every kind of estimator that is supported, fitted or not."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.cross_decomposition import PLSRegression
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from client_sdk.adapters import SklearnAdapter, adapter_for
from he_agg.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)
BINARY = y[:100]


def classifiers():
    return [
        LogisticRegression(warm_start=True),
        SGDClassifier(loss="log_loss", random_state=0),
        MLPClassifier((5,), random_state=3),
    ]


def named(models):
    return pytest.mark.parametrize("model", models, ids=lambda m: type(m).__name__)


@named(
    [
        *classifiers(),
        LinearRegression(),
        Ridge(),
        SGDRegressor(random_state=0),
        MLPRegressor(hidden_layer_sizes=(4, 3), random_state=0),
    ]
)
def test_a_fitted_model_goes_round_and_predicts_the_same(model):
    model.fit(X, y)
    adapter = adapter_for(model)
    tensors = adapter.tensors(model)
    other = type(model)(**model.get_params())
    other.fit(X[::2], y[::2])
    adapter.load(other, tensors)
    assert np.array_equal(model.predict(X), other.predict(X))
    again = adapter.tensors(other)
    assert all(again[name].tobytes() == tensors[name].tobytes() for name in tensors)
    assert all(again[name].shape == tensors[name].shape for name in tensors)


@named(classifiers())
@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 1], ["no", "yes"]])
def test_an_unfitted_classifier_starts_the_same_everywhere(model, classes):
    adapter = SklearnAdapter(classes=classes, n_features=4)
    one, other = type(model)(**model.get_params()), type(model)(**model.get_params())
    first, second = adapter.tensors(one), adapter.tensors(other)
    assert list(first) == list(second)
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert all(" of " + "|".join(map(str, classes)) in name for name in first)
    if not hasattr(one, "coefs_"):
        assert not any(array.any() for array in first.values())
    assert one.predict(X).shape == (150,)


@named([LinearRegression(), SGDRegressor(), MLPRegressor(hidden_layer_sizes=(3,), random_state=1)])
def test_an_unfitted_regressor_needs_the_number_of_features_only(model):
    assert SklearnAdapter(n_features=4).tensors(model)
    assert model.predict(X).shape == (150,)


def test_partial_fit_goes_on_from_loaded_weights_without_a_class():
    adapter = SklearnAdapter(classes=[0, 1, 2], n_features=4)
    model = SGDClassifier(loss="log_loss", random_state=0)
    start = adapter.tensors(model)
    model.partial_fit(X[:100], BINARY)  # a site that has no patients of class 2
    after = adapter.tensors(model)
    assert list(after) == list(start)
    assert any((after[name] != start[name]).any() for name in after)
    assert list(adapter.local(model)) == ["t_"]


def test_warm_started_logistic_regression_begins_at_loaded_weights():
    model = LogisticRegression(warm_start=True, max_iter=1)
    adapter = SklearnAdapter(classes=[0, 1, 2], n_features=4)
    fitted = LogisticRegression(max_iter=500).fit(X, y)
    adapter.tensors(model)
    adapter.load(model, adapter.tensors(fitted))
    model.fit(X, y)
    # One step from the optimum stays there; one step from zero does not.
    assert np.allclose(model.coef_, fitted.coef_, atol=0.05)


def test_mlp_starts_its_optimizer_afresh_when_a_mean_is_loaded():
    adapter = SklearnAdapter(classes=[0, 1, 2], n_features=4)
    runs = []
    for interrupted in (False, True):
        model = MLPClassifier((5,), random_state=3)
        adapter.tensors(model)
        for _ in range(2):
            model.partial_fit(X, y)
            if interrupted:  # as after a restart: a new object, the state loaded
                state, local = adapter.tensors(model), adapter.local(model)
                model = MLPClassifier((5,), random_state=3)
                adapter.load_local(adapter.load(model, state), local)
            else:
                adapter.load(model, adapter.tensors(model))
        runs.append(adapter.tensors(model))
    assert all(runs[0][name].tobytes() == runs[1][name].tobytes() for name in runs[0])


def test_a_fit_that_forgot_a_class_is_refused():
    adapter = SklearnAdapter(classes=[0, 1, 2], n_features=4)
    model = LogisticRegression().fit(X[:100], BINARY)
    with pytest.raises(InputError, match=r"\[0, 1, 2\].*\[0, 1\]") as caught:
        adapter.tensors(model)
    assert "partial_fit" in caught.value.hint


def test_other_labels_are_other_tensors():
    here = LogisticRegression().fit(X[:100], BINARY)
    there = LogisticRegression().fit(X[:100], np.where(BINARY == 0, "stroke", "no stroke"))
    adapter = SklearnAdapter()
    with pytest.raises(InputError, match=r"coef_ of no stroke\|stroke"):
        adapter.load(there, adapter.tensors(here))


def test_many_labels_have_a_short_name():
    names = list(SklearnAdapter(classes=list(range(100)), n_features=2).tensors(SGDClassifier()))
    assert all(len(name) < 40 for name in names)


@pytest.mark.parametrize(
    ("model", "says", "do"),
    [
        (LogisticRegression(), "classes and number of features", "n_features"),
        (SGDClassifier(average=True), "averaged SGD", "average=False"),
        (GaussianNB(), "coef_", "analytics"),
        (SVC(kernel="linear"), "support vectors", "LinearSVC"),
        (PLSRegression(1), "centered columns", "Ridge"),
        (MLPClassifier((3,)), "random_state", "same random_state"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_supported_says_what_to_do(model, says, do):
    adapter = SklearnAdapter() if "classes" in says else SklearnAdapter(classes=[0, 1], n_features=3)
    with pytest.raises(InputError, match=says) as caught:
        adapter.tensors(model)
    assert do in caught.value.hint


def test_other_estimators_are_refused():
    with pytest.raises(InputError):
        SklearnAdapter(n_features=3).tensors(KMeans())


def test_binary_data_of_the_real_kind():
    features, died = load_breast_cancer(return_X_y=True)
    model = SGDClassifier(loss="log_loss", random_state=0)
    tensors = SklearnAdapter(classes=[0, 1], n_features=30).tensors(model)
    assert [array.shape for array in tensors.values()] in ([(30,), (1,)], [(1, 30), (1,)])
    model.partial_fit(features, died)
    after = SklearnAdapter().tensors(model)
    assert [array.shape for array in after.values()] == [array.shape for array in tensors.values()]


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("kind", ["pipeline", "search"])
def test_who_hands_in_a_pipeline_or_a_search_is_told_what_to_hand_in(kind, fitted):
    """Fitted or not, with the adapter that is found by itself."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    last = LogisticRegression()
    model = make_pipeline(StandardScaler(), last) if kind == "pipeline" else GridSearchCV(last, {"C": [1.0, 2.0]})
    if fitted:
        model.fit(np.arange(40.0).reshape(20, 2), np.tile([0, 1], 10))
    with pytest.raises(InputError, match=r"got a (Pipeline of 2 steps|GridSearchCV)") as caught:
        adapter_for(model).tensors(model)
    assert ("pipeline[-1]" if kind == "pipeline" else "best_estimator_") in caught.value.hint
    if fitted:
        inner = model[-1] if kind == "pipeline" else model.best_estimator_
        assert adapter_for(inner).tensors(inner)
