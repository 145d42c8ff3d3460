"""What all tests share: printed seeds, quick Hypothesis profiles, no leftovers between tests."""

from __future__ import annotations

import os
import secrets

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# A failure prints its own reproduction line; no deadline, since the first call of a kernel compiles it.
settings.register_profile(
    "default", deadline=None, print_blob=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("soak", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def rng(request):
    """A generator with a fresh seed, printed when the test fails. HE_AGG_TEST_SEED repeats one."""
    seed = int(os.environ.get("HE_AGG_TEST_SEED", secrets.randbits(64)))
    print(f"{request.node.nodeid}: HE_AGG_TEST_SEED={seed}")  # pytest shows it with a failure only
    return np.random.default_rng(seed)
