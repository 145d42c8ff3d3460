"""The same loop with scikit-learn models, simulated; test_loop.py ties that to encrypted runs."""

import copy

import pytest
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

from client_sdk.adapters import SklearnAdapter
from client_sdk.training import BinaryScores, simulate, train, training_plan
from tests.support.regression import FEATURES, data

SITES = ["hospital-a", "hospital-b", "hospital-c"]


@pytest.mark.parametrize(
    "model",
    [
        SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.02, random_state=0),
        MLPClassifier((8,), random_state=1, learning_rate_init=0.02),
    ],
    ids=lambda m: type(m).__name__,
)
def test_scikit_learn_models_learn_together(model):
    adapter = SklearnAdapter(classes=[0, 1], n_features=FEATURES)
    plan = training_plan(
        "x", copy.deepcopy(model), clip=50.0, weight_cap=256, max_sites=3, adapter=adapter, evaluation=BinaryScores()
    )

    def work(site, i):
        X, y = data(i)

        def fit(estimator, task):
            for _ in range(10):
                estimator.partial_fit(X, y)
            return len(y)

        return train(site, copy.deepcopy(model), fit, adapter=adapter, rounds=8, evaluation=BinaryScores(),
                     evaluate=lambda estimator: (y, estimator.predict_proba(X)[:, 1]))  # fmt: skip

    results = simulate(plan, SITES, work)
    assert len({result.model_hash for result in results}) == 1
    aucs = [entry["metrics"]["auc"] for entry in results[0].history]
    assert aucs[-1] > 0.75
