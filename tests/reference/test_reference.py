"""No result is wrong without an error: awkward random cases of what is counted and trained, against other arithmetic.

Each case has the seed that its failure prints: `HE_AGG_TEST_SEED=... HE_AGG_TEST_CASE=...` repeats it alone.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import numpy as np
import pytest

from tests.reference import (
    adapters,
    cross_validations,
    modules,
    optimisers,
    regressions,
    scores,
    statistics,
    survival_models,
)
from tests.reference.hospitals import RefusedError
from tests.support.seeds import seed_of

CASES = (
    statistics.CASES
    | regressions.CASES
    | cross_validations.CASES
    | survival_models.CASES
    | scores.CASES
    | optimisers.CASES
    | adapters.CASES
    | modules.CASES
)
BUDGET_S = 10.0
"""For all kinds together, in `make test`."""


def survey(name, seed, numbers, until=None):
    """Judge cases; return how many were answered, and why the others were refused."""
    outcomes: Counter[str] = Counter()
    for number in numbers:
        if until is not None and time.monotonic() > until:
            break
        try:
            CASES[name](np.random.default_rng([seed, number]))
        except RefusedError as error:
            outcomes[str(error)] += 1
        except Exception as error:
            print(f"{name}: HE_AGG_TEST_SEED={seed} HE_AGG_TEST_CASE={number}")
            raise AssertionError(f"{name}, seed {seed}, case {number}: {error}") from error
        else:
            outcomes["answered"] += 1
    return outcomes


def numbers(most):
    case = os.environ.get("HE_AGG_TEST_CASE")
    return range(most) if case is None else [int(case)]


@pytest.mark.parametrize("name", CASES)
def test_a_sample(name):
    seed = seed_of(name)
    outcomes = survey(name, seed, numbers(10_000), time.monotonic() + BUDGET_S / len(CASES))
    assert outcomes.total() > 0
    assert outcomes["answered"] > 0 or "HE_AGG_TEST_CASE" in os.environ, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_thousands(name, capsys):
    seed = seed_of(name)
    models = regressions.CASES | cross_validations.CASES | survival_models.CASES
    most = 1_000 if name in models else -(-10_000 // len(CASES))
    outcomes = survey(name, seed, numbers(most))
    with capsys.disabled():
        print(f"\n{name}: {outcomes.total()} cases, seed {seed}, none wrong: {dict(outcomes)}")
