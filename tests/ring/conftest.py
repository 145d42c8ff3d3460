"""Fixtures of the ring's tests."""

from __future__ import annotations

import os
import secrets

import numpy as np
import pytest


@pytest.fixture
def rng(request):
    """A generator with a fresh seed, printed when the test fails. HE_AGG_TEST_SEED repeats one."""
    seed = int(os.environ.get("HE_AGG_TEST_SEED", secrets.randbits(64)))
    print(f"{request.node.nodeid}: HE_AGG_TEST_SEED={seed}")
    return np.random.default_rng(seed)
