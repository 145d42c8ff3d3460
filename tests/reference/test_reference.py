"""No result is wrong without an error: awkward random cases of what is counted and trained, against other arithmetic.

Each case has the seed that its failure prints: `HE_AGG_TEST_SEED=... HE_AGG_TEST_CASE=...` repeats it alone.
"""

from __future__ import annotations

import os
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
ENOUGH = 8
"""Answered cases of a kind in `make test`: a number and not a time, so that a slow machine tries the same ones."""


def survey(name, seed, numbers, enough=None):
    """Judge cases, as many as it takes for enough answers; return these, and why the others were refused."""
    outcomes: Counter[str] = Counter()
    for number in numbers:
        if outcomes["answered"] == enough:
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
    outcomes = survey(name, seed, numbers(20 * ENOUGH), ENOUGH)
    assert outcomes["answered"] == ENOUGH or "HE_AGG_TEST_CASE" in os.environ, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_thousands(name, capsys):
    seed = seed_of(name)
    models = regressions.CASES | cross_validations.CASES | survival_models.CASES
    most = 1_000 if name in models else -(-10_000 // len(CASES))
    outcomes = survey(name, seed, numbers(most))
    with capsys.disabled():
        print(f"\n{name}: {outcomes.total()} cases, seed {seed}, none wrong: {dict(outcomes)}")
